//! Addresses that no app has, whatever a pod claims: of nodes, and of the API server. A call there
//! would be made by the operator, from where the operator is, on behalf of whoever wrote the hook.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, NodeSpec, Service, Taint};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::{ObjectRef, Store};

use crate::api::names;

/// Name of the API server's Service and EndpointSlice, in [`NAMESPACE`].
pub const KUBERNETES: &str = "kubernetes";
/// Namespace of the API server's Service.
pub const NAMESPACE: &str = "default";

/// What tells them.
#[derive(Clone)]
pub struct Addresses {
    /// What this process itself calls the API server by.
    pub api_servers: BTreeSet<IpAddr>,
    /// All nodes, of which only name, addresses, and whether they are out of service are kept.
    pub nodes: Store<Node>,
    /// EndpointSlices of the API server.
    pub endpoint_slices: Store<EndpointSlice>,
    /// The Service of the API server.
    pub services: Store<Service>,
}

impl Addresses {
    /// All of them, as known now.
    pub fn never_called(&self) -> BTreeSet<IpAddr> {
        let mut all = self.api_servers.clone();
        for node in self.nodes.state() {
            all.extend(of_node(&node));
        }
        for slice in self.endpoint_slices.state() {
            all.extend(of_slice(&slice));
        }
        let kubernetes = ObjectRef::new(KUBERNETES).within(NAMESPACE);
        if let Some(service) = self.services.get(&kubernetes) {
            all.extend(of_service(&service));
        }
        all
    }

    /// Whether a node is gone or out of service, as far as the watch has received.
    pub fn has_lost(&self, node: &str) -> bool {
        let node = self.nodes.get(&ObjectRef::new(node));
        node.is_none_or(|node| is_out_of_service(&node))
    }
}

/// Whether a node is marked as out of service: it is down, and nothing has to wait for it.
pub fn is_out_of_service(node: &Node) -> bool {
    let mut taints = taints(node);
    taints.any(|taint| taint.key == names::OUT_OF_SERVICE)
}

fn taints(node: &Node) -> impl Iterator<Item = &Taint> {
    let spec = node.spec.iter();
    spec.flat_map(|spec| spec.taints.iter().flatten())
}

/// Leaves of a node only what is kept.
pub fn slim(node: &mut Node) {
    let kept = taints(node).filter(|taint| taint.key == names::OUT_OF_SERVICE);
    let kept: Vec<Taint> = kept.cloned().collect();
    node.spec = (!kept.is_empty()).then(|| NodeSpec {
        taints: Some(kept),
        ..NodeSpec::default()
    });
    node.metadata.managed_fields = None;
    node.metadata.annotations = None;
    node.metadata.labels = None;
    if let Some(status) = &mut node.status {
        let addresses = status.addresses.take();
        *status = k8s_openapi::api::core::v1::NodeStatus {
            addresses,
            ..Default::default()
        };
    }
}

/// An address as it is compared: an IPv4 address in IPv6 clothes leads to the same place.
pub fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim_start_matches('[').trim_end_matches(']');
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

fn of_node(node: &Node) -> Vec<IpAddr> {
    let status = node.status.as_ref();
    let all = status
        .into_iter()
        .flat_map(|s| s.addresses.iter().flatten());
    all.filter_map(|a| address(&a.address)).collect()
}

fn of_slice(slice: &EndpointSlice) -> Vec<IpAddr> {
    let all = slice.endpoints.iter().flat_map(|e| e.addresses.iter());
    all.filter_map(|a| address(a)).collect()
}

fn of_service(service: &Service) -> Vec<IpAddr> {
    let spec = service.spec.as_ref();
    let several = spec
        .into_iter()
        .flat_map(|s| s.cluster_ips.iter().flatten());
    let one = spec.and_then(|s| s.cluster_ip.as_ref());
    several.chain(one).filter_map(|a| address(a)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::runtime::reflector;
    use kube::runtime::watcher::Event;
    use serde_json::json;

    #[test]
    fn nodes_and_api_servers_in_every_spelling() {
        let (nodes, mut node_writer) = reflector::store();
        let (endpoint_slices, mut slice_writer) = reflector::store();
        let (services, mut service_writer) = reflector::store();
        let mut node: Node = serde_json::from_value(json!({
            "metadata": {"name": "node-1", "labels": {"a": "b"}},
            "spec": {"podCIDR": "10.0.0.0/24"},
            "status": {"addresses": [
                {"type": "InternalIP", "address": "192.0.2.1"},
                {"type": "ExternalIP", "address": "::ffff:192.0.2.2"},
                {"type": "InternalIP", "address": "fd00::1"},
                {"type": "Hostname", "address": "node-1"}],
                "images": [{"sizeBytes": 1}]}}))
        .unwrap();
        slim(&mut node);
        assert!(!is_out_of_service(&node));
        assert!(node.metadata.labels.is_none() && node.spec.is_none());
        assert!(node.status.as_ref().is_some_and(|s| s.images.is_none()));
        node_writer.apply_watcher_event(&Event::Apply(node));
        let slice = json!({"metadata": {"name": "kubernetes", "namespace": "default"},
            "addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.3"]}], "ports": []});
        slice_writer.apply_watcher_event(&Event::Apply(serde_json::from_value(slice).unwrap()));
        for (namespace, ip) in [("default", "10.96.0.1"), ("ml", "10.96.0.2")] {
            let service = json!({"metadata": {"name": "kubernetes", "namespace": namespace},
                "spec": {"clusterIP": ip, "clusterIPs": [ip]}});
            let service = serde_json::from_value(service).unwrap();
            service_writer.apply_watcher_event(&Event::Apply(service));
        }
        let addresses = Addresses {
            api_servers: address("[fd00::9]").into_iter().collect(),
            nodes,
            endpoint_slices,
            services,
        };
        let found = addresses.never_called();
        let expected = [
            "10.96.0.1",
            "192.0.2.1",
            "192.0.2.2",
            "192.0.2.3",
            "fd00::1",
            "fd00::9",
        ];
        let expected: BTreeSet<IpAddr> = expected.iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(found, expected);
    }
}
