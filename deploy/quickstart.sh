#!/usr/bin/env bash
# From nothing to a trained adapter: installs, builds, starts the daemon on its Unix socket, fine-tunes
# SmolLM2-135M-Instruct on the sample rows, fetches the adapter. Safe to run again: finished steps are
# skipped, the daemon is reused, each run submits a new job. Keeps everything below .quickstart/.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
home=$root/.quickstart
build=$root/build/release
export PATH="$build/bin:$PATH"

step() { printf '\n== %s\n' "$*"; }

step "Installing what is missing"
./deploy/install_deps.sh --model

step "Building"
cmake --preset release -DFINETUNED_BUILD_TESTS=OFF >"$root/build/configure.log" 2>&1 ||
  { cat "$root/build/configure.log"; exit 1; }
cmake --build --preset release

step "Starting the daemon"
mkdir -p "$home"
cat >"$home/config.yaml" <<EOF
# Configuration of the quickstart daemon; finetuned --print-config shows every key.
state_dir: $home/state
web:
  address: 127.0.0.1:9466
models:
  smollm2: $root/.deps/models/SmolLM2-135M-Instruct.Q4_1.gguf
EOF
if finetune info >/dev/null 2>&1; then
  if ! finetune info | grep -q '^model smollm2:'; then
    echo "Another finetuned daemon listens on the default socket and has no model smollm2." >&2
    echo "Add it to its configuration, or stop that daemon: finetune drain" >&2
    exit 1
  fi
  echo "It runs already."
else
  setsid "$build/bin/finetuned" --config "$home/config.yaml" >>"$home/daemon.log" 2>&1 </dev/null &
  for _ in $(seq 100); do
    finetune info >/dev/null 2>&1 && break
    sleep 0.1
  done
fi
finetune doctor || { tail -n 20 "$home/daemon.log" >&2; exit 1; }

step "Fine-tuning on deploy/samples (Ctrl-C detaches)"
job="quickstart-$(date +%Y%m%d-%H%M%S)"
finetune run sft --name "$job" --model smollm2 \
  --data deploy/samples/identity_train.jsonl --eval deploy/samples/identity_eval.jsonl \
  --max-steps 30 --micro-batch-size 4 --max-seq-length 256 --lr 5e-4 --warmup-ratio 0.1 \
  --loss-on assistant --eval-first

step "Result"
finetune pull "$job" --to "$home/adapters/$job" >/dev/null 2>&1
finetune logs "$job" | python3 -c '
import json, sys
events = [json.loads(line) for line in sys.stdin]
loss = [e["metrics"]["values"]["loss"] for e in events if "metrics" in e]
held = [e["eval"]["values"]["eval_loss"] for e in events if "eval" in e]
print(f"training loss  {loss[0]:.4f} -> {loss[-1]:.4f}  ({len(loss)} steps)")
if len(held) > 1: print(f"held-out loss  {held[0]:.4f} -> {held[-1]:.4f}")
'
echo "adapter        $home/adapters/$job"
echo
echo "The daemon goes on. Its queue: build/release/bin/finetune ls    In a browser: http://127.0.0.1:9466"
echo "Stop it: build/release/bin/finetune drain"
