#!/usr/bin/env bash
# Installs the stock clients and the browser driver that the tests use, each in its own folder below tests/. Does
# nothing where what is installed is what is asked for.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# install_in FOLDER LIST COMMAND…: runs COMMAND in FOLDER unless it was run for this very LIST before.
install_in() {
  local folder=$repository/$1 list=$2
  shift 2
  [[ -f $folder/$list ]] || return 0
  local mark=$folder/node_modules/.installed
  [[ $list == requirements.txt ]] && mark=$folder/.venv/.installed
  cmp -s "$folder/$list" "$mark" && return
  echo "clients: installing $(realpath --relative-to="$repository" "$folder")"
  (cd "$folder" && "$@")
  cp "$folder/$list" "$mark"
}

node_packages() {
  # Tested against newer Node.js too: a client that asks for one in its package.json still runs on 20.
  npm ci --no-audit --no-fund --loglevel=error
}

python_packages() {
  python3 -m venv --clear .venv
  .venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
}

install_in tests/clients/js package-lock.json node_packages
install_in tests/browser package-lock.json node_packages
install_in tests/clients/python requirements.txt python_packages
