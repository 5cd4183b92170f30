#!/usr/bin/env bash
# Makes sure that the tools are there which the Makefile needs.
#
#   scripts/setup.sh         install what is missing: system packages only as root on a Debian-like system
#   scripts/setup.sh check   install nothing; exit 1 and say what to run when a needed tool is missing
#
# Quiet where nothing is to be done. Reads no input and needs no terminal.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly DENY_VERSION=0.20.2
readonly GO_VERSION=1.24
mode=${1:-install}
missing=()

have() { command -v "$1" >/dev/null 2>&1; }
say() { printf 'setup: %s\n' "$*" >&2; }
# want MESSAGE: remembers something that only the user can do.
want() { missing+=("$1"); }

case $mode in
install | check) ;;
*)
    say "unknown mode '$mode'; use no argument or 'check'"
    exit 2
    ;;
esac

# System packages: the linker (also ring's C compiler), git for the advisory database, make, setpriv and flock for the
# tests, curl for the examples, containerd and runc for the test of sidecar mode in real containers, which without them
# says so and passes.
system_packages() {
    local packages=()
    have cc || packages+=(gcc libc6-dev)
    have git || packages+=(git)
    have make || packages+=(make)
    { have setpriv && have flock; } || packages+=(util-linux)
    [[ $mode == install ]] && { have curl || packages+=(curl); }
    if [[ $mode == install && $(id -u) == 0 ]]; then
        { have containerd && have ctr; } || packages+=(containerd)
        have runc || packages+=(runc)
    fi
    if ((${#packages[@]} == 0)); then return; fi
    if [[ $mode == install && $(id -u) == 0 ]] && have apt-get; then
        say "installing ${packages[*]}"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq </dev/null
        apt-get install -y -qq --no-install-recommends "${packages[@]}" </dev/null >&2
    else
        want "as root: apt-get install -y --no-install-recommends ${packages[*]}   (or your system's equivalent)"
    fi
}

# or_want MESSAGE COMMAND...: runs the command when installing, else (or when it fails) remembers the message.
or_want() {
    local message=$1
    shift
    if [[ $mode == install ]]; then
        say "$message"
        "$@" </dev/null >&2 && return
    fi
    want "$message"
}

rust_toolchain() {
    if ! have cargo; then
        want "rustup with the toolchain that rust-toolchain.toml names: https://rustup.rs"
        return
    fi
    cargo fmt --version >/dev/null 2>&1 || or_want "rustup component add rustfmt" rustup component add rustfmt
    cargo clippy --version >/dev/null 2>&1 || or_want "rustup component add clippy" rustup component add clippy
}

# is_go VERSION: whether that one reads the go.mod files in tests/kube.
is_go() { [[ $(printf '%s\n' "$GO_VERSION" "$1" | sort -V | head -n 1) == "$GO_VERSION" ]]; }

# Go builds etcd and kube-apiserver, which the operator's tests run against. Where those are, nothing is needed.
go_toolchain() {
    local version
    if [[ -x $(scripts/kube-assets.sh --path-only)/kube-apiserver ]]; then return; fi
    if have go; then
        version=$(GOTOOLCHAIN=local go env GOVERSION)
        if is_go "${version#go}"; then return; fi
        say "Go is ${version#go}, which is too old"
    elif [[ $mode == install && $(id -u) == 0 ]] && have apt-get; then
        apt-get update -qq </dev/null
        version=$(apt-cache policy golang-go | sed -nE 's/^ *Candidate: ([0-9]+:)?([0-9.]+).*/\2/p')
        if is_go "${version:-0}"; then
            say "installing golang"
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends golang </dev/null >&2
            return
        fi
        say "the system's package of Go is ${version:-not there}, which is too old"
    fi
    want "Go $GO_VERSION or newer: unpack a release of https://go.dev/dl in /usr/local and add /usr/local/go/bin to PATH; or
    set KUBEBUILDER_ASSETS to a directory with etcd, kube-apiserver and kubectl"
}

# The static target is a convenience: scripts/dist.sh falls back to the host's libc without it.
static_target() {
    local target
    target=$(uname -m)-unknown-linux-musl
    if [[ $mode == check ]] || ! have rustup; then return; fi
    rustup target list --installed 2>/dev/null | grep -x "$target" >/dev/null && return
    rustup target add "$target" </dev/null >&2 || say "no target $target to be had; 'make dist' uses the gnu target"
}

# Built without optimisation: it runs for seconds and would take minutes more to compile.
cargo_deny() {
    if ! have cargo || cargo deny --version >/dev/null 2>&1; then return; fi
    if [[ $mode == check ]]; then
        say "cargo-deny is missing, so the dependency checks will be skipped; 'make setup' installs it"
        return
    fi
    local message="cargo install --locked --debug --quiet cargo-deny@$DENY_VERSION"
    # shellcheck disable=SC2086  # the message is the command, word for word
    or_want "$message" env -u CARGO_TARGET_DIR -u RUSTFLAGS $message
}

system_packages
rust_toolchain
go_toolchain
static_target
cargo_deny

if ((${#missing[@]} > 0)); then
    say "missing; please run:"
    printf '  %s\n' "${missing[@]}" >&2
    exit 1
fi
