#!/usr/bin/env bash
# Checks the dependencies against deny.toml. Licences, bans and sources need no network and always count.
# Advisories need the advisory database: a finding fails, a database that can't be fetched is only said aloud.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! cargo deny --version >/dev/null 2>&1; then
    echo "deny: SKIPPED: cargo-deny is not installed; 'make setup' installs it" >&2
    [[ ${CI:-} == true ]] && exit 1
    exit 0
fi

cargo deny check --hide-inclusion-graph licenses bans sources

export GIT_TERMINAL_PROMPT=0
if timeout 120 cargo deny fetch db </dev/null; then
    cargo deny check --hide-inclusion-graph --disable-fetch advisories
else
    echo "deny: NOTE: the advisory database could not be fetched, so known vulnerabilities were NOT checked" >&2
fi
