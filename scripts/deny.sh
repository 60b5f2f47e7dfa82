#!/usr/bin/env bash
# Checks what comes in with dependencies: licences, duplicates, sources and known vulnerabilities, as deny.toml says.
#
# The list of vulnerabilities is fetched from the network. Where that fails and there is none from before, the rest is
# checked and the missing part said, loudly; with WALCAST_REQUIRE_ADVISORIES=1 it is a failure, as in the workflow.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$repository"
export PATH=$HOME/.cargo/bin:$repository/.walcast/bin:$PATH

if ! command -v cargo-deny >/dev/null; then
  echo "deny: cargo-deny is not installed: dependencies are NOT checked (cargo install cargo-deny --locked)" >&2
  [[ ${WALCAST_REQUIRE_ADVISORIES:-} != 1 ]]
  exit
fi

database() { compgen -G "$HOME/.cargo/advisory-dbs/*/crates" >/dev/null; }

checks=(licenses bans sources)
cargo fetch --quiet --locked
if timeout 60 cargo-deny --log-level off fetch db 2>/dev/null; then
  checks=(advisories "${checks[@]}")
elif [[ ${WALCAST_REQUIRE_ADVISORIES:-} == 1 ]]; then
  echo "deny: the list of known vulnerabilities can not be fetched" >&2
  exit 1
elif database; then
  echo "deny: the list of known vulnerabilities can not be fetched; the last one that was is used"
  checks=(advisories "${checks[@]}")
else
  echo "deny: the list of known vulnerabilities can not be fetched: advisories are NOT checked, the rest is"
fi

for check in "${checks[@]}"; do
  # The list has been fetched above, as far as it can be.
  options=()
  if [[ $check == advisories ]]; then options=(--offline); fi
  cargo-deny --log-level warn "${options[@]}" check --hide-inclusion-graph "$check"
done
