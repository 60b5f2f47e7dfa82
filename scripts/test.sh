#!/usr/bin/env bash
# Everything that must hold, from formatting to real clients and a browser: what `make test` runs. All tests share one
# private Postgres cluster, and each has a database of its own in it. The first failure ends it.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$repository"
export PATH=$HOME/.cargo/bin:$repository/.walcast/node/bin:$PATH
# Screenshots of the demo page.
export WALCAST_ARTIFACTS=${WALCAST_ARTIFACTS:-$repository/artifacts}

step() {
  printf '\n== %s\n' "$*"
}

step 'what this machine needs'
scripts/setup.sh test

# While the compiler works, the clients are installed.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
scripts/clients.sh >"$scratch/clients" 2>&1 &
clients=$!

step 'formatting'
cargo fmt --all --check

step 'lints'
cargo clippy --workspace --all-targets --quiet -- --deny warnings
# The fuzz targets need nightly to run, but they must compile.
cargo check --locked --manifest-path fuzz/Cargo.toml --target-dir target/fuzz --quiet

step 'dependencies'
scripts/deny.sh

step 'build'
cargo build --workspace --all-targets --quiet

step 'clients'
wait "$clients" || {
  cat "$scratch/clients"
  exit 1
}
cat "$scratch/clients"

step 'tests'
mkdir -p "$WALCAST_ARTIFACTS"
target/debug/testkit cluster --cache "$repository/.walcast/postgres" -- \
  cargo test --workspace --quiet --no-fail-fast 2>&1 | tee "$scratch/tests"

step 'instructions of the hot paths'
scripts/bench-check.sh

passed=$(awk '/^test result: ok\./ { sum += $4 } END { print sum + 0 }' "$scratch/tests")
printf '\nmake test: everything holds: formatting, lints, %d tests, in %d min %d s\n' \
  "$passed" $((SECONDS / 60)) $((SECONDS % 60))
printf '%d passed, 0 failed\n' "$passed"
