# The few things outside of the state directory that a node changes on the
# machine: noted before the first node starts, put back after the last one ends.
# shellcheck shell=bash

HOST_NOTES=$BASE/.host
# kubelet sets these, and refuses to start where it may not.
KUBELET_SYSCTLS=(vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops
	kernel/keys/root_maxkeys kernel/keys/root_maxbytes)
# Directories whose place containerd, the CNI library and kubelet do not let one choose.
HOST_DIRECTORIES=(/run/containerd/s /run/containerd /var/lib/cni/results /var/lib/cni
	/var/log/containers /var/lib/kubelet/device-plugins /var/lib/kubelet)

remember_host() {
	local key
	[[ ! -d $HOST_NOTES ]] || return 0
	mkdir -p "$HOST_NOTES.part"
	for key in "${KUBELET_SYSCTLS[@]}"; do
		[[ ! -r /proc/sys/$key ]] || printf '%s %s\n' "$key" "$(<"/proc/sys/$key")"
	done >"$HOST_NOTES.part/sysctls"
	for key in "${HOST_DIRECTORIES[@]}"; do
		[[ -e $key ]] || printf '%s\n' "$key"
	done >"$HOST_NOTES.part/directories"
	mv "$HOST_NOTES.part" "$HOST_NOTES"
}

# Called when no cluster is left.
restore_host() {
	local key value directory
	[[ -d $HOST_NOTES ]] || return 0
	while read -r key value; do
		[[ $(<"/proc/sys/$key") == "$value" ]] || printf '%s\n' "$value" >"/proc/sys/$key" || true
	done <"$HOST_NOTES/sysctls"
	while read -r directory; do
		# The device plugins' directory is never empty; it was not there before us.
		[[ $directory != /var/lib/kubelet/device-plugins ]] ||
			rm -f "$directory"/kubelet.sock "$directory"/kubelet_internal_checkpoint "$directory"/DEPRECATION
		[[ ! -d $directory ]] || rmdir "$directory" 2>/dev/null || true
	done <"$HOST_NOTES/directories"
	rm -rf "$HOST_NOTES"
}
