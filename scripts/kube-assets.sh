#!/usr/bin/env bash
# Prints the directory that holds etcd, kube-apiserver and kubectl, and builds them first where they are missing: from
# the versions pinned in tests/kube/, once per machine, in a cache outside the checkout. Takes minutes the first time.
#
#   scripts/kube-assets.sh               print the directory, with everything in it
#   scripts/kube-assets.sh --path-only   print the directory, there or not; build nothing
#
#   KUBEBUILDER_ASSETS   a directory with the three programs; used as it is
#   SANDBOX_CACHE_DIR    where to build   (default $XDG_CACHE_HOME/sandbox-operator, ~/.cache/sandbox-operator)
set -euo pipefail
cd "$(dirname "$0")/../tests/kube"

readonly PROGRAMS=(etcd kube-apiserver kubectl)
readonly KUBE_COMMANDS=(k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kubectl)

say() { printf 'kube-assets: %s\n' "$*" >&2; }
fail() {
    say "$@"
    exit 1
}

# missing DIRECTORY: the programs that are not there.
missing() {
    local program
    for program in "${PROGRAMS[@]}"; do
        if [[ ! -x $1/$program ]]; then printf '%s\n' "$program"; fi
    done
}

# pinned MODULE DIRECTORY: the version that the go.mod there asks for.
pinned() { sed -nE "s|^(require )?[[:space:]]*$1 (v[0-9.]+).*|\2|p" "$2/go.mod"; }

case ${1:-} in
'' | --path-only) ;;
*) fail "unknown argument '$1'; use none or --path-only" ;;
esac

if [[ -n ${KUBEBUILDER_ASSETS:-} ]]; then
    lacks=$(missing "$KUBEBUILDER_ASSETS" | paste -sd ' ')
    if [[ -n $lacks ]]; then
        fail "KUBEBUILDER_ASSETS is $KUBEBUILDER_ASSETS, which lacks: $lacks. Complete or unset it"
    fi
    printf '%s\n' "$KUBEBUILDER_ASSETS"
    exit 0
fi

kube=$(pinned k8s.io/kubernetes kube)
etcd=$(pinned go.etcd.io/etcd/server/v3 etcd)
hash=$(cat kube/go.{mod,sum} etcd/go.{mod,sum} | sha256sum | cut -c1-12)
cache=${SANDBOX_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/sandbox-operator}/kube-assets
assets=$cache/kube-$kube-etcd-$etcd-$(uname -m)-$hash

if [[ ${1:-} == --path-only || -z $(missing "$assets") ]]; then
    printf '%s\n' "$assets"
    exit 0
fi

if ! command -v go >/dev/null; then
    fail "etcd and kube-apiserver are built with Go, which is missing: run 'make setup', or set KUBEBUILDER_ASSETS"
fi

# One build at a time; whoever waited finds the work done. The lock ends with this process, however that ends.
mkdir -p "$cache"
exec 9>"$cache/lock"
if ! flock --nonblock 9; then
    say "waiting for another build"
    flock 9
fi
if [[ -z $(missing "$assets") ]]; then
    printf '%s\n' "$assets"
    exit 0
fi

# The build's scratch files go to the cache too: /tmp may be small and in memory.
work=$(mktemp -d "$cache/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/tmp" "$work/bin"
export GOTMPDIR=$work/tmp GOFLAGS="-mod=readonly -buildvcs=false" GOWORK=off CGO_ENABLED=0

# stamp VERSION: the linker flags by which the Kubernetes programs know their version; without them it is v0.0.0.
stamp() {
    local package minor
    minor=$(cut -d. -f2 <<<"$1")
    printf -- '-s -w'
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        printf -- ' -X %s.gitVersion=%s' "$package" "$1"
        printf -- ' -X %s.gitMajor=1 -X %s.gitMinor=%s' "$package" "$package" "$minor"
        printf -- ' -X %s.gitTreeState=clean' "$package"
    done
}

say "building etcd $etcd"
(cd etcd && go build -trimpath -ldflags '-s -w' -o "$work/bin/etcd" go.etcd.io/etcd/server/v3 >&2)
say "building Kubernetes $kube, which takes minutes the first time"
(cd kube && go build -trimpath -ldflags "$(stamp "$kube")" -o "$work/bin/" "${KUBE_COMMANDS[@]}" >&2)

rm -rf "$assets"
mv "$work/bin" "$assets"
say "done: $assets"
printf '%s\n' "$assets"
