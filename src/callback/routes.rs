//! The one route: from a request to an answer.
//!
//! `PUT {prefix}/kubernetes/namespaces/{ns}/applications/{hook}/{complete|shutdown}[/{pod uid}]`
//!
//! | status | `reason` | when |
//! |---|---|---|
//! | 200 | | it is written, or stands there already |
//! | 400 | `BadRequest` | the body is not what it should be; `field` says where |
//! | 401 | `Unauthorized` | token, certificate, hook and kind do not go together; which of them is not said |
//! | 404, 405 | `NotFound`, `MethodNotAllowed` | another path or method |
//! | 408, 413 | `RequestTimeout`, `TooLarge` | the body is too slow or too large |
//! | 409 | `NotAsked`, `Late`, `AlreadyAcknowledged`, `Anonymous`, `ForeignPod` | it does not count |
//! | 503 | `Full`, `TooOften`, `Unavailable` | it could not be written: again, after `Retry-After` |

use std::sync::Arc;

use futures::Stream;
use hyper::body::Buf;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, Response, StatusCode};
use jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::time::Instant;
use warp::Filter;
use warp::filters::BoxedFilter;

use super::body::{self, BodyFault, Said};
use super::commit::{Outcome, Sight};
use super::identity::{Addressed, Peer};
use super::listener::Crowded;
use super::user_certificates::Standing;
use super::{Endpoint, Refusal, Refused};
use crate::api::status::AckResult;
use crate::api::{HookKind, KrakeHook};
use crate::cluster::acknowledge::AcknowledgeError;
use crate::decide::ack::Incoming;
use crate::metrics::{AcknowledgementOutcome, LookupReason};

/// Used as the uid of what does not exist, so that a refusal takes as long as a verification.
const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

/// The answer to a request.
pub type Answer = Response<String>;

/// What the token was verified for.
#[derive(Debug)]
struct Granted {
    sight: Sight,
    hook_uid: String,
    workload_uid: String,
}

/// Why a caller is refused.
#[derive(Debug)]
enum Denied {
    Unauthorized,
    /// Everything matches except the token, or the kind. An Event reports that; the caller gets the
    /// same answer as any other.
    Mistaken(Refusal),
    Unavailable,
}

/// The filter that answers everything.
pub fn filter(endpoint: Arc<Endpoint>) -> BoxedFilter<(Answer,)> {
    warp::method()
        .and(warp::path::full())
        .and(warp::ext::optional::<Peer>())
        .and(warp::ext::optional::<Crowded>())
        .and(warp::body::stream())
        .then(
            move |method, path: warp::path::FullPath, peer, crowded: Option<Crowded>, body| {
                let endpoint = endpoint.clone();
                async move {
                    match crowded {
                        Some(Crowded) => again("Unavailable"),
                        None => answer(&endpoint, method, path.as_str(), peer, body).await,
                    }
                }
            },
        )
        .boxed()
}

async fn answer<B: Buf>(
    endpoint: &Endpoint,
    method: Method,
    path: &str,
    peer: Option<Peer>,
    body: impl Stream<Item = Result<B, warp::Error>>,
) -> Answer {
    let arrived = Instant::now();
    let Some(addressed) = Addressed::from_path(path, &endpoint.path_prefix) else {
        body::drain(body, endpoint.body_within).await;
        return refuse(StatusCode::NOT_FOUND, "NotFound");
    };
    if method != Method::PUT {
        body::drain(body, endpoint.body_within).await;
        let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed");
        let allow = HeaderValue::from_static("PUT");
        answer.headers_mut().insert(ALLOW, allow);
        return answer;
    }
    let said = match body::read(body, endpoint.body_within).await {
        Ok(said) => said,
        Err(BodyFault::TooLarge) => return refuse(StatusCode::PAYLOAD_TOO_LARGE, "TooLarge"),
        Err(BodyFault::TooSlow) => return refuse(StatusCode::REQUEST_TIMEOUT, "RequestTimeout"),
        Err(BodyFault::Malformed { field, problem }) => {
            let body = json!({
                "acknowledged": false, "reason": "BadRequest", "field": field, "message": problem,
            });
            return json_answer(StatusCode::BAD_REQUEST, &body);
        }
    };
    let granted = endpoint
        .admit(&addressed, peer.as_ref(), &said.token, arrived)
        .await;
    let (result, message) = (said.result, said.message.clone());
    let (outcome, mistake) = match granted {
        Ok(granted) => (endpoint.commit(&addressed, peer, said, granted).await, None),
        Err(Denied::Unauthorized) => (Outcome::Superseded, None),
        Err(Denied::Mistaken(mistake)) => (Outcome::Superseded, Some(mistake)),
        Err(Denied::Unavailable) => (Outcome::Unavailable, None),
    };
    endpoint.tell(&addressed, message, &outcome, mistake);
    answer_to(addressed.kind, result, outcome)
}

