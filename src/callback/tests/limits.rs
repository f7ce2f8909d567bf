//! What a client can use up: time, bytes, connections.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use super::*;
use crate::callback::Share;

/// Sends bytes and reads until the server ends the connection.
async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let ended = tokio::time::timeout(testing::SOON, read).await;
    assert!(ended.is_ok(), "the server does not end the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

fn head(length: usize) -> String {
    format!(
        "PUT {SHUTDOWN} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    )
}

#[tokio::test]
async fn a_body_that_is_too_large_is_413() {
    let served = Served::plain().await;
    for size in [8 * 1024 + 1, 100_000] {
        let request = head(size) + &" ".repeat(size);
        let answer = raw(served.address, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{size}: {answer}");
        assert!(answer.contains("TooLarge"), "{answer}");
    }
    assert!(served.api.calls().is_empty());
    served.stop().await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_431() {
    let served = Served::plain().await;
    let request = format!(
        "PUT {SHUTDOWN} HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n",
        "x".repeat(20_000)
    );
    let answer = raw(served.address, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    served.stop().await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_408() {
    let limits = Limits {
        body: Duration::from_millis(50),
        ..Limits::default()
    };
    let served = Served::start(false, limits, "").await;
    let answer = raw(served.address, (head(10) + "{").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    served.stop().await;
}

#[tokio::test]
async fn heads_handshakes_and_idle_connections_have_their_time() {
    let short = Duration::from_millis(50);
    let limits = Limits {
        head: short,
        handshake: short,
        idle: short,
        ..Limits::default()
    };
    for tls in [true, false] {
        let served = Served::start(tls, limits, "").await;
        for begun in ["", "PUT /", "PUT / HTTP/1.1\r\nx: y\r\n"] {
            // With TLS these are no handshake, which is as good as a slow one.
            let answer = raw(served.address, begun.as_bytes()).await;
            assert!(!answer.contains(" 200 "), "{answer}");
        }
        served.stop().await;
    }
}

#[tokio::test]
async fn a_connection_ends_at_its_age() {
    let limits = Limits {
        age: Duration::from_millis(50),
        ..Limits::default()
    };
    let served = Served::start(false, limits, "").await;
    let answer = raw(served.address, b"").await;
    assert_eq!(answer, "");
    served.stop().await;
}

/// Few places, and much time.
fn crowded() -> Limits {
    Limits::default().of(Share {
        total: 8,
        per_source: 8,
    })
}

/// A connection from one of the loopback's addresses.
async fn from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// Many connections that say nothing, of which a few are left.
async fn flood(served: &Served) -> Vec<TcpStream> {
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(from([127, 0, 0, 1], served.address).await);
    }
    testing::eventually("most have given way", || displaced(served) >= 92).await;
    silent
}

fn displaced(served: &Served) -> usize {
    let text = served.metrics.text();
    let line = text.lines().find(|line| line.contains(r#""Displaced""#));
    let count = line.and_then(|line| line.rsplit(' ').next());
    count.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn a_flood_of_silent_connections_keeps_no_other_source_out() {
    let served = Served::start(false, crowded(), "").await;
    let silent = flood(&served).await;
    let stream = from([127, 0, 0, 2], served.address).await;
    let answer = put_over(stream, &served.body()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    drop(silent);
    served.stop().await;
}

#[tokio::test]
async fn a_flood_of_half_handshakes_keeps_no_client_out() {
    let served = Served::start(true, crowded(), "").await;
    let issued = client_certificate(
        &served.authority,
        "trainer",
        testing::HOOK_UID,
        Timestamp::now(),
    );
    let client = client(
        &served.authority,
        Some(&issued),
        tls::HTTP1,
        rustls::ALL_VERSIONS,
    );
    // Whoever is in stays, though it comes from where the flood comes from.
    let stream = connect(served.address, &client).await.unwrap();
    let mut before = Sender::over(stream).await.unwrap();
    assert_eq!(before.put(SHUTDOWN, &served.body()).await.unwrap().0, 200);
    let silent = flood(&served).await;
    let stream = from([127, 0, 0, 2], served.address).await;
    let name = ServerName::try_from("localhost").unwrap();
    let stream = client.connect(name, stream).await.unwrap();
    let mut sender = Sender::over(stream).await.unwrap();
    assert_eq!(sender.put(SHUTDOWN, &served.body()).await.unwrap().0, 200);
    assert_eq!(before.put(SHUTDOWN, &served.body()).await.unwrap().0, 200);
    drop(silent);
    served.stop().await;
}

#[tokio::test]
async fn a_connection_without_a_whole_request_ends_in_time_whatever_it_has_sent() {
    let limits = Limits {
        head: Duration::from_millis(50),
        ..Limits::default()
    };
    let served = Served::start(false, limits, "").await;
    // The last two are how HTTP/2 begins.
    for begun in [
        "",
        "P",
        "PUT / HT",
        "PRI * HT",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let answer = raw(served.address, begun.as_bytes()).await;
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    served.stop().await;
}

#[tokio::test]
async fn more_requests_of_one_source_than_it_may_have_are_503() {
    let limits = Limits {
        requests: Share {
            total: 8,
            per_source: 1,
        },
        ..Limits::default()
    };
    let served = Served::start(false, limits, "").await;
    let mut slow = from([127, 0, 0, 1], served.address).await;
    slow.write_all((head(10) + "{").as_bytes()).await.unwrap();
    let (address, body) = (served.address, served.body());
    let put = || testing::plain(address, Method::PUT, SHUTDOWN, &body);
    let mut last = put().await;
    // Until the slow one is under way there is room.
    while last.0 == 200 {
        last = put().await;
    }
    assert_eq!(
        last,
        (
            503,
            r#"{"acknowledged":false,"reason":"Unavailable"}"#.into()
        )
    );
    let other = from([127, 0, 0, 2], served.address).await;
    let answer = put_over(other, &body).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    drop(slow);
    served.stop().await;
}

async fn put_over(mut stream: TcpStream, body: &str) -> String {
    let request = head(body.len()) + body;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    let ended = tokio::time::timeout(testing::SOON, read).await;
    assert!(ended.is_ok_and(|read| read.is_ok()), "no answer");
    answer
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let taken = Listener::bind(([127, 0, 0, 1], 0).into(), Limits::default())
        .await
        .unwrap();
    let error = Listener::bind(taken.address(), Limits::default())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains(&taken.address().to_string()), "{error}");
    assert!(!error.contains('\n'), "{error}");
}
