//! The Service behind which the app is called: what is remembered of it while it is there, and why
//! nobody can be called through it, told before anybody depends on it.
//!
//! | the Service | told as |
//! |---|---|
//! | is not there, or has no such port | `ShutdownServiceNotFound` |
//! | has no selector, or is an `ExternalName` | `ShutdownServiceUnsupported` |
//! | has no such port for TCP, or one that speaks TLS | `ShutdownServiceUnsupported` |
//! | has a `targetPort` that no container of the workload names | `ShutdownServiceUnsupported` |
//! | selects the workload's pods, and they are in their node's network, or none of them has been ready for a minute | `NobodyToCall` |
//!
//! Without a port the first one for TCP is called. None of this keeps a removal from waiting.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pods;
use super::seen::Seen;
use super::trouble::PATIENCE;
use super::workload::Workload;
use crate::api::condition::Reason;
use crate::api::krake_hook::{CallOut, CallOutMode};
use crate::api::status::RememberedCallOut;

/// Why no pod can be called.
#[derive(Clone, Debug, PartialEq)]
pub struct CallFault {
    /// Reason of the condition.
    pub reason: Reason,
    /// What is wrong.
    pub what: String,
    /// What a person can do about it.
    pub remedy: String,
}

impl CallFault {
    fn new(reason: Reason, what: String, remedy: impl Into<String>) -> Self {
        Self {
            reason,
            what,
            remedy: remedy.into(),
        }
    }

    /// What is said while no removal waits.
    pub fn ahead_of_time(&self) -> String {
        format!(
            "{}: a removal will wait all the same, but nobody is called. {}",
            self.what, self.remedy
        )
    }
}

/// How the app is to be called, from the spec and the Service as it is now; or why it cannot be.
pub fn remember(
    call_out: &CallOut,
    service: Option<&Service>,
) -> Result<Option<RememberedCallOut>, CallFault> {
    let Some(wanted) = call_out
        .service
        .as_ref()
        .filter(|_| call_out.mode == CallOutMode::Service)
    else {
        return Ok(None);
    };
    let name = &wanted.name;
    let Some(spec) = service.and_then(|s| s.spec.as_ref()) else {
        return Err(CallFault::new(
            Reason::ShutdownServiceNotFound,
            format!("Service {name} does not exist"),
            "Create it, or correct spec.shutdown.callOut.service.name",
        ));
    };
    let unsupported = |what: String, remedy: &str| {
        CallFault::new(Reason::ShutdownServiceUnsupported, what, remedy)
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Err(unsupported(
            format!("Service {name} is an ExternalName, and only pods can be called"),
            "Name a Service that selects pods, or set spec.shutdown.callOut.mode: None",
        ));
    }
    let selector = spec.selector.clone().unwrap_or_default();
    if selector.is_empty() {
        return Err(unsupported(
            format!("Service {name} has no selector, and only pods can be called"),
            "Give it one, or set spec.shutdown.callOut.mode: None",
        ));
    }
    let ports = spec.ports.as_deref().unwrap_or_default();
    let named = ports.iter().filter(|port| match &wanted.port {
        None => true,
        Some(IntOrString::Int(number)) => port.port == *number,
        Some(IntOrString::String(name)) => port.name.as_ref() == Some(name),
    });
    let named: Vec<&ServicePort> = named.collect();
    let Some(port) = named.iter().find(|port| is_tcp(port.protocol.as_ref())) else {
        return Err(match (named.first(), &wanted.port) {
            (Some(_), _) => unsupported(
                format!("Service {name} has no such port for TCP, and calls are HTTP"),
                "Correct its ports, or spec.shutdown.callOut.service.port",
            ),
            (None, None) => CallFault::new(
                Reason::ShutdownServiceNotFound,
                format!("Service {name} has no port"),
                "Give it one",
            ),
            (None, Some(_)) => CallFault::new(
                Reason::ShutdownServiceNotFound,
                format!("Service {name} has no such port"),
                "Correct spec.shutdown.callOut.service.port",
            ),
        });
    };
    let target = port
        .target_port
        .clone()
        .unwrap_or(IntOrString::Int(port.port));
    Ok(Some(RememberedCallOut {
        port: target,
        path: wanted.path.clone(),
        scheme: wanted.scheme,
        selector,
    }))
}

