#!/usr/bin/env bash
# Everything that CI runs, as stages with a time limit each. Stops at the first stage that fails; whatever happens,
# ends with the runners' closing lines and the seconds of each stage.
#
#   CI=true       install what is missing, insist on Cargo.lock, and let no missing prerequisite pass
set -euo pipefail
cd "$(dirname "$0")/.."

target_dir=${CARGO_TARGET_DIR:-target}
logs=$target_dir/test-logs
rm -rf "$logs"
mkdir -p "$logs"

locked=()
setup=(scripts/setup.sh check)
if [[ ${CI:-} == true ]]; then
    locked=(--locked)
    setup=(scripts/setup.sh)
    export LOCKED=1 # for the scripts that call cargo themselves
fi
# At a terminal Ctrl-C must reach the stage; without one, its whole process group ends with it.
foreground=()
if [[ -t 1 ]]; then foreground=(--foreground); fi

table=()

# stage NAME LIMIT_SECONDS COMMAND...
stage() {
    local name=$1 limit=$2 begun=$SECONDS code=0
    shift 2
    printf '\n== %s: %s\n' "$name" "$*"
    timeout "${foreground[@]}" --kill-after=30 "$limit" "$@" </dev/null 2>&1 | tee "$logs/$name.log" || code=${PIPESTATUS[0]}
    local result=ok
    if ((code == 124)); then
        result="FAILED: over its limit of $limit s"
    elif ((code != 0)); then
        result="FAILED: exit code $code"
    fi
    table+=("$(printf '%5d s  %-10s %s' $((SECONDS - begun)) "$name" "$result")")
    if ((code != 0)); then exit 1; fi
}

closing() {
    local code=$?
    printf '\n== closing lines of the runners\n'
    grep -hE '^(test result:|error: test failed|error: [0-9]+ target)' "$logs/tests.log" 2>/dev/null || true
    grep -hE '^(agent-fuzz:|agent-chaos:|violations:|again:)' "$logs"/{fuzz,sidecar,chaos}.log 2>/dev/null || true
    printf '\n== stages\n'
    printf '%s\n' "${table[@]}"
    if ((code == 0)); then
        echo "all stages passed in $SECONDS s"
    else
        echo "FAILED after $SECONDS s"
    fi
}
trap closing EXIT

stage setup 1800 "${setup[@]}"
stage format 60 cargo fmt --all --check
stage clippy 1200 cargo clippy "${locked[@]}" --workspace --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" stage docs 900 cargo doc "${locked[@]}" --workspace --no-deps --document-private-items
stage deny 600 scripts/deny.sh
stage build 1200 cargo build "${locked[@]}" --workspace --bins
stage generated 300 scripts/generated.sh
# The control plane for the operator's tests. The build is long once per machine, and nothing afterwards.
stage assets 1800 scripts/kube-assets.sh
KUBEBUILDER_ASSETS=$(scripts/kube-assets.sh --path-only)
export KUBEBUILDER_ASSETS
stage tests 2400 cargo test "${locked[@]}" --workspace --no-fail-fast
agent=$target_dir/debug/task-executor
stage fuzz 120 "$target_dir/debug/agent-fuzz" --agent "$agent" --seconds 20
stage sidecar 240 "$target_dir/debug/agent-chaos" --agent "$agent" --sidecar --rounds 60 --seconds 60 --jobs 4
stage chaos 480 "$target_dir/debug/agent-chaos" --agent "$agent" --rounds 400 --seconds 170 --jobs 8
