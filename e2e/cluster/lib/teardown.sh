# Taking a cluster away: what `up` made, and what its pods left. Every step may
# find its work half done, by a crash, a reboot or an earlier `down`.
# shellcheck shell=bash

tear_down() {
	end_processes
	if ((EUID == 0)) && [[ $(uname -s) == Linux ]]; then
		remove_shim_sockets
		remove_mounts
		ip link del "$VETH" 2>/dev/null || true
		remove_cgroups
		remove_host_files
	fi
	# A hostPath volume may still be mounted below; never delete through it.
	if grep -qF " $STATE/" /proc/self/mountinfo 2>/dev/null; then
		die "still mounted, so not removed: $STATE"
	fi
	rm -rf --one-file-system "$STATE"
}

# All at once and by SIGKILL: the data goes too, so nothing has to be closed.
# kubelet and the shims would otherwise start again what is being ended.
end_processes() {
	local end=$((SECONDS + 30)) pids
	while :; do
		mapfile -t pids < <(marked_processes; cgroup_processes)
		((${#pids[@]})) || return 0
		kill -KILL "${pids[@]}" 2>/dev/null || true
		((SECONDS < end)) || die "these processes do not end: ${pids[*]}"
		sleep 0.1
	done
}

cgroups() { find /sys/fs/cgroup -maxdepth 2 -type d -name "$CGROUP" 2>/dev/null || true; }

# Containers have an environment of their own, but are in the node's cgroup.
cgroup_processes() {
	local directory
	for directory in $(cgroups); do
		find "$directory" -name cgroup.procs -exec cat {} + 2>/dev/null || true
	done | sort -u
}

remove_cgroups() {
	local directory
	for directory in $(cgroups); do
		await 10 remove_cgroup "$directory" || die "cannot remove the cgroup $directory"
	done
}

remove_cgroup() {
	find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || true
	[[ ! -d $1 ]]
}

# containerd's shims listen in /run, whatever its configuration says.
remove_shim_sockets() {
	local file address
	for file in "$STATE"/containerd/state/io.containerd.runtime.v2.task/k8s.io/*/address; do
		[[ -f $file ]] || continue
		address=$(<"$file")
		rm -f "${address#unix://}"
	done
}

# The newest first: mounts lie on mounts.
remove_mounts() {
	local target targets
	mapfile -t targets < <(awk -v prefix="$STATE/" 'index($5, prefix) == 1 { print $5 }' /proc/self/mountinfo | tac)
	for target in "${targets[@]}"; do
		# mountinfo writes a blank as \040.
		target=$(printf '%b' "$target")
		umount "$target" 2>/dev/null || umount --lazy "$target" 2>/dev/null || true
	done
}

# The CNI library notes each pod's networks under the pod's id; only the note of
# ours carries our name.
remove_host_files() {
	local note link id
	for note in /var/lib/cni/results/"$CGROUP"-*; do
		[[ -e $note ]] || continue
		id=${note##*/"$CGROUP"-}
		rm -f "$note" "/var/lib/cni/results/cni-loopback-${id%-eth0}-lo"
	done
	for link in /var/log/containers/*; do
		[[ $(readlink "$link" || true) != "$STATE"/* ]] || rm -f "$link"
	done
}

# The base directory goes with its last cluster.
remove_base() {
	local other
	for other in "$BASE"/*; do
		[[ ! -e $other ]] || return 0
	done
	((EUID != 0)) || restore_host
	rmdir "$BASE" 2>/dev/null || true
}
