# Which cluster the tests use: the person's own, else kind, else the local one.
# shellcheck shell=bash disable=SC2153

# resolve: external | kind | local
resolve() {
	if [[ -n ${E2E_KUBECONFIG:-} ]]; then
		printf 'external\n'
	elif ! state_exists && command -v kind >/dev/null && docker info >/dev/null 2>&1; then
		printf 'kind\n'
	else
		printf 'local\n'
	fi
}

kubeconfig_path() {
	case $PROVIDER in
	external) printf '%s\n' "$E2E_KUBECONFIG" ;;
	kind) printf '%s\n' "$CACHE/kind-$NAME.kubeconfig" ;;
	local) printf '%s\n' "$KUBECONFIG_FILE" ;;
	esac
}

# With a cluster from elsewhere, the machine's own kubectl and helm do.
need_clients() {
	local name
	for name in "${CLIENT_BINARIES[@]}"; do
		command -v "$name" >/dev/null || build_binaries "$name"
	done
}

client() { PATH=$PATH:$BIN kubectl --kubeconfig "$(kubeconfig_path)" --request-timeout=10s "$@"; }

up_external() {
	need_clients
	client version >/dev/null || die "E2E_KUBECONFIG=$E2E_KUBECONFIG: that cluster does not answer"
	say "using the cluster of E2E_KUBECONFIG"
}

kind_exists() { kind get clusters 2>/dev/null | grep -qxF "$NAME"; }

up_kind() {
	need_clients
	mkdir -p "$CACHE"
	if kind_exists; then
		kind export kubeconfig --name "$NAME" --kubeconfig "$(kubeconfig_path)" 2>/dev/null
		say "kind cluster $NAME runs already"
	else
		kind create cluster --name "$NAME" --kubeconfig "$(kubeconfig_path)" --wait 120s
	fi
	build_app_with_docker
	kind load docker-image "$APP_IMAGE" --name "$NAME"
}

# Where there is Docker there need not be debootstrap, nor root.
build_app_with_docker() {
	docker build --tag "$APP_IMAGE" - <<-'EOF'
		FROM debian:bookworm-slim
		RUN apt-get update \
		 && apt-get install -y --no-install-recommends ca-certificates curl python3-requests \
		 && rm -rf /var/lib/apt/lists/*
		ENV LANG=C.UTF-8 PYTHONUNBUFFERED=1
	EOF
}
