# The single human entrance. `make help` lists what there is; the logic is in scripts/ and in the testkit's programs.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

TARGET_DIR   := $(or $(CARGO_TARGET_DIR),target)
DIST         := $(TARGET_DIR)/dist/task-executor
AGENT        := $(TARGET_DIR)/debug/task-executor

.PHONY: help run demo bench-operator kube-assets setup kube-assets build test check chaos fuzz fmt deny gen dist image bench clean

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)$$/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

run: ## start the agent on 127.0.0.1:5758 with its data in ./data/tasks
	cargo run -p task-executor -- --data-dir=./data/tasks --listen-addr=127.0.0.1:5758

setup: ## install what the other targets need, or say what is missing
	scripts/setup.sh

kube-assets: ## build etcd, kube-apiserver and kubectl for the operator's tests, once per machine
	scripts/kube-assets.sh

build: ## compile everything, tests included
	cargo build --workspace --all-targets

test: ## everything that CI runs: lints, docs, dependencies, all tests
	scripts/test.sh

check: ## the quick subset to run before each commit: format, clippy, house rules
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo test -q -p house

chaos: ## attack real agents with seeded faults; ARGS="--rounds 1 --seed S" repeats a round
	cargo build --workspace --bins
	$(TARGET_DIR)/debug/agent-chaos --agent $(AGENT) $(or $(ARGS),--rounds 400 --seconds 170 --jobs 8)

fuzz: ## fuzz bodies, records, queries and raw HTTP; ARGS="--seconds N --seed S" repeats a run
	cargo build --workspace --bins
	$(TARGET_DIR)/debug/agent-fuzz --agent $(AGENT) $(or $(ARGS),--seconds 20)

fmt: ## format the source
	cargo fmt --all

deny: ## check licences, versions, sources and advisories of the dependencies
	scripts/deny.sh

gen: ## write docs/openapi.json, the help texts and crds/ from the code
	cargo build --workspace --bins
	$(TARGET_DIR)/debug/gen

dist: ## build the static binary that ships, as target/dist/task-executor
	scripts/dist.sh

image: dist ## build the image task-executor:dev from the static binary alone
	scripts/image.sh

demo: ## run the whole pipeline here: API server, operator, 20 agents; ARGS=--keep stays for kubectl
	cargo build --workspace --bins
	KUBEBUILDER_ASSETS="$$(scripts/kube-assets.sh)" $(TARGET_DIR)/debug/operator-demo $(ARGS)

bench-operator: dist ## measure the operator with 1,000 agents and write docs/benchmarks-operator.md
	cargo build --release -p sandbox-operator -p testkit-kube --bins
	KUBEBUILDER_ASSETS="$$(scripts/kube-assets.sh)" $(TARGET_DIR)/release/operator-bench \
	    --operator $(TARGET_DIR)/release/sandbox-operator --agent $(DIST) --out docs/benchmarks-operator.md $(ARGS)

bench: dist ## measure the static binary against its bars and write docs/benchmarks.md
	scripts/bench.sh

clean: ## remove what the builds made; ./data is kept
	cargo clean
