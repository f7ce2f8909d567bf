#!/usr/bin/env bash
# Some seconds of work, then the curl line of Krake's manual.
trap 'exit 0' TERM

# The very first pod starts before its template was injected; the injection's rollout replaces it.
if [[ -z ${KRAKE_TOKEN:-} ]]; then
	echo "no KRAKE_TOKEN yet: waiting to be replaced"
	sleep infinity & wait
fi

for page in 1 2 3; do
	echo "writing page $page of 3"
	sleep 1
done

echo "done: PUT $KRAKE_COMPLETE_URL"
# shellcheck disable=SC2086 # word for word
curl --silent --show-error -X PUT -d "{\"token\":\"$KRAKE_TOKEN\"}" $KRAKE_COMPLETE_URL \
	--cacert /etc/krake_cert/ca-bundle.pem \
	--cert /etc/krake_cert/cert.pem \
	--key /etc/krake_cert/key.pem
echo

# A Deployment would start again what ends, so it stays until it is removed.
sleep infinity & wait
