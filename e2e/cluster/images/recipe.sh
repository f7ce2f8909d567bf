# How the cluster's own images are made. A change here makes them again.
# shellcheck shell=bash

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
		image "$PAUSE_IMAGE" '["/pause"]'
}

# What an application brings along to acknowledge a hook: the real curl and the
# real requests, since those are what users have.
fill_app() {
	debootstrap --variant=minbase --include=curl,python3-requests bookworm "$1" &&
		strip_debian "$1" &&
		image "$APP_IMAGE" '["/bin/bash"]'
}

# What no container reads.
strip_debian() {
	rm -rf "$1"/var/cache/apt "$1"/var/lib/apt/lists "$1"/var/log/* \
		"$1"/usr/share/{doc,man,info,locale} &&
		mkdir -p "$1"/var/{cache,lib}/apt
}

# image REFERENCE COMMAND: remembers what `archive` writes down.
image() {
	REFERENCE=$1
	COMMAND=$2
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
