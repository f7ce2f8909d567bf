//! CALLING THE APP: `PUT http://<pod address>:<port><path>`, empty body.
//!
//! Calls run independently of the reconciles: an app can acknowledge while our request is still
//! open. The result of a call goes to the reconcile, which writes it to the status; a call that is
//! lost by a restart is made again. Redirects are not followed. Only the status of an answer
//! counts; the rest is read up to a bound and dropped, so that an app that is still writing is not
//! cut off.

mod queue;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::reflector::ObjectRef;
use thiserror::Error;
use tokio::sync::mpsc;

use queue::Queue;

use crate::api::KrakeHook;
use crate::api::status::Attempt;
use crate::clock::SteadyClock;
use crate::decide::seen::{CallOutOrder, CallsMade};

/// How long a pod has to accept a connection; a pod on a dead node never does.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// How long an app has to answer. Saving its state may take longer; that is what the
/// acknowledgement is for.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Code of a call that was not made, because its order had waited for too long.
const NOT_SENT: &str = "NotSent";
/// So much of an answer is read, head and body each.
const MOST_BYTES: usize = 64 * 1024;
/// How long the rest of an answer may take, once its status is known.
const REST_WITHIN: Duration = Duration::from_secs(1);

/// Calls that were ordered and their results, by hook.
#[derive(Clone)]
pub struct Calls {
    known: Arc<Mutex<HashMap<String, Known>>>,
    orders: mpsc::UnboundedSender<Order>,
}

#[derive(Clone)]
struct Known {
    request: String,
    round: i64,
    made: CallsMade,
}

struct Order {
    hook: ObjectRef<KrakeHook>,
    hook_uid: String,
    order: CallOutOrder,
}

/// Makes the calls; ends when every [`Calls`] is dropped.
pub struct Caller {
    known: Arc<Mutex<HashMap<String, Known>>>,
    orders: mpsc::UnboundedReceiver<Order>,
    finished: mpsc::UnboundedSender<ObjectRef<KrakeHook>>,
    client: Client<HttpConnector, Empty<Bytes>>,
    clock: SteadyClock,
}

/// Both ends, and the stream of hooks whose call has ended. Deadlines count from the ends of calls,
/// so these use the same clock as deadlines.
pub fn channel(
    clock: SteadyClock,
) -> (Calls, Caller, mpsc::UnboundedReceiver<ObjectRef<KrakeHook>>) {
    let known = Arc::new(Mutex::new(HashMap::new()));
    let (orders, received) = mpsc::unbounded_channel();
    let (finished, hooks) = mpsc::unbounded_channel();
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_WITHIN));
    let client = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .http1_max_buf_size(MOST_BYTES)
        .build(connector);
    let calls = Calls {
        known: Arc::clone(&known),
        orders,
    };
    let caller = Caller {
        known,
        orders: received,
        finished,
        client,
        clock,
    };
    (calls, caller, hooks)
}

impl Calls {
    /// What this process knows of its calls for a request and round.
    pub fn made(&self, hook_uid: &str, request: &str, round: i64) -> CallsMade {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(hook_uid)
            .filter(|known| known.request == request && known.round == round)
            .map(|known| known.made.clone())
            .unwrap_or_default()
    }

    /// Orders a call.
    pub fn start(&self, hook: ObjectRef<KrakeHook>, hook_uid: &str, order: CallOutOrder) {
        begin(&self.known, hook_uid, &order);
        let order = Order {
            hook,
            hook_uid: hook_uid.to_owned(),
            order,
        };
        // Without a caller the process is ending, and the next one calls again.
        let _ = self.orders.send(order);
    }

    /// Forgets a hook that is gone.
    pub fn forget(&self, hook_uid: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(hook_uid);
    }
}

impl Caller {
    /// Makes calls until none can be ordered any more.
    pub async fn run(mut self) {
        let (mut waiting, mut open) = (Queue::new(), FuturesUnordered::new());
        loop {
            while let Some(order) = waiting.next() {
                open.push(call(self.client.clone(), self.clock.clone(), order));
            }
            let overdue = waiting.next_overdue();
            let (order, attempt) = tokio::select! {
                order = self.orders.recv() => match order {
                    Some(order) => {
                        waiting.push(order.namespace().to_owned(), order);
                        continue;
                    }
                    None => return,
                },
                Some((order, attempt)) = open.next() => {
                    waiting.end(order.namespace());
                    (order, attempt)
                }
                () = until(overdue) => match waiting.overdue() {
                    Some(order) => {
                        tracing::warn!(namespace = order.hook.namespace, hook = order.hook.name, pod = order.order.pod, "a call waited too long for the other calls of its namespace");
                        let attempt = order.attempt(NOT_SENT.to_owned(), &self.clock);
                        (order, attempt)
                    }
                    None => continue,
                },
            };
            end(&self.known, &order.hook_uid, &order.order, attempt);
            if self.finished.send(order.hook).is_err() {
                return;
            }
        }
    }
}

