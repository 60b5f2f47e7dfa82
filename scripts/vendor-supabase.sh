#!/usr/bin/env bash
# Rebuilds crates/server/page/vendor/supabase.js: the stock @supabase/supabase-js of the npm registry as one minified
# ES module, so that the demo page needs nothing from outside. Run it through `make vendor` after raising a version here.
set -euo pipefail

supabase_version=2.119.1
esbuild_version=0.28.2

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
vendor=$repository/crates/server/page/vendor
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

cd "$build"
echo '{ "private": true, "type": "module" }' > package.json
# The newest client asks for Node 22 to run; to bundle it an older Node does as well.
npm install --no-audit --no-fund --loglevel=error \
  "@supabase/supabase-js@$supabase_version" "esbuild@$esbuild_version"

echo "export { createClient } from '@supabase/supabase-js';" > entry.js
npx --no-install esbuild entry.js \
  --bundle --format=esm --platform=browser --target=es2022 --minify --charset=utf8 --legal-comments=none \
  --metafile=meta.json --outfile=bundle.js --log-level=warning \
  --banner:js="// @supabase/supabase-js $supabase_version, unchanged, bundled by scripts/vendor-supabase.sh. Licences: supabase.LICENSE.txt"

# The licence text of every package that ended up in the bundle.
node --input-type=module > licences.txt <<'NODE'
import { readFileSync, readdirSync } from 'node:fs';
const inputs = Object.keys(JSON.parse(readFileSync('meta.json', 'utf8')).inputs);
const names = new Set(inputs.flatMap((path) => path.match(/node_modules\/((?:@[^/]+\/)?[^/]+)\//)?.[1] ?? []));
const notices = [...names].sort().map((name) => {
  const folder = `node_modules/${name}`;
  const { version, license } = JSON.parse(readFileSync(`${folder}/package.json`, 'utf8'));
  const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
  if (!file) throw new Error(`${name} ships no licence text: add one by hand`);
  const text = readFileSync(`${folder}/${file}`, 'utf8').replace(/\r\n/g, '\n').trim();
  return `${name} ${version} (${license})\n\n${text}\n`;
});
process.stdout.write(`supabase.js bundles these packages:\n\n${notices.join(`\n${'-'.repeat(72)}\n\n`)}`);
NODE

mkdir -p "$vendor"
cp bundle.js "$vendor/supabase.js"
cp licences.txt "$vendor/supabase.LICENSE.txt"
ls -l "$vendor"
