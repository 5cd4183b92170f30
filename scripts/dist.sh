#!/usr/bin/env bash
# Builds the static binary that ships and puts it at target/dist/task-executor: on the musl target where it can be
# had, else on the gnu target with libc linked in. `dist.sh PACKAGE BINARY` builds another one in the same way.
set -euo pipefail
cd "$(dirname "$0")/.."

package=${1:-task-executor}
binary=${2:-task-executor}
target_dir=${CARGO_TARGET_DIR:-target}
out=$target_dir/dist/$binary
musl=$(uname -m)-unknown-linux-musl
gnu=$(uname -m)-unknown-linux-gnu

has_std() { [[ -d $(rustc --print target-libdir --target "$1" 2>/dev/null) ]]; }

target=$musl
if ! has_std "$musl" && ! rustup target add "$musl" </dev/null; then
    echo "dist: no standard library for $musl to be had; using $gnu" >&2
    target=$gnu
fi

# These replace the flags of .cargo/config.toml, so all of them are here. The remapping keeps the builder's own paths
# out of panic messages: the same source gives the same bytes in any directory.
cargo_home=${CARGO_HOME:-$HOME/.cargo}
flags=(-C target-feature=+crt-static -C relocation-model=static)
flags+=("--remap-path-prefix=$PWD=." "--remap-path-prefix=$cargo_home/registry/src=crates")
for sources in "$cargo_home"/registry/src/*/; do
    if [[ -d $sources ]]; then flags+=("--remap-path-prefix=${sources%/}=crates"); fi
done
# Separated by \x1f, since a path may contain a space.
encoded=$(printf '%s\x1f' "${flags[@]}")
CARGO_ENCODED_RUSTFLAGS=${encoded%$'\x1f'} cargo build ${LOCKED:+--locked} --profile dist \
    -p "$package" --bin "$binary" --target "$target"

mkdir -p "$target_dir/dist"
install -m 755 "$target_dir/$target/dist/$binary" "$out"

# A static binary names no interpreter: there is no loader and no libc in an empty image.
if command -v readelf >/dev/null; then
    if readelf -lW "$out" | grep -q INTERP; then
        echo "dist: $out is not static" >&2
        exit 1
    fi
elif ldd "$out" >/dev/null 2>&1; then
    echo "dist: $out is not static" >&2
    exit 1
fi
bytes=$(stat -c %s "$out")
printf 'dist: %s, static, %s, %d bytes (%d.%02d MiB)\n' \
    "$out" "$target" "$bytes" $((bytes / 1048576)) $((bytes % 1048576 * 100 / 1048576))