impl Endpoint {
    /// Admits a caller whose certificate, hook and token match.
    async fn admit(
        &self,
        addressed: &Addressed,
        peer: Option<&Peer>,
        token: &SecretString,
        arrived: Instant,
    ) -> Result<(Granted, Instant), Denied> {
        let granted = self.admit_by_token(addressed, peer, token, arrived).await?;
        let Some(own) = peer.and_then(Peer::own_certificate) else {
            return Ok(granted);
        };
        let namespace = &addressed.hook.namespace;
        match self.user_certificates.standing(namespace, own).await {
            Standing::Stands => Ok(granted),
            Standing::Gone => Err(Denied::Unauthorized),
            Standing::Unknown => Err(Denied::Unavailable),
        }
    }

    /// Decides from the cache, and else from the server, because the cache may be behind a hook or
    /// workload that was just created.
    async fn admit_by_token(
        &self,
        addressed: &Addressed,
        peer: Option<&Peer>,
        token: &SecretString,
        arrived: Instant,
    ) -> Result<(Granted, Instant), Denied> {
        let peer_fits = match peer {
            Some(peer) => peer.is_named(&addressed.hook),
            None => !self.certificates_required,
        };
        if !peer_fits {
            return Err(Denied::Unauthorized);
        }
        let hook = &addressed.hook;
        let reference = ObjectRef::new(&hook.name).within(&hook.namespace);
        let cached = self.hooks.get(&reference);
        if let Some(uids) = self.verify(addressed.kind, peer, token, cached.as_deref()) {
            // `verify` needs a hook; without one there are no uids.
            let seen = cached.ok_or(Denied::Unauthorized)?;
            let sight = Sight {
                hook: seen,
                asked: None,
            };
            return Ok((Granted::new(sight, uids), arrived));
        }
        // Without a certificate anybody may claim any namespace: those that are not known are one.
        let is_known = peer.is_some() || cached.is_some();
        let namespace = if is_known {
            hook.namespace.as_str()
        } else {
            ""
        };
        if !self.committer.may_look(namespace) {
            self.metrics.looked_up(LookupReason::Limited);
            return Err(Denied::Unavailable);
        }
        let sight = match self.committer.look(hook, LookupReason::Credentials).await {
            Ok(sight) => Some(sight),
            Err(AcknowledgeError::Gone { .. }) => None,
            Err(error) => {
                tracing::warn!(%error, "could not verify a caller; answering 503");
                return Err(Denied::Unavailable);
            }
        };
        let live = sight.as_ref().map(|sight| &*sight.hook);
        let uids = self.verify(addressed.kind, peer, token, live);
        match (sight, uids) {
            (Some(sight), Some(uids)) => Ok((Granted::new(sight, uids), arrived)),
            // This replica has not read the key yet; it may have been cut off.
            (Some(sight), None) if self.lacks_key(&sight.hook) => Err(Denied::Unavailable),
            (Some(sight), None) => Err(denied(addressed.kind, peer, &sight.hook)),
            (None, _) => Err(Denied::Unauthorized),
        }
    }

