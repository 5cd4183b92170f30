#!/usr/bin/env bash
# Fails when a committed file that is made from the code is not what the code makes now. The file is left renewed.
set -euo pipefail
cd "$(dirname "$0")/.."

files=(
    docs/openapi.json
    docs/task-executor.help.txt
    docs/sandbox-operator.help.txt
    crds/batchsandboxes.sandbox.opensandbox.io.yaml
    crds/pools.sandbox.opensandbox.io.yaml
)
before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
cp "${files[@]}" "$before/"
# All programs together, as everywhere else: a part of them alone would be compiled anew with other features.
cargo build -q ${LOCKED:+--locked} --workspace --bins
"${CARGO_TARGET_DIR:-target}/debug/gen"

stale=0
for file in "${files[@]}"; do
    if ! diff -u "$before/${file##*/}" "$file"; then
        echo "stale: $file; commit the renewed one" >&2
        stale=1
    fi
done
exit "$stale"
