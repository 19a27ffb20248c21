#!/usr/bin/env bash
# Builds the fuzz targets (clang, AddressSanitizer and UndefinedBehaviorSanitizer) and runs them.
#   run.sh              every target for 5 s
#   run.sh SECONDS      every target for so long
#   run.sh --long [N]   every target for N executions (10 million), the corpus kept and grown in build/fuzz/corpus
#   run.sh --replay     the committed inputs only, each once
# TARGETS="gguf rows" chooses targets; TARGETS=light leaves out those that need the whole server, more than half of the
# build; tests/run.sh runs the others. Two run at a time. A finding ends with exit code 1 and its input in
# build/fuzz/findings; give the file to the target to see it again: build/fuzz/tests/fuzz/fuzz_gguf FILE.
set -euo pipefail
cd "$(dirname "$0")/../.."
mode=${1:-5}
light="safetensors gguf hf_config tokenizer chat_template rows rewards job_file config scheduler"
targets=${TARGETS:-$light api_text calls}
[ "$targets" = light ] && targets=$light

cmake --preset fuzz >build-fuzz.log 2>&1 || { cat build-fuzz.log; exit 1; }
rm -f build-fuzz.log
build() { cmake --build --preset fuzz --target $(printf 'fuzz_%s ' $targets); }
# Files built as one unit may use a name twice; then each file is compiled alone.
build || { cmake --preset fuzz -DCMAKE_UNITY_BUILD=OFF >/dev/null && build; }

run_one() {
  local name=$1 mode=$2 work=build/fuzz/corpus/$1
  local options=(-timeout=30 -rss_limit_mb=3000 -print_final_stats=1 -artifact_prefix=build/fuzz/findings/$name-)
  [ -f tests/fuzz/dictionaries/$name.dict ] && options+=(-dict=tests/fuzz/dictionaries/$name.dict)
  mkdir -p "$work"
  case $mode in
    --long) options+=(-runs=${RUNS:-10000000} -max_len=8192 "$work") ;;
    --replay) options+=(-runs=0) ;;
    # The same inputs every time: CI does not fail by chance, --long looks for new ones.
    *) work=$(mktemp -d); options+=(-max_total_time=$mode -max_len=4096 -seed=1 "$work") ;;
  esac
  # What the code under test prints of protobuf's parser is not of interest.
  if build/fuzz/tests/fuzz/fuzz_$name "${options[@]}" tests/fuzz/corpus/$name >build/fuzz/$name.log 2>&1; then
    awk -v name=$name '/^stat::number_of_executed_units/ {n = $2} /^stat::average_exec_per_sec/ {s = $2}
      END {printf "%-14s ok  %9d executions, %6d/s\n", name, n, s}' build/fuzz/$name.log
  else
    echo "$name: FINDING"; grep -a -E "broken promise|ERROR:|runtime error|SUMMARY|artifact" build/fuzz/$name.log || tail -20 build/fuzz/$name.log
    return 1
  fi
}
export -f run_one
[ "$mode" = --long ] && export RUNS=${2:-10000000}
mkdir -p build/fuzz/findings
printf '%s\n' $targets | xargs -P 2 -I{} bash -c "run_one {} $mode"
