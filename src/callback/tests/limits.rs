//! What a client can use up: time, bytes, connections.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

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

#[tokio::test]
async fn beyond_the_limit_connections_wait() {
    let limits = Limits {
        connections: 1,
        ..Limits::default()
    };
    let served = Served::start(false, limits, "").await;
    let first = TcpStream::connect(served.address).await.unwrap();
    testing::eventually("it is accepted", || served.metrics.connections().get() == 1).await;
    let (address, body) = (served.address, served.body());
    let second =
        tokio::spawn(async move { testing::plain(address, Method::PUT, SHUTDOWN, &body).await });
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    assert!(!second.is_finished());
    assert!(served.api.calls().is_empty());
    drop(first);
    assert_eq!(second.await.unwrap().0, 200);
    served.stop().await;
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
