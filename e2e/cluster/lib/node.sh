# The node: a network namespace of its own, so that the machine's iptables stay
# as they are, and in it containerd, kubelet, kube-proxy and CoreDNS.
#
# The namespace is entered with nsenter and is a file of the state directory.
# `ip netns exec` would give each process its own mount namespace (containerd
# would not see kubelet's volumes) and a new /sys (which hides the cgroups).
# shellcheck shell=bash

in_node() { nsenter --net="$NETNS" "$@"; }

make_node_network() {
	if ! in_node true 2>/dev/null; then
		ip link del "$VETH" 2>/dev/null || true
		touch "$NETNS"
		unshare --net="$NETNS" true
	fi
	ip link show "$VETH" >/dev/null 2>&1 ||
		ip link add "$VETH" type veth peer name eth0 netns "$NETNS"
	ip addr replace "$HOST_ADDRESS/24" dev "$VETH"
	ip link set "$VETH" up
	in_node ip link set lo up
	in_node ip addr replace "$NODE_ADDRESS/24" dev eth0
	in_node ip link set eth0 up
	in_node ip route replace default via "$HOST_ADDRESS"
	in_node sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
	# Pods and Services are reachable from the machine as from a pod.
	ip route replace "$POD_RANGE" via "$NODE_ADDRESS"
	ip route replace "$SERVICE_RANGE" via "$NODE_ADDRESS"
}

start_containerd() {
	write_containerd_config
	launch containerd nsenter --net="$NETNS" containerd --config "$STATE/containerd.toml"
}
ready_containerd() { in_containerd version && in_containerd plugins ls | grep -qE 'cri +.* ok'; }
in_containerd() { ctr --address "$CONTAINERD_SOCKET" --namespace k8s.io "$@"; }

start_kubelet() {
	write_kubelet_config
	make_cgroup
	launch kubelet nsenter --net="$NETNS" "$BIN/kubelet" \
		--config "$STATE/kubelet.yaml" \
		--kubeconfig "$PKI/kubelet.kubeconfig" \
		--root-dir "$STATE/kubelet" \
		--hostname-override "$NODE_NAME" \
		--node-ip "$NODE_ADDRESS"
}
ready_kubelet() {
	in_node bash -c "$(declare -f http_ok); http_ok 127.0.0.1 10248 /healthz" || return 1
	# It may be started while there is nobody to ask.
	! runs kube-apiserver || kubelet_knows_its_pods
}

# A kubelet that was started again is healthy before it has read what it is to
# run, and until then says of a running pod that there is no such pod.
kubelet_knows_its_pods() {
	local bound known
	bound=$(kubectl_here get pods --all-namespaces --field-selector "spec.nodeName=$NODE_NAME" --output name | wc -l) || return 1
	known=$(kubectl_here get --raw "/api/v1/nodes/$NODE_NAME/proxy/pods" | { grep -o '{"metadata":{"name":' || true; } | wc -l) || return 1
	((known >= bound))
}

# The conntrack settings are the machine's, not the namespace's: left alone.
start_kube_proxy() {
	launch kube-proxy nsenter --net="$NETNS" "$BIN/kube-proxy" \
		--kubeconfig "$PKI/kube-proxy.kubeconfig" \
		--hostname-override "$NODE_NAME" \
		--bind-address "$NODE_ADDRESS" \
		--healthz-bind-address "$NODE_ADDRESS:10256" \
		--metrics-bind-address 127.0.0.1:10249 \
		--proxy-mode iptables \
		--cluster-cidr "$POD_RANGE" \
		--conntrack-max-per-core 0 --conntrack-tcp-timeout-established 0 --conntrack-tcp-timeout-close-wait 0 \
		--oom-score-adj 0
}
ready_kube_proxy() { http_ok "$NODE_ADDRESS" 10256 /healthz; }

