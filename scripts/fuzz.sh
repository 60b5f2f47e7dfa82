#!/usr/bin/env bash
# Runs every fuzz target for the given number of seconds (60). A crash leaves its input in fuzz/artifacts/.
set -euo pipefail

seconds=${1:-60}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo +nightly fuzz --version >/dev/null 2>&1 || {
  echo 'fuzzing needs nightly Rust and cargo-fuzz: rustup toolchain install nightly && cargo install cargo-fuzz' >&2
  exit 1
}
mapfile -t targets < <(cargo +nightly fuzz list)
for target in "${targets[@]}"; do
  printf '\n== %s\n' "$target"
  cargo +nightly fuzz run "$target" -- -max_total_time="$seconds"
done
printf '\nmake fuzz: %d targets, %d s each, no crash\n' "${#targets[@]}" "$seconds"
