#!/usr/bin/env bash
# build_llama_cpp.sh LLAMA_CPP OUT: llama.cpp's CPU half (AVX2) and llama_logits as one static program. LLAMA_CPP is its source
# folder, e.g. vendor/llama.cpp of the package llama-cpp-python 0.3.36 (pip download --no-deps --no-binary :all:).
# 35 s on 16 cores.
set -euo pipefail
llama=$1 out=$2 here=$(cd "$(dirname "$0")" && pwd) objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT
sed 's/@GGML_VERSION@/0/; s/@GGML_BUILD_COMMIT@/0/' "$llama/ggml/src/ggml-version.h.in" >"$objects/ggml-version.h"
sed 's/@LLAMA_VERSION@/0/; s/@LLAMA_BUILD_COMMIT@/0/' "$llama/src/llama-version.h.in" >"$objects/llama-version.h"
export FLAGS="-O2 -DNDEBUG -mavx2 -mfma -mf16c -mbmi2 -DGGML_USE_CPU -D_GNU_SOURCE -DGGML_SCHED_MAX_COPIES=4 -I$objects
  -I$llama/ggml/include -I$llama/ggml/src -I$llama/ggml/src/ggml-cpu -I$llama/include -I$llama/src"
one() {
  case $1 in
    *.c) gcc -std=c11 $FLAGS -c "$1" -o "$2/$(echo "$1" | tr / _).o" ;;
    *) g++ -std=c++17 $FLAGS -c "$1" -o "$2/$(echo "$1" | tr / _).o" ;;
  esac
}
export -f one
cpu=$llama/ggml/src/ggml-cpu
{
  find "$llama/src" "$llama/ggml/src" -maxdepth 1 -name '*.c' -o -maxdepth 1 -name '*.cpp'
  find "$llama/src/models" "$cpu/amx" "$cpu/tiled" -name '*.cpp'
  find "$cpu" -maxdepth 1 -name '*.c' -o -maxdepth 1 -name '*.cpp'
  echo "$cpu/arch/x86/quants.c" "$cpu/arch/x86/repack.cpp" "$here/llama_logits.cc" | tr ' ' '\n'
} | xargs -P "$(nproc)" -I{} bash -c 'one {} '"$objects"
g++ -static "$objects"/*.o -o "$out" -lpthread -lm
