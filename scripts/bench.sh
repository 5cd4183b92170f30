#!/usr/bin/env bash
# Measures the static binary and writes docs/benchmarks.md. Arguments go to the benchmark: `scripts/bench.sh --quick`.
set -euo pipefail
cd "$(dirname "$0")/.."

target_dir=${CARGO_TARGET_DIR:-target}
# The tasks and the shim of the floor are built as the agent is.
scripts/dist.sh testkit bench-task
cargo build ${LOCKED:+--locked} --release -p testkit --bin agent-bench
"$target_dir/release/agent-bench" --agent "$target_dir/dist/task-executor" --out docs/benchmarks.md "$@"
