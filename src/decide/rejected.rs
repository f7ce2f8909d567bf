//! Acknowledgements that were rejected while a removal waits: how they are counted, and what people read.
//!
//! Anybody can be rejected, so the count is written rarely, and only while a request is open. It
//! need not be exact.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::api::status::{Rejected, RequestState, ShutdownRequest};
use crate::api::{KrakeHook, KrakeHookStatus};

/// Whether people would read of a rejection: something waits for acknowledgements.
pub fn is_read(hook: &KrakeHook) -> bool {
    open_request(hook).is_some()
}

/// The JSON patch that adds so many; nothing if no request is open. It changes nothing that anything is
/// decided by.
pub fn patch(hook: &KrakeHook, more: i64, at: Timestamp) -> Option<Value> {
    let request = open_request(hook)?;
    let old = hook.status.as_ref().and_then(|s| s.rejected.as_ref());
    let same = old.filter(|old| old.request == request.id);
    let rejected = Rejected {
        request: request.id.clone(),
        count: same.map_or(0, |old| old.count).saturating_add(more),
        at: Time(Timestamp::from_second(at.as_second()).unwrap_or(at)),
    };
    let mut operations = vec![
        json!({"op": "test", "path": "/metadata/uid", "value": hook.metadata.uid}),
        json!({"op": "test", "path": format!("/status/requests/{}/state", request.id), "value": "Open"}),
    ];
    if let Some(old) = old {
        // Another replica may have been faster.
        operations.push(json!({"op": "test", "path": "/status/rejected", "value": old}));
    }
    operations.push(json!({"op": "add", "path": "/status/rejected", "value": rejected}));
    Some(Value::Array(operations))
}

/// What people read of it, if there is anything to be read.
pub fn in_words(status: &KrakeHookStatus, request: &ShutdownRequest) -> Option<String> {
    let rejected = status.rejected.as_ref()?;
    if rejected.request != request.id {
        return None;
    }
    let what = match rejected.count {
        1 => "acknowledgement",
        _ => "acknowledgements",
    };
    let count = rejected.count;
    Some(format!(
        "{count} {what} rejected: the Events of the hook say why"
    ))
}

fn open_request(hook: &KrakeHook) -> Option<&ShutdownRequest> {
    let request = hook.status.as_ref()?.workload_request()?;
    (request.state == RequestState::Open).then_some(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn hook() -> KrakeHook {
        let mut hook = testing::hook("ml", "trainer");
        let status = hook.status.as_mut().unwrap();
        status.set_workload_request(Some(testing::request("r1", RequestState::Open)));
        hook
    }

    fn add(hook: &KrakeHook, more: i64) -> KrakeHook {
        let patch = patch(hook, more, Timestamp::UNIX_EPOCH).expect("a request is open");
        let patch: json_patch::Patch = serde_json::from_value(patch).unwrap();
        let mut document = serde_json::to_value(hook).unwrap();
        json_patch::patch(&mut document, &patch).unwrap();
        serde_json::from_value(document).unwrap()
    }

    fn words(hook: &KrakeHook) -> Option<String> {
        let status = hook.status.as_ref().unwrap();
        in_words(status, status.workload_request().unwrap())
    }

    #[test]
    fn they_are_counted_for_one_request() {
        let mut hook = hook();
        assert_eq!(words(&hook), None);
        hook = add(&hook, 1);
        let once = "1 acknowledgement rejected: the Events of the hook say why";
        assert_eq!(words(&hook).as_deref(), Some(once));
        hook = add(&hook, 2);
        assert!(
            words(&hook)
                .unwrap()
                .starts_with("3 acknowledgements rejected")
        );
        let status = hook.status.as_mut().unwrap();
        status.set_workload_request(Some(testing::request("r2", RequestState::Open)));
        assert_eq!(words(&hook), None, "of an earlier request");
        hook = add(&hook, 1);
        assert!(
            words(&hook)
                .unwrap()
                .starts_with("1 acknowledgement rejected")
        );
    }

    #[test]
    fn nobody_counts_what_nobody_waits_for() {
        let mut hook = hook();
        let status = hook.status.as_mut().unwrap();
        let request = status.workload_request_mut().unwrap();
        request.state = RequestState::Closed;
        assert_eq!(patch(&hook, 1, Timestamp::UNIX_EPOCH), None);
        assert!(!is_read(&hook));
    }
}
