#!/usr/bin/env bash
# Builds on a CUDA machine, proves the kernels right there, then measures them. Needs no network.
#
#   benchmarks/gpu.sh OUT [STAGE ...]
#
# OUT    gets one log per stage, doctor.json, machine.csv, candidates.csv and benchmarks.json, each as soon as it is there
# STAGE  build, tests, sanitizer, benchmarks; these four in this order by default. Correctness comes first, so a run
#        that is cut off has told what matters most. A stage that fails does not stop the next ones, but the script
#        then ends with 1. The stage tune, only on request, writes the table of tiles for kernels/tiles.py to tune.log.
#
# python3 must have torch, timm, safetensors, scikit-build-core, pybind11, pytest, pytest-benchmark and hypothesis.
set -uo pipefail
out=${1:?usage: benchmarks/gpu.sh OUT [STAGE ...]}
shift
stages=("$@")
[ ${#stages[@]} -gt 0 ] || stages=(build tests sanitizer benchmarks)
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.." || exit 1
export PYTHONUNBUFFERED=1
failed=0

step() { # seconds, log, command
  echo "== $2: ${*:3}"
  timeout "$1" "${@:3}" > "$out/$2.log" 2>&1
  local status=$?
  tail -n 3 "$out/$2.log"
  [ $status -eq 0 ] || { echo "== $2 failed with $status"; failed=1; }
}

build() {
  POTION_FAST_REQUIRE_NATIVE=1 POTION_FAST_CUDA=ON step 180 build \
    python3 -m pip install --no-build-isolation --no-deps --quiet --editable .
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv > "$out/machine.csv"
  python3 -m potion_fast.cli doctor --json > "$out/doctor.json" || failed=1
}

tests() { # whatever runs a kernel, on every backend that this machine has
  step 360 tests python3 -m pytest -q -m "not gpu_code" tests/test_ops.py tests/test_accumulate.py \
    tests/test_accumulate_linear.py tests/test_accumulate_conv.py tests/test_dampen.py tests/test_select.py \
    tests/test_group.py tests/test_put.py tests/test_kernels.py tests/test_channel_sums.py tests/test_row_sums.py \
    tests/test_edits.py tests/test_strategies.py tests/test_unlearning.py tests/test_training.py tests/test_loader.py \
    tests/test_perturbations.py tests/test_gaussian.py
  step 240 tests_engine python3 -m pytest -q -k "not large" tests/test_engine.py
}

sanitizer() { # memory errors in the CUDA kernels, and in Triton's where masks guard every edge of a tile
  step 150 sanitizer compute-sanitizer --tool memcheck --error-exitcode 9 \
    python3 -m pytest -q -k "cuda" tests/test_accumulate.py tests/test_dampen.py tests/test_select.py \
    tests/test_group.py tests/test_put.py
  step 300 sanitizer_triton compute-sanitizer --tool memcheck --error-exitcode 9 \
    python3 -m pytest -q -k "triton" tests/test_accumulate_linear.py tests/test_accumulate_conv.py
}

benchmarks() {
  step 180 candidates python3 benchmarks/candidates.py "$out/candidates.csv" --device cuda --rounds 9 \
    --networks resnet9 wrn vit_b16 vit_h14 --methods percentiles groups plan edits search numpy topk sort dense
  step 300 benchmarks python3 -m pytest -q benchmarks --benchmark-only --benchmark-json "$out/benchmarks.json"
}

tune() { # about a second to compile each of some 700 candidates
  step 1800 tune python3 benchmarks/tune.py
}

for stage in "${stages[@]}"; do
  case $stage in
    build | tests | sanitizer | benchmarks | tune) "$stage" ;;
    *) echo "unknown stage $stage; choose build, tests, sanitizer, benchmarks or tune" >&2; exit 2 ;;
  esac
done
exit $failed
