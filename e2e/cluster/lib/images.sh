# The two images that the cluster cannot pull: made here, kept in the cache as
# docker-archives, and brought into a node from there.
# shellcheck shell=bash

image_archive() {
	local hash
	hash=$(cat "$HERE/lib/images.sh" "$HERE/images/pause/main.go" <(uname -m) | sha256sum)
	printf '%s/images/%s-%s.tar' "$CACHE" "$1" "${hash:0:12}"
}

# build_images: needs root, for debootstrap.
build_images() {
	local name
	for name in pause app; do
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
	for work in "$CACHE"/images/.{pause,app}.??????; do
		[[ -d $work ]] || continue
		umount "$work/root/proc" 2>/dev/null || true
		umount "$work/root/sys" 2>/dev/null || true
		rm -rf --one-file-system "$work"
	done
}

build_image() {
	local work
	work=$(mktemp -d "$CACHE/images/.$1.XXXXXX")
	mkdir "$work/root" "$work/archive"
	"fill_$1" "$work/root" &&
		archive "$work" "$(image_archive "$1")" &&
		rm -rf --one-file-system "$work"
}

# The pod's first process: Go, because Go is here already, and a C compiler
# perhaps is not.
fill_pause() {
	cd "$HERE/images/pause" &&
		CGO_ENABLED=0 GOWORK=off go build -buildvcs=false -ldflags '-s -w' -o "$1/pause" . &&
		image pause "$PAUSE_IMAGE" '["/pause"]'
}

# What an application brings along to acknowledge a hook: the real curl and the
# real requests, since those are what users have.
fill_app() {
	debootstrap --variant=minbase --include=curl,python3-requests bookworm "$1" &&
		rm -rf "$1"/var/cache/apt "$1"/var/lib/apt/lists "$1"/var/log/* \
			"$1"/usr/share/{doc,man,info,locale} &&
		mkdir -p "$1"/var/{cache,lib}/apt &&
		image app "$APP_IMAGE" '["/bin/bash"]'
}

# image NAME REFERENCE COMMAND: remembers what `archive` writes down.
image() {
	REFERENCE=$2
	COMMAND=$3
}

# archive WORK FILE: packs WORK/root as the only layer of an image.
archive() {
	local directory=$1/archive layer
	tar --sort=name --mtime=@0 --numeric-owner -C "$1/root" -cf "$directory/layer.tar" . || return
	layer=$(sha256sum <"$directory/layer.tar")
	cat >"$directory/config.json" <<-EOF
		{
		  "architecture": "$(go env GOARCH)", "os": "linux",
		  "config": {
		    "Cmd": $COMMAND,
		    "Env": ["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LANG=C.UTF-8", "PYTHONUNBUFFERED=1"]
		  },
		  "rootfs": {"type": "layers", "diff_ids": ["sha256:${layer%% *}"]}
		}
	EOF
	printf '[{"Config": "config.json", "RepoTags": ["%s"], "Layers": ["layer.tar"]}]\n' "$REFERENCE" >"$directory/manifest.json"
	tar -C "$directory" -cf "$2.part" manifest.json config.json layer.tar &&
		mv "$2.part" "$2"
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
