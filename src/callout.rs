//! CALLING THE APP: `PUT http://<pod address>:<port><path>`, empty body.
//!
//! Calls run beside the reconciles: an app may acknowledge while our request is still open. What a
//! call came to is told to the reconcile, which writes it into the status; a call that a restart
//! loses is made again. Redirects are not followed, and of an answer only the status line is read.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http_body_util::Empty;
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

use crate::api::KrakeHook;
use crate::api::status::Attempt;
use crate::decide::seen::{Call, CallOutOrder};

/// How long a pod has to accept a connection; a pod on a dead node never does.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// How long an app has to answer; saving its state may take longer, acknowledging is for that.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Calls that may be open at once.
const AT_ONCE: usize = 256;

/// Calls that were ordered and what they came to, by hook.
#[derive(Clone)]
pub struct Calls {
    known: Arc<Mutex<HashMap<String, Known>>>,
    orders: mpsc::UnboundedSender<Order>,
}

struct Known {
    request: String,
    round: i64,
    call: Call,
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
}

/// The two ends, and the stream of hooks whose call has finished.
pub fn channel() -> (Calls, Caller, mpsc::UnboundedReceiver<ObjectRef<KrakeHook>>) {
    let known = Arc::new(Mutex::new(HashMap::new()));
    let (orders, received) = mpsc::unbounded_channel();
    let (finished, hooks) = mpsc::unbounded_channel();
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_WITHIN));
    let client = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
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
    };
    (calls, caller, hooks)
}

impl Calls {
    /// What this process knows of its calls for a request and round.
    pub fn state(&self, hook_uid: &str, request: &str, round: i64) -> Call {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(hook_uid)
            .filter(|known| known.request == request && known.round == round)
            .map_or(Call::None, |known| known.call.clone())
    }

    /// Orders a call.
    pub fn start(&self, hook: ObjectRef<KrakeHook>, hook_uid: &str, order: CallOutOrder) {
        set(&self.known, hook_uid, &order, Call::Open);
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
    /// Makes calls until nobody can order any more.
    pub async fn run(mut self) {
        let mut open = FuturesUnordered::new();
        loop {
            tokio::select! {
                order = self.orders.recv(), if open.len() < AT_ONCE => match order {
                    Some(order) => open.push(call(self.client.clone(), order)),
                    None => return,
                },
                Some((order, attempt)) = open.next() => {
                    set(&self.known, &order.hook_uid, &order.order, Call::Finished(attempt));
                    if self.finished.send(order.hook).is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// Why there was no answer.
#[derive(Debug, Error)]
enum CallError {
    /// The path is none that HTTP knows; an earlier schema let it pass.
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

fn set(known: &Mutex<HashMap<String, Known>>, hook_uid: &str, order: &CallOutOrder, call: Call) {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    // A call of an earlier round that ends late says nothing about this one.
    if known
        .get(hook_uid)
        .is_some_and(|known| known.request == order.request && known.round > order.round)
    {
        return;
    }
    known.insert(
        hook_uid.to_owned(),
        Known {
            request: order.request.clone(),
            round: order.round,
            call,
        },
    );
}

async fn call(client: Client<HttpConnector, Empty<Bytes>>, order: Order) -> (Order, Attempt) {
    let code = match tokio::time::timeout(ANSWER_WITHIN, put(&client, &order)).await {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            tracing::debug!(hook = %order.hook, pod = order.order.pod, %error, "call failed");
            error.code().to_owned()
        }
        Err(_) => "Timeout".to_owned(),
    };
    tracing::info!(hook = %order.hook, request = order.order.request, pod = order.order.pod, code, "called the app");
    let attempt = Attempt {
        at: Time(ceiling(Timestamp::now())),
        pod: Some(order.order.pod.clone()),
        code,
    };
    (order, attempt)
}

async fn put(
    client: &Client<HttpConnector, Empty<Bytes>>,
    order: &Order,
) -> Result<String, CallError> {
    let to = &order.order;
    let address = SocketAddr::new(to.address, to.port);
    let namespace = order.hook.namespace.as_deref().unwrap_or_default();
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
    Ok(response.status().as_u16().to_string())
}

/// The next whole second: nothing stored makes the app's time shorter.
fn ceiling(at: Timestamp) -> Timestamp {
    let rest = i64::from(at.subsec_nanosecond());
    if rest == 0 {
        return at;
    }
    at + SignedDuration::from_nanos(1_000_000_000 - rest)
}
