#!/usr/bin/env bash
# Installs what is missing, builds the release preset and runs all tests, then the light fuzz targets. Arguments go to ctest,
# e.g. `tests/run.sh -R text` or `tests/run.sh -L fast`.
set -euo pipefail
cd "$(dirname "$0")/.."
./deploy/install_deps.sh --oracles --client --model
cmake --preset release
cmake --build --preset release
ctest --preset release "$@"
# Each parser and the queue's core for some seconds; not when chosen tests are run.
if [ $# = 0 ]; then
  ./deploy/install_deps.sh --fuzz
  TARGETS=light ./tests/fuzz/run.sh "${FUZZ_SECONDS:-10}"
fi
