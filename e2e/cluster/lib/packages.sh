# The Debian (or Ubuntu) packages a node needs, and only those not there yet.
# shellcheck shell=bash

# What is looked for is the program, not the package: a machine may have
# containerd or the CNI plugins from somebody else, and they would conflict.
declare -A PACKAGE_OF=(
	[openssl]=openssl
)
declare -A NODE_PACKAGE_OF=(
	[containerd]=containerd
	[ctr]=containerd
	[runc]=runc
	[iptables]=iptables
	[conntrack]=conntrack
	[ip]=iproute2
	[nsenter]=util-linux
	[mount]=mount
	[debootstrap]=debootstrap
	# `make image` builds with it where there is no Docker engine.
	[buildah]=buildah
)

cni_plugins() {
	local directory
	for directory in /usr/lib/cni /opt/cni/bin; do
		if [[ -x $directory/ptp && -x $directory/host-local && -x $directory/portmap ]]; then
			printf '%s\n' "$directory"
			return
		fi
	done
	return 1
}

missing_packages() {
	local program
	for program in "${!PACKAGE_OF[@]}"; do
		command -v "$program" >/dev/null || printf '%s\n' "${PACKAGE_OF[$program]}"
	done
	can_have_node || return 0
	for program in "${!NODE_PACKAGE_OF[@]}"; do
		command -v "$program" >/dev/null || printf '%s\n' "${NODE_PACKAGE_OF[$program]}"
	done
	cni_plugins >/dev/null || printf 'containernetworking-plugins\n'
	# Ubuntu's debootstrap does not bring the keys of Debian.
	[[ -f /usr/share/keyrings/debian-archive-keyring.gpg ]] || printf 'debian-archive-keyring\n'
}

install_packages() {
	local packages
	command -v go >/dev/null || die "needs Go (1.25 or newer) to build Kubernetes: install it and run again"
	mapfile -t packages < <(missing_packages | sort -u)
	((${#packages[@]})) || return 0
	((EUID == 0)) || die "please install: ${packages[*]}"
	command -v apt-get >/dev/null || die "no apt-get here; please install what provides: ${packages[*]}"
	timed "apt-get install ${packages[*]}" apt_install "${packages[@]}" ||
		die "could not install: ${packages[*]}"
}

apt_install() {
	export DEBIAN_FRONTEND=noninteractive
	apt-get update &&
		apt-get install -y --no-install-recommends "$@"
}
