//! Watches: a line is an event. Lines are passed on one by one, except where the plan says what
//! becomes of them.

use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep_until};

use super::plan::Fault;
use super::{Body, Broken, Reset, frames, narrow};

/// So much a reader may be behind.
const AHEAD: usize = 64;

/// A watch that is over before it has begun.
pub(super) fn gone() -> Response<Body> {
    Response::builder()
        .status(StatusCode::OK)
        .header(CONTENT_TYPE, "application/json")
        .body(super::whole(expired()))
        .expect("a response of known parts")
}

/// An open watch, and what becomes of it.
pub(super) struct Watch {
    /// Its kind of call.
    pub kind: String,
    /// The one namespace whose objects are passed on, where that has to be looked at.
    pub own: Option<String>,
    /// What the plan says.
    pub fault: Option<Fault>,
    /// To reset the connection.
    pub socket: Arc<Reset>,
    /// Kinds of watches that end now.
    pub ends: broadcast::Receiver<String>,
}

type Events = mpsc::Sender<Result<Bytes, Broken>>;

impl Watch {
    /// The rest of it, event by event.
    pub(super) fn pass(self, body: Incoming) -> Body {
        let (sender, receiver) = mpsc::channel(AHEAD);
        tokio::spawn(self.forward(body, sender));
        let events = futures::stream::unfold(receiver, |mut receiver| async {
            let event: Result<Bytes, Broken> = receiver.recv().await?;
            Some((event.map(Frame::data), receiver))
        });
        StreamBody::new(events).boxed_unsync()
    }

    async fn forward(mut self, body: Incoming, sender: Events) {
        let began = Instant::now();
        if let Some(Fault::HalfOpen(time)) = self.fault {
            // Nothing is read any more, nothing said, and nobody told.
            tokio::select! {
                () = sleep_until(began + time) => {}
                () = sender.closed() => return,
            }
            self.socket.arm();
            let _ = sender.send(Err(Broken::by("half-open, then reset"))).await;
            return;
        }
        let mut lines = pin!(lines(body));
        let mut swallowed = None;
        loop {
            let line = tokio::select! {
                line = lines.next() => line,
                () = sender.closed() => return,
                () = ended(&mut self.ends, &self.kind) => return,
                // The operator can know of what it has missed only by looking anew.
                () = sleep_until(swallowed.unwrap_or(began)), if swallowed.is_some() => {
                    let _ = sender.send(Ok(expired())).await;
                    return;
                }
            };
            let line = match line {
                Some(Ok(line)) => line,
                Some(Err(error)) => {
                    let _ = sender.send(Err(error)).await;
                    return;
                }
                None => return,
            };
            let own = self.own.as_deref();
            if own.is_some_and(|namespace| !narrow::is_own_event(&line, namespace)) {
                continue;
            }
            match self.fault {
                Some(Fault::Hold(time)) => sleep_until(began + time).await,
                Some(Fault::DropEvent(time)) if swallowed.is_none() && is_news(&line) => {
                    swallowed = Some(Instant::now() + time);
                    continue;
                }
                _ => {}
            }
            if sender.send(Ok(line)).await.is_err() {
                return;
            }
        }
    }
}

/// Until watches of this kind are to end.
async fn ended(ends: &mut broadcast::Receiver<String>, kind: &str) {
    loop {
        match ends.recv().await {
            Ok(ended) if ended == kind => return,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            // Without the proxy there is nobody to say so.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// Lines, each with its end.
fn lines(body: Incoming) -> impl futures::Stream<Item = Result<Bytes, Broken>> {
    let state = (frames(body).boxed(), Vec::new());
    futures::stream::unfold(state, |(mut chunks, mut kept)| async move {
        loop {
            if let Some(end) = kept.iter().position(|byte| *byte == b'\n') {
                let rest = kept.split_off(end + 1);
                return Some((Ok(Bytes::from(kept)), (chunks, rest)));
            }
            match chunks.next().await? {
                Ok(chunk) => kept.extend_from_slice(&chunk),
                Err(error) => return Some((Err(error), (chunks, kept))),
            }
        }
    })
}

fn is_news(line: &[u8]) -> bool {
    let event: Value = serde_json::from_slice(line).unwrap_or_default();
    event["type"] != "BOOKMARK"
}

fn expired() -> Bytes {
    let event = json!({"type": "ERROR", "object": {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "too old resource version: a fault of the proxy",
        "reason": "Expired",
        "code": 410,
    }});
    let mut line = event.to_string();
    line.push('\n');
    Bytes::from(line)
}
