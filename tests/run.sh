#!/usr/bin/env bash
# Installs what is missing, builds the release preset and runs all tests. Arguments go to ctest,
# e.g. `tests/run.sh -R text` or `tests/run.sh -L fast`.
set -euo pipefail
cd "$(dirname "$0")/.."
./deploy/install_deps.sh --oracles --client --model
cmake --preset release
cmake --build --preset release
ctest --preset release "$@"