start_coredns() {
	write_corefile
	launch coredns nsenter --net="$NETNS" "$BIN/coredns" -conf "$STATE/Corefile"
}
# Asked as a pod asks, through the Service: this proves kube-proxy's rules and
# CoreDNS's view of the API too. The query is
# A kube-dns.kube-system.svc.cluster.local; no length in it may be 10, a newline,
# at which bash would send a first half.
ready_coredns() {
	local reply
	# shellcheck disable=SC2016 # the inner bash expands its own arguments
	reply=$(timeout 2 bash -c '
		exec 3<>"/dev/udp/$0/53"
		printf "kr\1\0\0\1\0\0\0\0\0\0\10kube-dns\13kube-system\3svc\7cluster\5local\0\0\1\0\1" >&3
		head -c 12 <&3 | od -An -tx1' "$DNS_SERVICE_ADDRESS") || return 1
	# "kr", a recursive answer, rcode 0 (the second digit of the fourth byte), one question, one answer.
	[[ $reply == ' 6b 72 '??' '?'0 00 01 00 01 '* ]]
}

# Two blocks, since in one `template` would answer before `kubernetes`. Names
# outside of the cluster do not exist: a look-up fails at once, where a server
# of the machine's that is out of reach would make every client wait.
write_corefile() {
	cat >"$STATE/Corefile" <<-EOF
		cluster.local:53 in-addr.arpa:53 {
		  bind $NODE_ADDRESS
		  errors
		  kubernetes cluster.local in-addr.arpa {
		    kubeconfig $PKI/coredns.kubeconfig
		    pods insecure
		    ttl 5
		  }
		}
		.:53 {
		  bind $NODE_ADDRESS
		  template ANY ANY {
		    rcode NXDOMAIN
		  }
		}
	EOF
}

# - restrict_oom_score_adj: where the machine may not lower oom scores, every
#   pod would fail with "can't get final child's PID from pipe".
# - Everything that containerd would put in /run, /opt or /var/lib is moved into
#   the state directory, so that clusters do not meet there.
write_containerd_config() {
	local snapshotter=overlayfs directory=$STATE/containerd
	mkdir -p "$directory" "$STATE/cni"
	# overlayfs does not go on top of overlayfs (inside of another container).
	[[ $(stat -f -c %T "$STATE") != overlayfs ]] || snapshotter=native
	cat >"$STATE/containerd.toml" <<-EOF
		version = 2
		root = "$directory/root"
		state = "$directory/state"
		oom_score = 0
		[grpc]
		  address = "$CONTAINERD_SOCKET"
		[plugins."io.containerd.internal.v1.opt"]
		  path = "$directory/opt"
		[plugins."io.containerd.grpc.v1.cri"]
		  sandbox_image = "$PAUSE_IMAGE"
		  restrict_oom_score_adj = true
		  disable_apparmor = true
		  netns_mounts_under_state_dir = true
		  [plugins."io.containerd.grpc.v1.cri".cni]
		    bin_dir = "$(cni_plugins)"
		    conf_dir = "$STATE/cni"
		  [plugins."io.containerd.grpc.v1.cri".containerd]
		    snapshotter = "$snapshotter"
		    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
		      runtime_type = "io.containerd.runc.v2"
		      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
		        Root = "$directory/runc"
	EOF
	# ptp, not bridge: pods reach each other by routing, so that Services work
	# also where the kernel's br_netfilter is not loaded.
	cat >"$STATE/cni/pods.conflist" <<-EOF
		{
		  "cniVersion": "0.4.0",
		  "name": "$CGROUP",
		  "plugins": [
		    {
		      "type": "ptp",
		      "ipam": {
		        "type": "host-local",
		        "dataDir": "$STATE/cni/addresses",
		        "ranges": [[{"subnet": "$POD_RANGE"}]],
		        "routes": [{"dst": "0.0.0.0/0"}]
		      }
		    },
		    {"type": "portmap", "capabilities": {"portMappings": true}}
		  ]
		}
	EOF
}

# - syncFrequency: how long a changed Secret takes to reach a volume. The
#   default, a minute, is what tests of renewal would spend waiting.
# - cgroupRoot: kubelets that share one end each other's pods.
# - Images are never collected (there is nowhere to pull them from again), and
#   a full disk evicts late: the machine's disk is not the cluster's.
write_kubelet_config() {
	mkdir -p "$STATE/pod-logs"
	printf 'nameserver %s\n' "$DNS_SERVICE_ADDRESS" >"$STATE/resolv.conf"
	cat >"$STATE/kubelet.yaml" <<-EOF
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		address: $NODE_ADDRESS
		authentication:
		  anonymous: {enabled: false}
		  webhook: {enabled: true}
		  x509: {clientCAFile: $PKI/ca.crt}
		authorization: {mode: Webhook}
		tlsCertFile: $PKI/kubelet.crt
		tlsPrivateKeyFile: $PKI/kubelet.key
		containerRuntimeEndpoint: unix://$CONTAINERD_SOCKET
		cgroupDriver: cgroupfs
		cgroupRoot: /$CGROUP
		failCgroupV1: false
		failSwapOn: false
		enforceNodeAllocatable: []
		localStorageCapacityIsolation: false
		imageGCHighThresholdPercent: 100
		evictionHard: {memory.available: 100Mi, nodefs.available: 100Mi, imagefs.available: 100Mi}
		oomScoreAdj: 0
		maxPods: 500
		podLogsDir: $STATE/pod-logs
		volumePluginDir: $STATE/kubelet/volume-plugins
		syncFrequency: 10s
		clusterDomain: cluster.local
		clusterDNS: [$DNS_SERVICE_ADDRESS]
		resolvConf: $STATE/resolv.conf
	EOF
}

# kubelet wants its root cgroup to be there, in every hierarchy.
make_cgroup() {
	local hierarchy controller
	if [[ -f /sys/fs/cgroup/cgroup.controllers ]]; then
		for controller in $(</sys/fs/cgroup/cgroup.controllers); do
			{ echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control; } 2>/dev/null || true
		done
		mkdir -p "/sys/fs/cgroup/$CGROUP"
		return
	fi
	for hierarchy in /sys/fs/cgroup/*/; do
		mkdir -p "$hierarchy$CGROUP"
	done
	# A new cpuset is empty, and nothing can run in an empty one.
	for file in cpuset.cpus cpuset.mems; do
		cat "/sys/fs/cgroup/cpuset/$file" >"/sys/fs/cgroup/cpuset/$CGROUP/$file"
	done
}
