#!/usr/bin/env bash
# Every check and every test, in the order in which they fail fastest. `make test` calls it, after the set-up.
#
# The last line is a summary of all test binaries: "N passed, N failed".
set -uo pipefail
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed_steps=()

# Runs a step; a failure is told at the end, and does not keep the later steps from being run.
step() {
    local name=$1
    shift
    printf '\n== %s\n' "$name"
    "$@" || { failed_steps+=("$name"); printf '== %s FAILED\n' "$name"; }
}

tests() {
    # Not through nextest: the life cycle's tests share one cluster, which is one process's to start and to take down.
    cargo test --workspace --exclude xebec-ebpf-programs --exclude xebec-sim --no-fail-fast 2>&1 | tee -a "$log"
    return "${PIPESTATUS[0]}"
}

# With optimisation: it lives through minutes of hundreds of nodes, in a second or two then.
simulation() {
    cargo test --release --package xebec-sim --no-fail-fast 2>&1 | tee -a "$log"
    return "${PIPESTATUS[0]}"
}

step "format" cargo fmt --all --check
step "lints" cargo clippy --workspace --exclude xebec-ebpf-programs --all-targets --quiet -- -D warnings
step "house rules" cargo run --quiet --package xtask -- tidy
step "tests" tests
step "simulation" simulation

passed=$(sed -n 's/^test result: .* \([0-9]*\) passed; .*/\1/p' "$log" | awk '{n += $1} END {print n + 0}')
failed=$(sed -n 's/^test result: .* \([0-9]*\) failed; .*/\1/p' "$log" | awk '{n += $1} END {print n + 0}')
if [ ${#failed_steps[@]} -gt 0 ]; then
    # What failed and what it said, once more: who reads the end of a long log must not have to look for it.
    sed -n '/^failures:$/,/^test result:/p' "$log" | cut -c -2000 | tail -n 300
    printf '\nfailed: %s\n' "${failed_steps[*]}"
    # A step that failed without a failed test, such as a lint, counts as one.
    [ "$failed" -gt 0 ] || failed=${#failed_steps[@]}
fi
printf '%s passed, %s failed\n' "$passed" "$failed"
[ ${#failed_steps[@]} -eq 0 ] && [ "$passed" -gt 0 ]
