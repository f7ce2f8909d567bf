# One CA and the certificates and kubeconfigs that follow from it. Made once
# per cluster; a file that exists is kept.
# shellcheck shell=bash

# In a subshell, since containerd and kubelet must not inherit this umask.
make_pki() (
	umask 077
	mkdir -p "$PKI"
	[[ -f $PKI/ca.crt ]] || make_ca
	[[ -f $PKI/service-accounts.key ]] || make_service_account_key

	local both="extendedKeyUsage=serverAuth,clientAuth
subjectAltName=IP:127.0.0.1"
	issue kube-apiserver '/CN=kube-apiserver' \
		"extendedKeyUsage=serverAuth
subjectAltName=IP:127.0.0.1,IP:$HOST_ADDRESS,IP:$API_SERVICE_ADDRESS,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
	issue etcd '/CN=etcd' "$both"
	issue etcd-client '/CN=kube-apiserver-etcd-client' 'extendedKeyUsage=clientAuth'
	issue front-proxy-client '/CN=front-proxy-client' 'extendedKeyUsage=clientAuth'
	issue kubelet-client '/CN=kube-apiserver-kubelet-client' 'extendedKeyUsage=clientAuth'
	issue admin '/O=system:masters/CN=admin' 'extendedKeyUsage=clientAuth'
	issue kube-controller-manager '/CN=system:kube-controller-manager' "$both"
	issue kube-scheduler '/CN=system:kube-scheduler' "$both"

	write_kubeconfig admin 127.0.0.1 "$KUBECONFIG_FILE"
	write_kubeconfig kube-controller-manager 127.0.0.1
	write_kubeconfig kube-scheduler 127.0.0.1
	[[ $NODE == yes ]] || return 0

	issue kubelet "/O=system:nodes/CN=system:node:$NODE_NAME" "extendedKeyUsage=serverAuth,clientAuth
subjectAltName=IP:$NODE_ADDRESS,DNS:$NODE_NAME"
	issue kube-proxy '/O=system:node-proxier/CN=system:kube-proxy' 'extendedKeyUsage=clientAuth'
	issue coredns '/CN=system:coredns' 'extendedKeyUsage=clientAuth'
	write_kubeconfig kubelet "$HOST_ADDRESS"
	write_kubeconfig kube-proxy "$HOST_ADDRESS"
	write_kubeconfig coredns "$HOST_ADDRESS"
)

new_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }

make_ca() {
	new_key "$PKI/ca.key"
	openssl req -x509 -new -key "$PKI/ca.key" -sha256 -days 3650 -subj "/CN=krake-hooks-$NAME" \
		-addext 'keyUsage=critical,keyCertSign,cRLSign' -out "$PKI/.ca.crt"
	mv "$PKI/.ca.crt" "$PKI/ca.crt"
}

# RSA, because every client that checks a service account token can read RS256.
make_service_account_key() {
	openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$PKI/.sa.key" 2>/dev/null
	openssl pkey -in "$PKI/.sa.key" -pubout -out "$PKI/service-accounts.pub"
	mv "$PKI/.sa.key" "$PKI/service-accounts.key"
}

# issue NAME SUBJECT EXTENSIONS
issue() {
	[[ ! -f $PKI/$1.crt ]] || return 0
	new_key "$PKI/$1.key"
	openssl req -new -key "$PKI/$1.key" -subj "$2" |
		openssl x509 -req -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -sha256 -days 3650 \
			-set_serial "0x$(openssl rand -hex 15)" -out "$PKI/.$1.crt" \
			-extfile <(printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n%s\n' "$3") \
			2>/dev/null
	mv "$PKI/.$1.crt" "$PKI/$1.crt"
}

# write_kubeconfig CERTIFICATE ADDRESS [FILE]. The certificates are inside it:
# a kubeconfig is copied about, and must not point into a state directory.
write_kubeconfig() {
	local file=${3:-$PKI/$1.kubeconfig}
	cat >"$file.part" <<-EOF
		apiVersion: v1
		kind: Config
		clusters:
		- name: krake-hooks-$NAME
		  cluster:
		    server: https://$2:$API_PORT
		    certificate-authority-data: $(base64 -w0 "$PKI/ca.crt")
		users:
		- name: $1
		  user:
		    client-certificate-data: $(base64 -w0 "$PKI/$1.crt")
		    client-key-data: $(base64 -w0 "$PKI/$1.key")
		contexts:
		- name: krake-hooks-$NAME
		  context: {cluster: krake-hooks-$NAME, user: $1}
		current-context: krake-hooks-$NAME
	EOF
	mv "$file.part" "$file"
}