impl Order {
    fn namespace(&self) -> &str {
        self.hook.namespace.as_deref().unwrap_or_default()
    }

    /// The result of the call.
    fn attempt(&self, code: String, clock: &SteadyClock) -> Attempt {
        Attempt {
            at: Time(ceiling(clock.now())),
            pod: Some(self.order.pod.clone()),
            code,
        }
    }
}

async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Why there was no answer.
#[derive(Debug, Error)]
enum CallError {
    /// The path is not valid in HTTP; an earlier schema accepted it.
    #[error("not a request: {0}")]
    Request(#[from] hyper::http::Error),
    /// The way to the pod.
    #[error(transparent)]
    Client(#[from] hyper_util::client::legacy::Error),
}

impl CallError {
    fn code(&self) -> &'static str {
        match self {
            Self::Request(_) => "BadPath",
            Self::Client(error) if error.is_connect() => "ConnectFailed",
            Self::Client(_) => "NoAnswer",
        }
    }
}

fn begin(known: &Mutex<HashMap<String, Known>>, hook_uid: &str, order: &CallOutOrder) {
    let mut all = known.lock().unwrap_or_else(PoisonError::into_inner);
    let fresh = Known {
        request: order.request.clone(),
        round: order.round,
        made: CallsMade::default(),
    };
    let known = all.entry(hook_uid.to_owned());
    let known = known.or_insert_with(|| fresh.clone());
    if !known.is_of(order) {
        *known = fresh;
    }
    known.made.begin(&order.pod_uid);
}

/// The result of a call of an earlier request or round does not apply to this one.
fn end(
    known: &Mutex<HashMap<String, Known>>,
    hook_uid: &str,
    order: &CallOutOrder,
    attempt: Attempt,
) {
    let mut all = known.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = all.get_mut(hook_uid).filter(|known| known.is_of(order)) {
        known.made.end(&order.pod_uid, attempt);
    }
}

impl Known {
    fn is_of(&self, order: &CallOutOrder) -> bool {
        self.request == order.request && self.round == order.round
    }
}

async fn call(
    client: Client<HttpConnector, Empty<Bytes>>,
    clock: SteadyClock,
    order: Order,
) -> (Order, Attempt) {
    let code = match tokio::time::timeout(ANSWER_WITHIN, put(&client, &order)).await {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            tracing::debug!(namespace = order.hook.namespace, hook = order.hook.name, pod = order.order.pod, %error, "call failed");
            error.code().to_owned()
        }
        Err(_) => "Timeout".to_owned(),
    };
    tracing::info!(
        namespace = order.hook.namespace,
        hook = order.hook.name,
        request = order.order.request,
        pod = order.order.pod,
        code,
        "called the app"
    );
    let attempt = order.attempt(code, &clock);
    (order, attempt)
}

async fn put(
    client: &Client<HttpConnector, Empty<Bytes>>,
    order: &Order,
) -> Result<String, CallError> {
    let to = &order.order;
    let address = SocketAddr::new(to.address, to.port);
    let namespace = order.namespace();
    let request = Request::put(format!("http://{address}{}", to.path))
        .header("Krake-Hook", format!("{namespace}/{}", order.hook.name))
        .header("Krake-Request-Id", &to.request)
        .header("Krake-Deadline", to.deadline.to_string())
        .header("Content-Length", "0")
        .header(
            "User-Agent",
            concat!("krake-hooks/", env!("CARGO_PKG_VERSION")),
        )
        .body(Empty::new())?;
    let response = client.request(request).await?;
    let code = response.status().as_u16().to_string();
    let rest = Limited::new(response.into_body(), MOST_BYTES).collect();
    // Whatever becomes of it: the app has answered.
    drop(tokio::time::timeout(REST_WITHIN, rest).await);
    Ok(code)
}

/// The next whole second: nothing stored makes the app's time shorter.
fn ceiling(at: Timestamp) -> Timestamp {
    let rest = i64::from(at.subsec_nanosecond());
    if rest == 0 {
        return at;
    }
    at + SignedDuration::from_nanos(1_000_000_000 - rest)
}

#[cfg(test)]
#[path = "callout_tests.rs"]
mod tests;
