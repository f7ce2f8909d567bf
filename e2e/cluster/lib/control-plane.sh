# etcd, API server, controller manager and scheduler: how each is started, and
# how one knows that it is ready. They run in the machine's own network.
# shellcheck shell=bash

# Its own cache directory, or it would leave one behind in the home directory.
kubectl_here() {
	"$BIN/kubectl" --kubeconfig "$KUBECONFIG_FILE" --cache-dir "$STATE/kubectl" --request-timeout=10s "$@"
}

# etcd asks for a client certificate: whoever can write to it owns the cluster,
# and with it this machine. It keeps its fsync, since tests kill it and then
# look for what was acknowledged.
start_etcd() {
	launch etcd "$BIN/etcd" \
		--name "$NAME" \
		--data-dir "$STATE/etcd" \
		--listen-client-urls "https://127.0.0.1:$ETCD_PORT" \
		--advertise-client-urls "https://127.0.0.1:$ETCD_PORT" \
		--listen-peer-urls "https://127.0.0.1:$ETCD_PEER_PORT" \
		--initial-advertise-peer-urls "https://127.0.0.1:$ETCD_PEER_PORT" \
		--initial-cluster "$NAME=https://127.0.0.1:$ETCD_PEER_PORT" \
		--listen-metrics-urls "http://127.0.0.1:$ETCD_HEALTH_PORT" \
		--client-cert-auth --trusted-ca-file "$PKI/ca.crt" --cert-file "$PKI/etcd.crt" --key-file "$PKI/etcd.key" \
		--peer-client-cert-auth --peer-trusted-ca-file "$PKI/ca.crt" --peer-cert-file "$PKI/etcd.crt" --peer-key-file "$PKI/etcd.key" \
		--log-level warn
}
ready_etcd() { http_ok 127.0.0.1 "$ETCD_HEALTH_PORT" /health; }

# With a node it must listen on loopback and on the node's veth; it can listen
# on one address only, so it takes all and lets nobody in anonymously.
# The audit log is written before the answer (blocking) and never rotated: a
# test that kills the API server still finds everything that was answered.
start_kube_apiserver() {
	local bind=127.0.0.1
	[[ $NODE == no ]] || bind=0.0.0.0
	launch kube-apiserver "$BIN/kube-apiserver" \
		--etcd-servers "https://127.0.0.1:$ETCD_PORT" \
		--etcd-cafile "$PKI/ca.crt" --etcd-certfile "$PKI/etcd-client.crt" --etcd-keyfile "$PKI/etcd-client.key" \
		--bind-address "$bind" \
		--advertise-address "$HOST_ADDRESS" \
		--secure-port "$API_PORT" \
		--service-cluster-ip-range "$SERVICE_RANGE" \
		--tls-cert-file "$PKI/kube-apiserver.crt" --tls-private-key-file "$PKI/kube-apiserver.key" \
		--client-ca-file "$PKI/ca.crt" \
		--anonymous-auth=false \
		--requestheader-client-ca-file "$PKI/ca.crt" --requestheader-allowed-names front-proxy-client \
		--requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group \
		--requestheader-extra-headers-prefix X-Remote-Extra- \
		--proxy-client-cert-file "$PKI/front-proxy-client.crt" --proxy-client-key-file "$PKI/front-proxy-client.key" \
		--authorization-mode Node,RBAC \
		--service-account-issuer https://kubernetes.default.svc \
		--service-account-key-file "$PKI/service-accounts.pub" \
		--service-account-signing-key-file "$PKI/service-accounts.key" \
		--kubelet-certificate-authority "$PKI/ca.crt" \
		--kubelet-client-certificate "$PKI/kubelet-client.crt" --kubelet-client-key "$PKI/kubelet-client.key" \
		--kubelet-preferred-address-types InternalIP \
		--allow-privileged=true \
		--audit-policy-file "$HERE/audit-policy.yaml" \
		--audit-log-path "$AUDIT_LOG" --audit-log-mode blocking --audit-log-maxsize 1000000
}
ready_kube_apiserver() { kubectl_here get --raw /readyz; }

start_kube_controller_manager() {
	launch kube-controller-manager "$BIN/kube-controller-manager" \
		"${CONTROLLER_FLAGS[@]}" \
		--kubeconfig "$PKI/kube-controller-manager.kubeconfig" \
		--authentication-kubeconfig "$PKI/kube-controller-manager.kubeconfig" \
		--authorization-kubeconfig "$PKI/kube-controller-manager.kubeconfig" \
		--secure-port "$CONTROLLER_PORT" \
		--tls-cert-file "$PKI/kube-controller-manager.crt" --tls-private-key-file "$PKI/kube-controller-manager.key" \
		--service-account-private-key-file "$PKI/service-accounts.key" \
		--root-ca-file "$PKI/ca.crt" \
		--use-service-account-credentials=true
}
ready_kube_controller_manager() { healthz "$CONTROLLER_PORT"; }

start_kube_scheduler() {
	launch kube-scheduler "$BIN/kube-scheduler" \
		"${CONTROLLER_FLAGS[@]}" \
		--kubeconfig "$PKI/kube-scheduler.kubeconfig" \
		--authentication-kubeconfig "$PKI/kube-scheduler.kubeconfig" \
		--authorization-kubeconfig "$PKI/kube-scheduler.kubeconfig" \
		--secure-port "$SCHEDULER_PORT" \
		--tls-cert-file "$PKI/kube-scheduler.crt" --tls-private-key-file "$PKI/kube-scheduler.key"
}
ready_kube_scheduler() { healthz "$SCHEDULER_PORT"; }

# There is one of each, so there is nobody to elect a leader from.
CONTROLLER_FLAGS=(--bind-address 127.0.0.1 --leader-elect=false)

healthz() { kubectl_here --server "https://127.0.0.1:$1" get --raw /healthz; }

# apply_manifests: Services and rights that the node's components live by.
apply_manifests() {
	sed -e "s/@DNS_SERVICE_ADDRESS@/$DNS_SERVICE_ADDRESS/" -e "s/@NODE_ADDRESS@/$NODE_ADDRESS/" "$HERE/manifests/node.yaml" |
		kubectl_here apply --server-side --force-conflicts --field-manager krake-hooks-cluster -f -
}