/// Why what is remembered will not reach the workload's pods, as far as Service and template tell. A
/// Service of other pods is believed: nobody knows their template.
pub fn unreachable(
    call_out: &CallOut,
    remembered: &RememberedCallOut,
    service: Option<&Service>,
    workload: &Workload,
) -> Option<CallFault> {
    let name = &call_out.service.as_ref()?.name;
    if let Some(protocol) = app_protocol(service, &remembered.port).filter(|it| is_tls(it)) {
        return Some(CallFault::new(
            Reason::ShutdownServiceUnsupported,
            format!(
                "the port of Service {name} speaks {protocol} (appProtocol), and calls are HTTP without TLS"
            ),
            "Name a port for HTTP in spec.shutdown.callOut.service.port",
        ));
    }
    let pod = workload.template.spec.as_ref()?;
    if !selects(remembered, workload) {
        return None;
    }
    if pod.host_network == Some(true) {
        return Some(CallFault::new(
            Reason::NobodyToCall,
            format!("pods of {workload} use hostNetwork, and a node's address is never called"),
            "Let the app find out by itself (spec.shutdown.callOut.mode: None), or leave hostNetwork out",
        ));
    }
    match &remembered.port {
        IntOrString::String(port) if port_named(pod, port).is_none() => Some(CallFault::new(
            Reason::ShutdownServiceUnsupported,
            format!(
                "no container of {workload} has a port named {port}, the targetPort of Service {name}"
            ),
            "Name it in the container's ports, or correct the Service",
        )),
        _ => None,
    }
}

/// Why nobody can be called just now: the Service selects the workload's own pods, and none of them is
/// ready. Until when they have time to become so, if they do.
pub fn none_ready(
    seen: &Seen,
    remembered: &RememberedCallOut,
    workload: &Workload,
) -> Option<(Timestamp, CallFault)> {
    let live = |pod: &&Pod| pod.metadata.deletion_timestamp.is_none() && !pods::is_finished(pod);
    let live: Vec<&Pod> = seen.pods.iter().filter(live).collect();
    if !selects(remembered, workload) || live.is_empty() || live.iter().any(|p| pods::is_ready(p)) {
        return None;
    }
    let since = live.iter().filter_map(|pod| unready_since(pod)).max()?;
    let what = format!("none of {} pods of {workload} is ready", live.len());
    let fault = CallFault::new(
        Reason::NobodyToCall,
        what,
        "The call is made as soon as one of them is",
    );
    Some((since + PATIENCE, fault))
}

/// Whether the Service selects the workload's own pods.
pub fn selects(remembered: &RememberedCallOut, workload: &Workload) -> bool {
    let meta = workload.template.metadata.as_ref();
    let labels = meta.and_then(|meta| meta.labels.as_ref());
    let mut wanted = remembered.selector.iter();
    wanted.all(|(name, value)| labels.and_then(|labels| labels.get(name)) == Some(value))
}

fn unready_since(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    let ready = conditions.find(|condition| condition.type_ == "Ready")?;
    let since = ready.last_transition_time.as_ref();
    since.or(status.start_time.as_ref()).map(|since| since.0)
}

/// The number of a pod's port of that name, as Kubernetes finds it for a Service.
pub fn port_named(pod: &PodSpec, name: &str) -> Option<u16> {
    let ports = |c: &Container| c.ports.clone().unwrap_or_default();
    // A sidecar is an init container that stays.
    let sidecars = pod.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    pod.containers
        .iter()
        .chain(sidecars)
        .flat_map(ports)
        .find(|port| port.name.as_deref() == Some(name) && is_tcp(port.protocol.as_ref()))
        .and_then(|port| u16::try_from(port.container_port).ok())
}

fn is_tcp(protocol: Option<&String>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

fn app_protocol<'a>(service: Option<&'a Service>, target: &IntOrString) -> Option<&'a str> {
    let mut ports = service?.spec.as_ref()?.ports.iter().flatten();
    let port = ports.find(|port| {
        let of = port.target_port.clone();
        is_tcp(port.protocol.as_ref()) && of.unwrap_or(IntOrString::Int(port.port)) == *target
    });
    port?.app_protocol.as_deref()
}

fn is_tls(protocol: &str) -> bool {
    matches!(
        protocol.to_ascii_lowercase().as_str(),
        "https" | "tls" | "ssl" | "kubernetes.io/wss"
    )
}
