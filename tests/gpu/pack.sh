#!/usr/bin/env bash
# Packs test programs for a GPU machine that has a driver and the pinned LibTorch but none of the build's
# other libraries: stripped binaries, the shared libraries they need (LibTorch, CUDA and the C library
# left out), goldens and scripts.
# Usage: pack.sh BUILD_DIR OUT_DIR PROGRAM...   (programs relative to BUILD_DIR)
set -euo pipefail
build=$1 out=$2
shift 2
rm -rf "$out"
mkdir -p "$out/bin" "$out/lib"
for program in "$@"; do
  cp "$build/$program" "$out/bin/"
  strip "$out/bin/$(basename "$program")"
  ldd "$build/$program" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' |
    grep -v -E '/torch/lib/|/nvidia/|/cuda|/lib(c|m|dl|rt|pthread|stdc\+\+|gcc_s|gomp)\.so' |
    while read -r lib; do cp -Ln "$lib" "$out/lib/" || true; done
done
strip --strip-unneeded "$out"/lib/* 2>/dev/null || true
du -sh "$out" | cut -f1
