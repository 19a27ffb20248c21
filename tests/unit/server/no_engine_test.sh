#!/bin/sh
# Usage: no_engine_test.sh PROGRAM. Fails when the program is linked with LibTorch or CUDA.
libraries=$(ldd "$1") || exit 1
if found=$(echo "$libraries" | grep -E 'libtorch|libc10|libcuda|libcublas|libcudnn|libnccl'); then
  echo "$1 links what only the worker may link:"
  echo "$found"
  exit 1
fi
