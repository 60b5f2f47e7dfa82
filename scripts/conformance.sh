#!/usr/bin/env bash
# The 300 numbered cases of docs/protocol.md §15: what `make conformance` runs. The last line says how many there are as
# tests, how many do not apply, and how many are still to come.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$repository"
export PATH=$HOME/.cargo/bin:$repository/.walcast/node/bin:$PATH

scripts/setup.sh test
scripts/clients.sh
cargo test --package walcast-tests --test conformance --quiet
# Once more for its line alone, which the test program keeps to itself when all is well.
cargo test --package walcast-tests --test conformance --quiet -- --nocapture every_case_is_a_test | grep '^conformance: '