    /// Uids of hook and workload, if everything matches. The token is verified once in any case, so
    /// that the time does not reveal what was missing or wrong.
    fn verify(
        &self,
        kind: HookKind,
        peer: Option<&Peer>,
        token: &SecretString,
        hook: Option<&KrakeHook>,
    ) -> Option<(String, String)> {
        let enabled =
            hook.filter(|hook| hook.spec.enables(kind) && peer.is_none_or(|peer| peer.is(hook)));
        let uids = enabled.and_then(|hook| {
            let workload = hook.status.as_ref()?.workload.as_ref()?;
            Some((hook.metadata.uid.as_deref()?, workload.uid.as_str()))
        });
        let (hook_uid, workload_uid) = uids.unwrap_or((NOBODY, NOBODY));
        let fits = self
            .ring
            .load()
            .verify(token.expose_secret(), hook_uid, workload_uid);
        let (hook_uid, workload_uid) = uids?;
        fits.then(|| (hook_uid.to_owned(), workload_uid.to_owned()))
    }

    /// Whether the hook's token is made with a master key that is not known here.
    fn lacks_key(&self, hook: &KrakeHook) -> bool {
        let token = hook
            .status
            .as_ref()
            .and_then(|status| status.token.as_ref());
        let derived_for = token.and_then(|token| token.derived_for.as_deref());
        let key = derived_for.and_then(|derived_for| derived_for.split_once('.'));
        key.is_some_and(|(key, _)| !self.ring.load().has(key))
    }

    async fn commit(
        &self,
        addressed: &Addressed,
        peer: Option<Peer>,
        said: Said,
        (granted, arrived): (Granted, Instant),
    ) -> Outcome {
        let incoming = Incoming {
            kind: addressed.kind,
            hook_uid: granted.hook_uid,
            workload_uid: granted.workload_uid,
            pod: addressed.pod.clone(),
            result: said.result,
            message: said.message,
            certificate: peer.map(|peer| peer.serial().to_owned()),
            at: Timestamp::now(),
        };
        self.committer
            .acknowledge(&addressed.hook, granted.sight, incoming, arrived)
            .await
    }

    /// Log, metric, and the Event that the controller writes on the hook.
    fn tell(
        &self,
        addressed: &Addressed,
        message: Option<String>,
        outcome: &Outcome,
        mistake: Option<Refusal>,
    ) {
        let word = counted_as(outcome);
        self.metrics.acknowledged(addressed.kind, word);
        let Addressed { hook, kind, pod } = addressed;
        tracing::info!(
            namespace = hook.namespace,
            hook = hook.name,
            %kind,
            pod = pod.as_deref(),
            outcome = ?word,
            "acknowledgement"
        );
        let reason = match outcome {
            Outcome::NotAsked => Refusal::NotAsked,
            Outcome::Late => Refusal::Late,
            Outcome::Anonymous => Refusal::Anonymous,
            Outcome::AlreadyAcknowledged => Refusal::AlreadyAcknowledged,
            Outcome::ForeignPod => Refusal::ForeignPod,
            Outcome::Replayed { .. } => Refusal::Repeated,
            Outcome::Written {
                result: AckResult::Failure,
                ..
            } => Refusal::Failure,
            _ => match mistake {
                Some(mistake) => mistake,
                None => return,
            },
        };
        let refused = Refused {
            hook: hook.clone(),
            kind: *kind,
            reason,
            pod: pod.clone(),
            message,
        };
        // An Event more or less: the log and the metric have it.
        if self.events.try_send(refused).is_err() {
            tracing::debug!("an acknowledgement that changes nothing gets no Event");
        }
    }
}

