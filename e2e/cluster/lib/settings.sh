# Names, places and numbers of one cluster. Nothing here changes the machine
# except claim_settings, which writes the state directory.
# shellcheck shell=bash disable=SC2034

NAME=${CLUSTER_NAME:-krake}
[[ $NAME =~ ^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$ ]] ||
	die "CLUSTER_NAME '$NAME': small letters, digits and '-', at most 20"

CACHE=${KRAKE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/krake-hooks}
if [[ -n ${KRAKE_CLUSTER_STATE:-} ]]; then
	BASE=$KRAKE_CLUSTER_STATE
elif ((EUID == 0)); then
	BASE=/var/tmp/krake-hooks-clusters
else
	BASE=${XDG_STATE_HOME:-$HOME/.local/state}/krake-hooks-clusters
fi
STATE=$BASE/$NAME
# A unix socket's path is at most 107 bytes, and the longest one below the
# state directory is kubelet/pod-resources/kubelet.sock.
((${#STATE} <= 70)) || die "the state directory's path is too long for unix sockets: $STATE"

LOGS=$STATE/logs
PKI=$STATE/pki
KUBECONFIG_FILE=$STATE/kubeconfig
AUDIT_LOG=$STATE/audit.log
NETNS=$STATE/netns
CONTAINERD_SOCKET=$STATE/containerd/containerd.sock
CGROUP=krake-hooks-$NAME
# Every process of the cluster carries these two in its environment. That is
# how `down` knows its own, whatever became of the pid files.
MARK=KRAKE_HOOKS_CLUSTER=$STATE
MARK_COMPONENT=KRAKE_HOOKS_COMPONENT

NODE_NAME=node1
APP_IMAGE=docker.io/library/krake-hooks-app:dev
PAUSE_IMAGE=docker.io/library/krake-hooks-pause:dev
CONTROL_PLANE=(etcd kube-apiserver kube-controller-manager kube-scheduler)
NODE_COMPONENTS=(containerd kubelet kube-proxy coredns)

# A node needs root and Linux; without, the control plane runs alone.
# CLUSTER_NODE=no asks for that on purpose.
can_have_node() {
	[[ $(uname -s) == Linux ]] && ((EUID == 0)) && [[ ${CLUSTER_NODE:-yes} != no ]]
}

# Numbers that follow from the cluster's index alone, so that clusters side by
# side never share a range or a port.
derive_settings() {
	local i=$INDEX
	VETH=krake-hooks-$i
	HOST_ADDRESS=10.200.$i.1
	NODE_ADDRESS=10.200.$i.2
	SERVICE_RANGE=10.$((96 + i)).0.0/16
	API_SERVICE_ADDRESS=10.$((96 + i)).0.1
	DNS_SERVICE_ADDRESS=10.$((96 + i)).0.10
	POD_RANGE=10.$((128 + i)).0.0/16
	ETCD_PORT=$((16440 + 10 * i))
	ETCD_PEER_PORT=$((ETCD_PORT + 1))
	ETCD_HEALTH_PORT=$((ETCD_PORT + 2))
	API_PORT=$((ETCD_PORT + 3))
	CONTROLLER_PORT=$((ETCD_PORT + 4))
	SCHEDULER_PORT=$((ETCD_PORT + 5))
	COMPONENTS=("${CONTROL_PLANE[@]}")
	[[ $NODE == no ]] || COMPONENTS+=("${NODE_COMPONENTS[@]}")
}

state_exists() { [[ -f $STATE/settings ]]; }

load_settings() {
	state_exists || die "no cluster '$NAME' in $BASE"
	# shellcheck source=/dev/null
	source "$STATE/settings"
	derive_settings
}

# hold DIRECTORY FD: lock a directory that another holder may delete. A lock
# file beside it would be a thing left behind.
hold() {
	while :; do
		mkdir -p "$1"
		eval "exec $2<\"\$1\""
		flock -n "$2" || {
			say "waiting for another command on $1"
			flock "$2"
		}
		[[ $1 -ef /proc/self/fd/$2 ]] && return
	done
}

# The first index whose ranges and ports nobody uses: no other cluster, running
# or stopped, and nothing else on the machine.
claim_settings() {
	local candidate other
	hold "$BASE" 8
	if ! state_exists; then
		NODE=no
		! can_have_node || NODE=yes
		for candidate in {0..15}; do
			for other in "$BASE"/*/settings; do
				! grep -qsx "INDEX=$candidate" "$other" || continue 2
			done
			INDEX=$candidate
			derive_settings
			! index_in_use || continue
			mkdir -p "$STATE" "$LOGS"
			chmod 700 "$STATE"
			printf 'INDEX=%s\nNODE=%s\n' "$INDEX" "$NODE" >"$STATE/settings"
			break
		done
		state_exists || die "all 16 address ranges (10.96–10.111, 10.128–10.143, 10.200.0–15) or their ports are in use"
	fi
	load_settings
	[[ $NODE == no ]] || remember_host
	exec 8<&-
}

index_in_use() {
	local port range
	for port in "$ETCD_PORT" "$ETCD_PEER_PORT" "$ETCD_HEALTH_PORT" "$API_PORT" "$CONTROLLER_PORT" "$SCHEDULER_PORT"; do
		! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || return 0
	done
	[[ $NODE == yes ]] || return 1
	for range in "$SERVICE_RANGE" "$POD_RANGE" "$HOST_ADDRESS/24"; do
		# Routes inside the range, and routes around it, except the default one.
		if { ip -4 route show table all root "$range"; ip -4 route show table all match "$range"; } | grep -qv '^default'; then
			return 0
		fi
	done
	return 1
}
