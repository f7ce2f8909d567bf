# The image of the clients that people have, for the stories that need it and nobody else: it is
# large. A change here, or of docs/clients, makes it again.
# shellcheck shell=bash

CLIENTS_IMAGE=docker.io/library/krake-hooks-clients:dev
CLIENTS=$HERE/../../docs/clients
# Debian's headless Java runs a source file as it is; its pycurl is linked with GnuTLS.
CLIENTS_PACKAGES=(openssl curl python3-requests python3-pycurl openjdk-17-jre-headless)

fill_clients() {
	local packages
	packages=$(IFS=,; printf '%s' "${CLIENTS_PACKAGES[*]}")
	debootstrap --variant=minbase --include="$packages" bookworm "$1" &&
		strip_debian "$1" &&
		CGO_ENABLED=0 GO111MODULE=off go build -buildvcs=false -ldflags '-s -w' \
			-o "$1/usr/local/bin/acknowledge-go" "$CLIENTS/acknowledge.go" &&
		mkdir -p "$1/opt/krake" &&
		install -m 0644 "$CLIENTS"/Acknowledge.java "$CLIENTS"/acknowledge_curl.py "$1/opt/krake/" &&
		image "$CLIENTS_IMAGE" '["/bin/bash"]'
}

# Where there is Docker there need be neither debootstrap, nor Go, nor root.
build_clients_with_docker() {
	docker build --tag "$CLIENTS_IMAGE" --file - "$CLIENTS" <<-EOF
		FROM debian:bookworm-slim AS go
		RUN apt-get update && apt-get install -y --no-install-recommends golang-go
		COPY acknowledge.go /
		RUN CGO_ENABLED=0 GO111MODULE=off go build -o /acknowledge-go /acknowledge.go
		FROM debian:bookworm-slim
		RUN apt-get update \\
		 && apt-get install -y --no-install-recommends ca-certificates ${CLIENTS_PACKAGES[*]} \\
		 && rm -rf /var/lib/apt/lists/*
		COPY --from=go /acknowledge-go /usr/local/bin/
		COPY Acknowledge.java acknowledge_curl.py /opt/krake/
		ENV LANG=C.UTF-8 PYTHONUNBUFFERED=1
	EOF
}