/// Why an existing hook refuses a caller.
fn denied(kind: HookKind, peer: Option<&Peer>, hook: &KrakeHook) -> Denied {
    match (
        peer.is_none_or(|peer| peer.is(hook)),
        hook.spec.enables(kind),
    ) {
        (false, _) => Denied::Unauthorized,
        (true, false) => Denied::Mistaken(Refusal::NotEnabled),
        (true, true) => Denied::Mistaken(Refusal::WrongToken),
    }
}

impl Granted {
    fn new(sight: Sight, (hook_uid, workload_uid): (String, String)) -> Self {
        Self {
            sight,
            hook_uid,
            workload_uid,
        }
    }
}

fn counted_as(outcome: &Outcome) -> AcknowledgementOutcome {
    match outcome {
        Outcome::Written {
            result: AckResult::Failure,
            ..
        } => AcknowledgementOutcome::Failure,
        Outcome::Written { .. } => AcknowledgementOutcome::Accepted,
        Outcome::Replayed { .. } => AcknowledgementOutcome::Replayed,
        Outcome::NotAsked => AcknowledgementOutcome::NotAsked,
        Outcome::Late => AcknowledgementOutcome::Late,
        Outcome::Anonymous => AcknowledgementOutcome::Anonymous,
        Outcome::AlreadyAcknowledged => AcknowledgementOutcome::AlreadyAcknowledged,
        Outcome::ForeignPod => AcknowledgementOutcome::ForeignPod,
        Outcome::Superseded => AcknowledgementOutcome::Unauthorized,
        Outcome::Full => AcknowledgementOutcome::Full,
        Outcome::Busy => AcknowledgementOutcome::Busy,
        Outcome::TooOften => AcknowledgementOutcome::TooOften,
        Outcome::Unavailable => AcknowledgementOutcome::Unavailable,
    }
}

fn answer_to(kind: HookKind, result: AckResult, outcome: Outcome) -> Answer {
    match outcome {
        Outcome::Written { request, .. } => acknowledged(kind, result, request, false),
        Outcome::Replayed { request } => acknowledged(kind, result, request, true),
        Outcome::NotAsked => refuse(StatusCode::CONFLICT, "NotAsked"),
        Outcome::Late => refuse(StatusCode::CONFLICT, "Late"),
        Outcome::Anonymous => refuse(StatusCode::CONFLICT, "Anonymous"),
        Outcome::AlreadyAcknowledged => refuse(StatusCode::CONFLICT, "AlreadyAcknowledged"),
        Outcome::ForeignPod => refuse(StatusCode::CONFLICT, "ForeignPod"),
        Outcome::Superseded => refuse(StatusCode::UNAUTHORIZED, "Unauthorized"),
        Outcome::Full => again("Full"),
        Outcome::TooOften => again("TooOften"),
        Outcome::Busy | Outcome::Unavailable => again("Unavailable"),
    }
}

/// 200 is for what counts. A Failure is kept and shown but does not, so it gets 202.
fn acknowledged(
    kind: HookKind,
    result: AckResult,
    request: Option<String>,
    replayed: bool,
) -> Answer {
    let counts = result == AckResult::Success;
    let mut body = json!({"acknowledged": counts, "kind": kind, "replayed": replayed});
    if let Some(request) = request {
        body["request"] = json!(request);
    }
    if counts {
        json_answer(StatusCode::OK, &body)
    } else {
        body["reason"] = json!("Failure");
        json_answer(StatusCode::ACCEPTED, &body)
    }
}

fn again(reason: &str) -> Answer {
    let mut answer = refuse(StatusCode::SERVICE_UNAVAILABLE, reason);
    let second = HeaderValue::from_static("1");
    answer.headers_mut().insert(RETRY_AFTER, second);
    answer
}

fn refuse(status: StatusCode, reason: &str) -> Answer {
    json_answer(status, &json!({"acknowledged": false, "reason": reason}))
}

fn json_answer(status: StatusCode, body: &Value) -> Answer {
    let mut answer = Response::new(body.to_string());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    let json = HeaderValue::from_static("application/json");
    headers.insert(CONTENT_TYPE, json);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
