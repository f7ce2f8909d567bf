# Speaking to the person, and waiting with a deadline.
# Progress goes to stderr, so that stdout carries only what a script may read.
# shellcheck shell=bash

say() { printf '%s\n' "$*" >&2; }

die() {
	printf 'cluster: %s\n' "$*" >&2
	exit 1
}

# 75 -> 1m15s
duration() {
	local seconds=$1
	if ((seconds < 60)); then
		printf '%ds' "$seconds"
	else
		printf '%dm%02ds' $((seconds / 60)) $((seconds % 60))
	fi
}

# await SECONDS COMMAND...: false if COMMAND has not succeeded by then.
await() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		((SECONDS < end)) || return 1
		sleep 0.1
	done
}

# timed LABEL COMMAND...: one line, "LABEL … 2m10s". On a terminal the seconds
# run, because a build of minutes without a sign of life looks like a hang.
# What COMMAND prints is kept, and shown only if it fails.
timed() {
	local label=$1 output began=$SECONDS shown='' job
	shift
	output=$(mktemp)
	"$@" >"$output" 2>&1 &
	job=$!
	if [[ -t 2 ]]; then
		while kill -0 "$job" 2>/dev/null; do
			shown=$(duration $((SECONDS - began)))
			printf '\r%s … %s ' "$label" "$shown" >&2
			sleep 0.5
		done
	fi
	if wait "$job"; then
		printf '%s%s … %s\n' "${shown:+$'\r'}" "$label" "$(duration $((SECONDS - began)))" >&2
		rm -f "$output"
		return 0
	fi
	printf '%s%s … failed after %s\n' "${shown:+$'\r'}" "$label" "$(duration $((SECONDS - began)))" >&2
	tail -n 40 "$output" >&2
	rm -f "$output"
	return 1
}

# http_ok ADDRESS PORT PATH: a GET in plain bash, so that a health check needs
# no program that a minimal machine may lack.
http_ok() {
	local status
	# shellcheck disable=SC2016 # the inner bash expands its own arguments
	status=$(timeout 3 bash -c '
		exec 3<>"/dev/tcp/$0/$1"
		printf "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n" "$2" "$0" >&3
		head -n 1 <&3' "$1" "$2" "$3" 2>/dev/null) || return 1
	[[ $status == *' 200 '* ]]
}
