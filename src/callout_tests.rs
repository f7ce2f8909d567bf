//! Calls to apps at real sockets.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::testing::clock::Machine;
use crate::testing::{SOON, eventually};

fn clock() -> SteadyClock {
    SteadyClock::begin(&Machine::default().clocks())
}

/// What an app got, and how much of its answer was taken.
struct Heard {
    requests: Vec<String>,
    written: usize,
}

/// An app that gives the same answer, piece by piece, to everyone.
async fn app(answer: Vec<Vec<u8>>) -> (SocketAddr, Arc<Mutex<Heard>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::new(Mutex::new(Heard {
        requests: Vec::new(),
        written: 0,
    }));
    let shared = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap_or(0);
            let text = String::from_utf8_lossy(&request[..length]).into_owned();
            shared.lock().unwrap().requests.push(text);
            for piece in &answer {
                if stream.write_all(piece).await.is_err() {
                    break;
                }
                shared.lock().unwrap().written += piece.len();
            }
        }
    });
    (address, heard)
}

fn order(to: SocketAddr, request: &str, round: i64) -> CallOutOrder {
    CallOutOrder {
        request: request.into(),
        round,
        pod: "trainer-1".into(),
        pod_uid: "uid-1".into(),
        address: to.ip(),
        port: to.port(),
        path: "/shutdown".into(),
        deadline: Timestamp::from_second(1_800_000_000).unwrap(),
    }
}

async fn called(to: SocketAddr) -> CallsMade {
    let (calls, caller, mut finished) = channel(clock());
    let running = tokio::spawn(caller.run());
    let hook = ObjectRef::new("trainer").within("ml");
    calls.start(hook, "hook", order(to, "r1", 1));
    assert_eq!(calls.made("hook", "r1", 1).open(), 1);
    let end = tokio::time::timeout(SOON, finished.recv()).await;
    assert!(end.is_ok_and(|hook| hook.is_some()), "the call ends");
    let made = calls.made("hook", "r1", 1);
    drop(calls);
    running.await.unwrap();
    made
}

fn code(made: &CallsMade) -> String {
    made.ends().next().unwrap().code.clone()
}

#[tokio::test]
async fn the_app_is_told_which_request_which_hook_and_until_when() {
    let answer = b"HTTP/1.1 204 No Content\r\n\r\n".to_vec();
    let (address, heard) = app(vec![answer]).await;
    let made = called(address).await;
    assert_eq!(
        (code(&made).as_str(), made.ended(), made.open()),
        ("204", 1, 0)
    );
    let heard = heard.lock().unwrap();
    let request = heard.requests[0].to_lowercase();
    assert!(
        request.starts_with("put /shutdown http/1.1\r\n"),
        "{request}"
    );
    for header in [
        "krake-hook: ml/trainer\r\n",
        "krake-request-id: r1\r\n",
        "krake-deadline: 2027-01-15t08:00:00z\r\n",
        "content-length: 0\r\n",
    ] {
        assert!(request.contains(header), "{header} not in {request}");
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_not_followed() {
    let (elsewhere, other) = app(vec![b"HTTP/1.1 200 OK\r\n\r\n".to_vec()]).await;
    let answer = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{elsewhere}/\r\nContent-Length: 0\r\n\r\n"
    );
    let (address, heard) = app(vec![answer.into_bytes()]).await;
    assert_eq!(code(&called(address).await), "307");
    assert_eq!(heard.lock().unwrap().requests.len(), 1);
    assert!(other.lock().unwrap().requests.is_empty());
}

#[tokio::test]
async fn an_answer_is_read_up_to_a_bound() {
    let head = b"HTTP/1.1 202 Accepted\r\nContent-Length: 1073741824\r\n\r\n".to_vec();
    let mut answer = vec![head];
    answer.extend(std::iter::repeat_n(vec![b'x'; 1 << 20], 1024));
    let (address, heard) = app(answer).await;
    assert_eq!(code(&called(address).await), "202");
    // What the kernel's buffers take has not been read.
    let written = heard.lock().unwrap().written;
    assert!(written < 8 << 20, "{written}");
}

#[tokio::test]
async fn a_head_beyond_the_bound_is_no_answer() {
    // Not more than the client would take by itself, so that it is our bound which is met.
    for (length, expected) in [(MOST_BYTES / 2, "200"), (2 * MOST_BYTES, "NoAnswer")] {
        let filler = "y".repeat(length);
        let head = format!("HTTP/1.1 200 OK\r\nx-filler: {filler}\r\nContent-Length: 0\r\n\r\n");
        let (address, _) = app(vec![head.into_bytes()]).await;
        assert_eq!(code(&called(address).await), expected, "{length}");
    }
}

#[tokio::test]
async fn an_app_that_is_still_writing_is_not_cut_off() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n".to_vec();
    let (address, heard) = app(vec![head.clone(), vec![b'x'; 30_000]]).await;
    assert_eq!(code(&called(address).await), "200");
    eventually("all is written", || {
        heard.lock().unwrap().written == head.len() + 30_000
    })
    .await;
}

