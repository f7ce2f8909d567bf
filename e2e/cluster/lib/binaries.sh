# Kubernetes, etcd, CoreDNS and Helm, built from their Go modules into the cache.
#
# Each go.mod is its own directory of the cache, named by the hash of what
# decides its binaries; one directory of links (`cluster path`) joins them. So
# a new Helm does not build Kubernetes again.
# shellcheck shell=bash

declare -A MODULE_OF=(
	[etcd]=kubernetes [kube-apiserver]=kubernetes [kube-controller-manager]=kubernetes
	[kube-scheduler]=kubernetes [kubelet]=kubernetes [kube-proxy]=kubernetes
	[kubectl]=kubernetes [coredns]=coredns [helm]=helm
)
ALL_BINARIES=(etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl coredns helm)
# shellcheck disable=SC2034 # provider.sh reads it
CLIENT_BINARIES=(kubectl helm)

package_of() {
	case $1 in
	etcd) printf 'go.etcd.io/etcd/server/v3' ;;
	coredns) printf 'github.com/coredns/coredns' ;;
	helm) printf 'helm.sh/helm/v3/cmd/helm' ;;
	*) printf 'k8s.io/kubernetes/cmd/%s' "$1" ;;
	esac
}

# A module of ours has no version control stamp to offer these programs, and
# clients refuse a server that calls itself v0.0.0.
link_flags_of() {
	local version
	case ${MODULE_OF[$1]} in
	kubernetes)
		version=$(required_version kubernetes k8s.io/kubernetes)
		local package=k8s.io/component-base/version
		local minor=${version#v1.}
		printf -- '-X %s.gitVersion=%s -X %s.gitMajor=1 -X %s.gitMinor=%s' \
			"$package" "$version" "$package" "$package" "${minor%%.*}"
		;;
	helm) printf -- '-X helm.sh/helm/v3/internal/version.version=%s' "$(required_version helm helm.sh/helm/v3)" ;;
	esac
}

# required_version MODULE REQUIREMENT
required_version() {
	awk -v module="$2" '{ for (i = 1; i < NF; i++) if ($i == module && $(i + 1) ~ /^v/) { print $(i + 1); exit } }' \
		"$HERE/$1/go.mod"
}

module_directory() {
	local hash
	hash=$(cat "$HERE/$1/go.mod" "$HERE/$1/go.sum" <(uname -sm) | sha256sum)
	printf '%s/%s-%s' "$CACHE" "$1" "${hash:0:12}"
}

bin_directory() {
	local hash
	hash=$(cat "$HERE"/{kubernetes,coredns,helm}/go.{mod,sum} <(uname -sm) | sha256sum)
	printf '%s/bin-%s' "$CACHE" "${hash:0:12}"
}

# build_binaries NAME...
build_binaries() {
	local name missing=()
	for name in "$@"; do
		[[ -n ${MODULE_OF[$name]:-} ]] || die "no binary '$name'; there are: ${ALL_BINARIES[*]}"
		[[ -x $BIN/$name ]] || missing+=("$name")
	done
	((${#missing[@]})) || return 0
	command -v go >/dev/null || die "needs Go (1.25 or newer) to build: ${missing[*]}"
	mkdir -p "$CACHE" "$BIN"
	exec 7>"$CACHE/.build-lock"
	if ! flock -n 7; then
		say "waiting for another build into $CACHE"
		flock 7
	fi
	for name in "${missing[@]}"; do
		build_binary "$name"
	done
	exec 7>&-
}

build_binary() {
	local name=$1 directory
	directory=$(module_directory "${MODULE_OF[$name]}")
	if [[ ! -x $directory/$name ]]; then
		mkdir -p "$directory"
		timed "$name" go_build "$name" "$directory/.$name.part" || die "could not build $name"
		# The name appears only when the file is whole.
		mv "$directory/.$name.part" "$directory/$name"
	fi
	ln -sfn "../${directory##*/}/$name" "$BIN/$name"
}

# go_build NAME FILE
go_build() {
	cd "$HERE/${MODULE_OF[$1]}" || return
	# A build of minutes must not make the machine unusable meanwhile.
	CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off nice -n 5 \
		go build -buildvcs=false -ldflags "-s -w $(link_flags_of "$1")" -o "$2" "$(package_of "$1")"
}
