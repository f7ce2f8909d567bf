#!/bin/sh
# Makes the files beside it again, by openssl 3: what rcgen cannot write, or writes otherwise than
# the tools of users do. They are made once and committed; the tests never run this.
# All are valid for 100 years. The keys are worthless: nothing trusts these authorities.
set -eu
cd "$(dirname "$0")"
rm -f ./*.crt ./*.key
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/ca.cnf" <<'CNF'
[req]
distinguished_name = dn
prompt = no
[dn]
CN = unused
[root]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[plain_root]
basicConstraints = critical,CA:TRUE
subjectKeyIdentifier = hash
[intermediate]
basicConstraints = critical,CA:TRUE,pathlen:0
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
CNF

# self <name> <subject> <extensions> <digest>: a self-signed certificate of <name>.key
self() {
    openssl req -x509 -new -config "$work/ca.cnf" -key "$1.key" -subj "$2" -days 36500 \
        -extensions "$3" "-$4" -out "$1.crt"
}
# signed <name> <subject> <digest>: an intermediate for <name>.key, signed by the root
signed() {
    openssl req -new -config "$work/ca.cnf" -key "$1.key" -subj "$2" -multivalue-rdn \
        -out "$work/request.pem" 2>/dev/null
    openssl x509 -req -in "$work/request.pem" -CA root.crt -CAkey root.key -days 36500 \
        -extfile "$work/ca.cnf" -extensions intermediate "-$3" -out "$1.crt" 2>/dev/null
}
elliptic() { openssl genpkey -algorithm EC -pkeyopt "ec_paramgen_curve:$1" -out "$2.key" 2>/dev/null; }
rsa() { openssl genrsa -out "$2.key" "$1" 2>/dev/null; }

rsa 2048 root
self root "/O=Example/CN=Example root" root sha256

elliptic P-256 p256 && signed p256 "/O=Example/CN=Example P-256" sha256
elliptic P-384 p384 && signed p384 "/O=Example/CN=Example P-384" sha384
openssl genpkey -algorithm ED25519 -out ed25519.key && signed ed25519 "/O=Example/CN=Example Ed25519" sha256
for bits in 2048 3072 4096; do
    rsa "$bits" "rsa$bits" && signed "rsa$bits" "/O=Example/CN=Example RSA-$bits" sha256
done

# The same keys in other clothes.
openssl ec -in p256.key -out p256-sec1.key 2>/dev/null
{ openssl ecparam -name prime256v1; cat p256-sec1.key; } >p256-parameters.key
openssl ec -in p384.key -out p384-sec1.key 2>/dev/null
openssl rsa -in rsa2048.key -traditional -out rsa2048-pkcs1.key 2>/dev/null
openssl pkcs8 -topk8 -in p256.key -passout pass:secret -out p256-encrypted.key
openssl ec -in p256.key -aes256 -passout pass:secret -out p256-sec1-encrypted.key 2>/dev/null
openssl x509 -in p256.crt -text -out p256-text.crt

# What clients refuse.
rsa 1024 rsa1024 && signed rsa1024 "/O=Example/CN=Example RSA-1024" sha256
cp p256.key sha1.key && signed sha1 "/O=Example/CN=Example SHA-1" sha1
cp rsa2048.key md5.key && signed md5 "/O=Example/CN=Example MD5" md5

# What rcgen cannot repeat.
cp p256.key multivalued.key && signed multivalued "/O=Example+OU=Hooks/CN=Example joined" sha256
cp p256.key repeated.key && signed repeated "/OU=One/OU=Two/CN=Example repeated" sha256

# Authorities that sign leaves themselves, as `openssl req -x509` makes them by default.
cp p256.key plain.key && self plain "/CN=Example plain" plain_root sha256
cp rsa2048.key oldroot.key && self oldroot "/CN=Example old root" root sha1
chmod 644 ./*.key
