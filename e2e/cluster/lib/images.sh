# The images that the cluster cannot pull: made here, kept in the cache as
# docker-archives, and brought into a node from there. How each is made says
# images/recipe.sh, whose hash is in the archive's name.
# shellcheck shell=bash disable=SC2153

image_archive() {
	local hash sources=("$HERE/images/recipe.sh" "$HERE/images/pause/main.go")
	[[ $1 != clients ]] || sources+=("$HERE/images/clients.sh" "$CLIENTS"/*)
	hash=$(cat "${sources[@]}" <(uname -m) | sha256sum)
	printf '%s/images/%s-%s.tar' "$CACHE" "$1" "${hash:0:12}"
}

# build_images NAME...: needs root, for debootstrap.
build_images() {
	local name
	for name in "$@"; do
		[[ ! -f $(image_archive "$name") ]] || continue
		mkdir -p "$CACHE/images"
		exec 7>"$CACHE/.image-lock"
		flock 7
		discard_unfinished
		[[ -f $(image_archive "$name") ]] ||
			timed "image $name" build_image "$name" || die "could not make the image $name"
		exec 7>&-
	done
}

# What a build left that was interrupted; debootstrap may have had /proc mounted.
discard_unfinished() {
	local work
	for work in "$CACHE"/images/.{pause,app,clients}.??????; do
		[[ -d $work ]] || continue
		umount "$work/root/proc" 2>/dev/null || true
		umount "$work/root/sys" 2>/dev/null || true
		rm -rf --one-file-system "$work"
	done
}

# load_clients: the image that only some stories need, into the running cluster.
load_clients() {
	local archive
	case $PROVIDER in
	local)
		load_settings
		[[ $NODE == yes ]] || die "this cluster has no node"
		build_images clients
		archive=$(image_archive clients)
		[[ $(cat "$STATE/clients" 2>/dev/null) == "$archive" ]] || {
			timed "image clients into the node" import_image "$archive" || die "containerd refused $archive"
			printf '%s\n' "$archive" >"$STATE/clients"
		}
		;;
	kind)
		build_clients_with_docker
		kind load docker-image "$CLIENTS_IMAGE" --name "$NAME"
		;;
	external) say "not loaded: $CLIENTS_IMAGE; E2E_KUBECONFIG names a cluster that gets its images elsewhere" ;;
	esac
}

# import_image FILE: into the node's containerd, under the names that pods use.
import_image() {
	local reference
	in_containerd images import "$1" >/dev/null || return
	# A build tool without a registry calls its images localhost/NAME; for a
	# pod's `image: NAME` kubelet looks for docker.io/library/NAME.
	while read -r reference; do
		in_containerd images tag --force "$reference" "docker.io/library/${reference#localhost/}" >/dev/null || return
	done < <(archive_references "$1" | grep '^localhost/[^/]*$')
}

archive_references() {
	tar -xOf "$1" manifest.json | grep -o '"RepoTags": *\[[^]]*\]' | grep -o '"[^"]*:[^"]*"' | tr -d '"' | grep -v '^RepoTags'
}
