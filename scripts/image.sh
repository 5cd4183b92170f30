#!/usr/bin/env bash
# Makes the image task-executor:dev from the static binary and nothing else, as target/dist/task-executor-oci.tar: an
# OCI image layout that also carries the older docker-archive index, so every tool can load it. Where docker, podman
# or buildah is usable, the image is loaded there too. Needs only tar, gzip and sha256sum; the same binary and commit
# give the same image, byte for byte.
#
#   IMAGE       name and tag          (default task-executor:dev)
#   IMAGE_TOOL  docker, podman, buildah or none   (default: the first that works)
set -euo pipefail
cd "$(dirname "$0")/.."

dist=${CARGO_TARGET_DIR:-target}/dist
binary=$dist/task-executor
archive=$dist/task-executor-oci.tar
image=${IMAGE:-task-executor:dev}

if [[ ! -x $binary ]]; then
    echo "image: $binary is missing; run 'make dist' first" >&2
    exit 1
fi
case $(uname -m) in
x86_64) arch=amd64 ;;
aarch64) arch=arm64 ;;
*) arch=$(uname -m) ;;
esac
version=$(sed -nE '/^\[workspace.package\]/,/^\[/s/^version = "(.*)"/\1/p' Cargo.toml)
revision=$(git rev-parse --verify --quiet HEAD 2>/dev/null || echo unknown)
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
created=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
layout=$work/layout
blobs=$layout/blobs/sha256
mkdir -p "$blobs"

# pack ARCHIVE DIRECTORY ENTRY...: a tar whose bytes depend on the content only.
pack() {
    local archive=$1 directory=$2
    shift 2
    tar --create --file "$archive" --directory "$directory" --format=gnu --sort=name \
        --owner=0 --group=0 --numeric-owner --mtime="@$epoch" "$@"
}
digest() { sha256sum "$1" | cut -d' ' -f1; }
# blob FILE: moves the file to its place by content, prints its digest.
blob() {
    local hex
    hex=$(digest "$1")
    mv "$1" "$blobs/$hex"
    echo "$hex"
}
size() { stat -c %s "$blobs/$1"; }

# The one layer. /workspace/server is where the images of OpenSandbox have it; /task-executor is the plain name.
root=$work/root
install -d -m 755 "$root" "$root/workspace"
install -m 755 "$binary" "$root/workspace/server"
ln -s workspace/server "$root/task-executor"
pack "$work/layer.tar" "$root" task-executor workspace
diff_id=$(digest "$work/layer.tar")
gzip --no-name -9 "$work/layer.tar"
layer=$(blob "$work/layer.tar.gz")

cat >"$work/config" <<JSON
{
  "created": "$created",
  "architecture": "$arch",
  "os": "linux",
  "config": {
    "User": "0",
    "ExposedPorts": {"5758/tcp": {}},
    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    "Entrypoint": ["/workspace/server"],
    "WorkingDir": "/workspace",
    "Labels": {
      "org.opencontainers.image.title": "task-executor",
      "org.opencontainers.image.description": "Runs and supervises short-lived tasks inside a Kubernetes Pod",
      "org.opencontainers.image.version": "$version",
      "org.opencontainers.image.revision": "$revision",
      "org.opencontainers.image.created": "$created",
      "org.opencontainers.image.licenses": "Apache-2.0"
    }
  },
  "rootfs": {"type": "layers", "diff_ids": ["sha256:$diff_id"]},
  "history": [{"created": "$created", "created_by": "scripts/image.sh"}]
}
JSON
config=$(blob "$work/config")

cat >"$work/manifest" <<JSON
{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.manifest.v1+json",
  "config": {
    "mediaType": "application/vnd.oci.image.config.v1+json", "digest": "sha256:$config", "size": $(size "$config")
  },
  "layers": [
    {
      "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": "sha256:$layer", "size": $(size "$layer")
    }
  ]
}
JSON
manifest=$(blob "$work/manifest")

cat >"$layout/index.json" <<JSON
{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.index.v1+json",
  "manifests": [
    {
      "mediaType": "application/vnd.oci.image.manifest.v1+json",
      "digest": "sha256:$manifest",
      "size": $(size "$manifest"),
      "platform": {"architecture": "$arch", "os": "linux"},
      "annotations": {"io.containerd.image.name": "$image", "org.opencontainers.image.ref.name": "${image##*:}"}
    }
  ]
}
JSON
echo '{"imageLayoutVersion": "1.0.0"}' >"$layout/oci-layout"
# For `docker load` before version 25, which does not know the layout.
cat >"$layout/manifest.json" <<JSON
[{"Config": "blobs/sha256/$config", "RepoTags": ["$image"], "Layers": ["blobs/sha256/$layer"]}]
JSON
pack "$archive" "$layout" blobs index.json manifest.json oci-layout
echo "image: $archive, $image, $(stat -c %s "$archive") bytes, sha256:$manifest"

usable() {
    case $1 in
    docker) docker info >/dev/null 2>&1 ;;
    podman) podman info >/dev/null 2>&1 ;;
    buildah) buildah images >/dev/null 2>&1 ;;
    *) return 1 ;;
    esac
}
tool=${IMAGE_TOOL:-}
if [[ -z $tool ]]; then
    tool=none
    for candidate in docker podman buildah; do
        if usable "$candidate"; then
            tool=$candidate
            break
        fi
    done
fi
case $tool in
none) ;;
docker | podman) "$tool" load --quiet --input "$archive" ;;
buildah) buildah tag "$(buildah pull --quiet "oci-archive:$archive")" "$image" ;;
*)
    echo "image: unknown IMAGE_TOOL '$tool'; use docker, podman, buildah or none" >&2
    exit 2
    ;;
esac
