#!/usr/bin/env bash
# Counts the instructions of fixed pieces of work under callgrind and compares them with bench/counts/expected.tsv: what
# `make bench-check` runs, and `make test` with it. More than 5 % more fails; more than 5 % fewer does too, so that the
# figures are kept where they are. WRITE=1 keeps the new ones.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$repository"
export PATH=$HOME/.cargo/bin:$PATH
expected=bench/counts/expected.tsv
allowed_percent=5

if [[ $(uname -sm) != 'Linux x86_64' ]]; then
  echo "bench-check: NOT done: the figures are those of Linux on x86_64, not of $(uname -sm)"
  exit
fi
scripts/setup.sh counts
cargo build --quiet --profile counts --package walcast-counts
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

instructions_of() {
  local log=$scratch/$1
  valgrind --tool=callgrind --callgrind-out-file=/dev/null \
    --toggle-collect='*count_instructions_of*' target/counts/walcast-counts "$1" 2>"$log" || {
    cat "$log" >&2
    return 1
  }
  awk '/Collected :/ { print $NF; found = 1 } END { exit !found }' "$log"
}

failed=0
while IFS=$'\t' read -r name kept; do
  counted=$(instructions_of "$name")
  printf '%s\t%s\n' "$name" "$counted" >>"$scratch/new.tsv"
  change=$(awk -v new="$counted" -v old="$kept" 'BEGIN { printf "%+.2f", old ? (new / old - 1) * 100 : 0 }')
  verdict=$(awk -v change="$change" -v allowed="$allowed_percent" \
    'BEGIN { print (change + 0 > allowed + 0 ? "MORE" : change + 0 < -allowed ? "fewer" : "as before") }')
  printf 'bench-check: %-14s %14d instructions, %s %% (%s)\n' "$name" "$counted" "$change" "$verdict"
  [[ $verdict == 'as before' ]] || failed=1
done <"$expected"

if [[ ${WRITE:-} == 1 ]]; then
  cp "$scratch/new.tsv" "$expected"
  echo "bench-check: kept in $expected"
elif ((failed)); then
  echo "bench-check: beyond $allowed_percent %. Mend it, or say why in the commit that keeps the new figures: WRITE=1 make bench-check" >&2
  exit 1
fi