#[tokio::test]
async fn nobody_there_is_said() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    assert_eq!(code(&called(address).await), "ConnectFailed");
}

#[test]
fn a_late_end_of_an_earlier_round_or_request_says_nothing() {
    let known: Mutex<HashMap<String, Known>> = Mutex::new(HashMap::new());
    let to = SocketAddr::from(([127, 0, 0, 1], 1));
    let attempt = Attempt {
        at: Time(Timestamp::UNIX_EPOCH),
        pod: None,
        code: "200".into(),
    };
    let made = || known.lock().unwrap()["hook"].made.clone();
    begin(&known, "hook", &order(to, "r1", 1));
    begin(&known, "hook", &order(to, "r1", 2));
    end(&known, "hook", &order(to, "r1", 1), attempt.clone());
    assert_eq!((made().open(), made().ended()), (1, 0));
    begin(&known, "hook", &order(to, "r2", 1));
    end(&known, "hook", &order(to, "r1", 2), attempt.clone());
    assert_eq!((made().open(), made().ended()), (1, 0));
    end(&known, "hook", &order(to, "r2", 1), attempt.clone());
    assert_eq!((made().open(), made().ended()), (0, 1));
    // A hook that is forgotten is not remembered by a call that ends late.
    known.lock().unwrap().clear();
    end(&known, "hook", &order(to, "r2", 1), attempt);
    assert!(known.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_namespace_that_never_answers_delays_nobody_elses_first_call() {
    let deaf = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (address, heard) = app(vec![b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()]).await;
    let (calls, caller, mut finished) = channel(clock());
    let running = tokio::spawn(caller.run());
    for number in 0..5000 {
        let hook = ObjectRef::new(&format!("deaf-{number}")).within("hostile");
        let order = order(deaf.local_addr().unwrap(), "r1", 1);
        calls.start(hook, &format!("uid-{number}"), order);
    }
    let trainer = ObjectRef::new("trainer").within("ml");
    calls.start(trainer.clone(), "hook", order(address, "r1", 1));
    let first = tokio::time::timeout(SOON, finished.recv()).await;
    assert_eq!(first.ok().flatten(), Some(trainer));
    assert_eq!(heard.lock().unwrap().requests.len(), 1);
    assert_eq!(code(&calls.made("hook", "r1", 1)), "204");
    drop(calls);
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_order_that_waits_for_too_long_is_an_attempt_that_was_not_made() {
    let deaf = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (calls, caller, mut finished) = channel(clock());
    tokio::spawn(caller.run());
    for number in 0..1000 {
        let hook = ObjectRef::new(&number.to_string()).within("ml");
        let order = order(deaf.local_addr().unwrap(), "r1", 1);
        calls.start(hook, &number.to_string(), order);
    }
    let begun = tokio::time::Instant::now();
    for _ in 0..1000 {
        finished.recv().await.unwrap();
    }
    assert!(begun.elapsed() <= queue::WAIT_WITHIN + ANSWER_WITHIN);
    let last = calls.made("999", "r1", 1);
    assert_eq!((code(&last).as_str(), last.open()), (NOT_SENT, 0));
}
