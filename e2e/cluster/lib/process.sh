# Starting, finding and ending the cluster's processes.
# shellcheck shell=bash

# launch COMPONENT COMMAND...
# The locks of this command (7, 8, 9) must not live on in what it starts, nor
# must its proxy settings: nothing here talks beyond this machine.
launch() {
	local component=$1 pid
	shift
	env -u http_proxy -u https_proxy -u HTTP_PROXY -u HTTPS_PROXY -u ALL_PROXY -u all_proxy \
		-u KUBECONFIG -u NOTIFY_SOCKET \
		"$MARK" "$MARK_COMPONENT=$component" setsid "$@" \
		>>"$LOGS/$component.log" 2>&1 </dev/null 7>&- 8>&- 9>&- &
	pid=$!
	disown "$pid"
	printf '%s\n' "$pid" >"$STATE/$component.pid"
	# Until its exec is done the process does not carry the mark yet.
	await 10 settled "$pid" "$component" || true
}

settled() { ! kill -0 "$1" 2>/dev/null || is_component "$1" "$2"; }

# is_component PID COMPONENT: a pid alone proves nothing, numbers are used again.
is_component() {
	[[ -r /proc/$1/environ ]] &&
		grep -qzFx "$MARK" "/proc/$1/environ" 2>/dev/null &&
		grep -qzFx "$MARK_COMPONENT=$2" "/proc/$1/environ" 2>/dev/null
}

# pid_of COMPONENT: prints it, or false if it does not run.
pid_of() {
	local pid
	pid=$(cat "$STATE/$1.pid" 2>/dev/null) || return 1
	is_component "$pid" "$1" || return 1
	printf '%s\n' "$pid"
}

runs() { pid_of "$1" >/dev/null; }

# await_component COMPONENT SECONDS COMMAND...: until COMMAND succeeds. A
# component that ends meanwhile is not waited for.
await_component() {
	local component=$1 end=$((SECONDS + $2))
	shift 2
	until "$@" >/dev/null 2>&1; do
		runs "$component" || fail_component "$component" "ended"
		((SECONDS < end)) || fail_component "$component" "is not ready in time"
		sleep 0.1
	done
}

fail_component() {
	say "--- the end of $LOGS/$1.log"
	tail -n 25 "$LOGS/$1.log" >&2 || true
	say "---"
	die "$1 $2; 'cluster down' removes what was started"
}

# start_component COMPONENT: no harm if it runs.
start_component() {
	runs "$1" || "start_${1//-/_}"
	await_component "$1" 90 "ready_${1//-/_}"
}

kill_component() {
	local pid
	pid=$(pid_of "$1") || return 0
	kill -KILL "$pid" 2>/dev/null || true
	await 10 gone "$pid" "$1" || die "$1 (pid $pid) does not end"
}

gone() { ! is_component "$1" "$2"; }

# Everything that carries this cluster's mark, children and strays too.
marked_processes() {
	local file
	for file in /proc/[0-9]*/environ; do
		if grep -qzFx "$MARK" "$file" 2>/dev/null; then
			file=${file#/proc/}
			printf '%s\n' "${file%/environ}"
		fi
	done
}

# apiserver -> kube-apiserver
component_named() {
	local component
	for component in "${COMPONENTS[@]}"; do
		if [[ $1 == "$component" || kube-$1 == "$component" ]]; then
			printf '%s\n' "$component"
			return
		fi
	done
	die "no component '$1'; there are: ${COMPONENTS[*]}"
}
