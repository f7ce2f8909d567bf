# What the scripts here share: where things are, and how to speak to the person.
# shellcheck shell=bash disable=SC2034

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${KRAKE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/krake-hooks}
CLUSTER=$ROOT/e2e/cluster/cluster
IMAGE=docker.io/library/krake-hooks:dev
IMAGE_ARCHIVE=$ROOT/target/image/krake-hooks.tar
NAMESPACE=krake-system

# shellcheck source=../e2e/cluster/lib/report.sh
source "$ROOT/e2e/cluster/lib/report.sh"

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# need PROGRAM PACKAGE...: installs Debian's packages where PROGRAM is missing and we may.
need() {
	local program=$1
	shift
	! command -v "$program" >/dev/null || return 0
	install_packages "$@"
	command -v "$program" >/dev/null || die "no $program, also after installing: $*"
}

install_packages() {
	((EUID == 0)) || die "please install: $*"
	command -v apt-get >/dev/null || die "no apt-get here; please install what provides: $*"
	timed "apt-get install $*" apt_install "$@" || die "could not install: $*"
}

apt_install() {
	DEBIAN_FRONTEND=noninteractive apt-get update &&
		DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

# What cargo needs besides itself: a linker, and the C library to link to, also as an archive for
# the static binary.
need_compiler() {
	need cc gcc libc6-dev
	[[ -f $(cc -print-file-name=libc.a) ]] || install_packages libc6-dev
	command -v cargo >/dev/null || die "no cargo: install Rust by rustup, and run again"
}

# use_cluster: kubectl and helm, and the kubeconfig of the cluster that is used.
use_cluster() {
	PATH=$("$CLUSTER" path):$PATH
	KUBECONFIG=$("$CLUSTER" kubeconfig)
	export PATH KUBECONFIG
}

# The newest kubectl that is at hand; built only where there is none.
find_kubectl() {
	PATH=$("$CLUSTER" path):$PATH
	export PATH
	command -v kubectl >/dev/null || "$CLUSTER" build kubectl
}

# cargo_image SUBCOMMAND...: cargo, with the profile and target directory of the image.
# The flag is given here and not in a file, since tests and proc macros are linked dynamically;
# with a target named, build scripts are too.
cargo_image() {
	RUSTFLAGS='-C target-feature=+crt-static' cargo "$@" --locked --profile image \
		--target "$(image_target)" --target-dir "$ROOT/target/image/cargo"
}

image_target() {
	rustc -vV | sed -n 's/^host: //p'
}

# The binary that cargo_image builds.
operator_binary() {
	printf '%s\n' "$ROOT/target/image/cargo/$(image_target)/image/krake-hooks"
}
