#!/usr/bin/env bash
# walcast beside its peers, in one run on this machine: what `make bench` runs. Installs the peers below bench/peers where
# what is installed is not what is asked for; all arguments go to bench/compare.py.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$repository"
export PATH=$HOME/.cargo/bin:$repository/.walcast/node/bin:$PATH

scripts/setup.sh test
cargo build --release --package walcast

cd bench/peers
if ! cmp -s package-lock.json node_modules/.installed; then
  echo 'bench: installing the peers of Node.js and Bun'
  npm ci --no-audit --no-fund --loglevel=error
  cp package-lock.json node_modules/.installed
fi
if ! cmp -s requirements.txt .venv/.installed; then
  echo 'bench: installing the peers of Python'
  python3 -m venv --clear .venv
  .venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
  cp requirements.txt .venv/.installed
fi
cd ..
exec python3 compare.py "$@"
