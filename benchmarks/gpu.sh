#!/usr/bin/env bash
# Builds on a CUDA machine, proves the kernels right there, then measures them. Needs no network.
#
#   benchmarks/gpu.sh OUT [STAGE ...]
#
# OUT    gets one log per step, doctor.json, machine.csv, benchmarks.json, and for README.md end_to_end.csv,
#        step_profile.csv with its trace, photographs.csv and candidates.csv, each as soon as it is there
# STAGE  build, tests, sanitizer, end_to_end, profile, benchmarks; these six in this order by default. Correctness comes
#        first, so a run that is cut off has told what matters most. A stage that fails does not stop the next ones, but
#        the script then ends with 1. Two stages come only on request: compiled, which writes passes.csv, and tune, which
#        writes the table of tiles for kernels/tiles.py to tune.log.
#
# Each stage has so many seconds and what the ones before it left over; what is still running then is ended and counts
# as failed. The six have 540 seconds together, 9 minutes.
#
# python3 must have torch, timm, safetensors, scikit-build-core, pybind11, pytest, pytest-benchmark and hypothesis.
set -uo pipefail
out=${1:?usage: benchmarks/gpu.sh OUT [STAGE ...]}
shift
stages=("$@")
[ ${#stages[@]} -gt 0 ] || stages=(build tests sanitizer end_to_end profile benchmarks)
declare -A seconds=([build]=90 [tests]=120 [sanitizer]=70 [end_to_end]=150 [profile]=30 [benchmarks]=80 [compiled]=420
  [tune]=1800)
for stage in "${stages[@]}"; do
  [ -n "${seconds[$stage]:-}" ] || { echo "unknown stage $stage; choose of ${!seconds[*]}" >&2; exit 2; }
done
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.." || exit 1
export PYTHONUNBUFFERED=1
failed=0
deadline=0 # of the stage at hand, in seconds since the script began

step() { # log, command
  local left=$((deadline - SECONDS))
  echo "== $1: ${*:2}"
  [ $left -gt 0 ] || { echo "== $1 left out: no time"; failed=1; return; }
  timeout --kill-after=5 $left "${@:2}" > "$out/$1.log" 2>&1
  local status=$?
  tail -n 3 "$out/$1.log"
  [ $status -eq 0 ] || { echo "== $1 failed with $status"; failed=1; }
}

build() {
  POTION_FAST_REQUIRE_NATIVE=1 POTION_FAST_CUDA=ON step build \
    python3 -m pip install --no-build-isolation --no-deps --quiet --editable .
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv > "$out/machine.csv"
  python3 -m potion_fast.cli.main doctor --json > "$out/doctor.json" || failed=1
}

tests() { # whatever runs a kernel, on every backend that this machine has
  step tests python3 -m pytest -q -m "not gpu_code" -k "not on_the_host" \
    tests/ops --ignore tests/ops/test_cuda_on_cpu.py tests/edits/test_edits.py tests/search/test_evaluation.py tests/search/test_strategies.py tests/test_unlearning.py tests/utils/test_memory.py \
    tests/bench/training/test_training.py tests/bench/data/test_loader.py \
    tests/bench/attacks/test_perturbations.py tests/bench/metrics/test_gaussian.py
  step tests_engine python3 -m pytest -q -k "not large" tests/importances/test_engine.py
}

# Test files of the operations that have a source of the first pattern and none of the second.
tests_of() { # pattern, pattern
  local source stem
  for source in $1; do
    stem=$(basename "${source%.*}")
    [ ! -f "tests/ops/test_$stem.py" ] || [ -f "${2//\*/$stem}" ] || echo "tests/ops/test_$stem.py"
  done
}

sanitizer() { # memory errors in the CUDA kernels, and in Triton's where masks guard every edge of a tile
  # shellcheck disable=SC2046 # one argument for each file
  step sanitizer compute-sanitizer --tool memcheck --error-exitcode 9 \
    python3 -m pytest -q -k "cuda and not on_the_host" $(tests_of "csrc/cuda/*.cu" "")
  # shellcheck disable=SC2046
  step sanitizer_triton compute-sanitizer --tool memcheck --error-exitcode 9 \
    python3 -m pytest -q -k "triton" $(tests_of "kernels/*.py" "csrc/cuda/*.cu")
}

end_to_end() { # the whole method beside the public code's form
  step end_to_end python3 benchmarks/studies/end_to_end.py "$out/end_to_end.csv" --device cuda --rounds 3 --batches 6 \
    --jpegs 768 --workers "$(nproc)"
}

profile() { # where each millisecond of a step goes
  step step_profile python3 benchmarks/studies/step_profile.py "$out/step_profile.csv" --device cuda
}

benchmarks() {
  step candidates python3 benchmarks/studies/candidates.py "$out/candidates.csv" --device cuda --rounds 9 \
    --networks resnet9 wrn vit_b16 vit_h14 --methods percentiles groups plan edits search numpy topk sort dense
  step photographs python3 benchmarks/studies/photographs.py "$out/photographs.csv" --workers 1 "$(nproc)" --rounds 3
  step benchmarks python3 -m pytest -q benchmarks --benchmark-only --benchmark-json "$out/benchmarks.json"
}

compiled() { # a plain pass and ours as torch.compile makes them, beside both as they are
  step tests_compiled python3 -m pytest -q tests/importances/test_compiled.py
  step passes python3 benchmarks/studies/passes.py "$out/passes.csv" --device cuda --amp --networks vit_b16 --rounds 5 \
    --methods plain plain_compiled potion_fast potion_fast_compiled
}

tune() { # about a second to compile each of some 700 candidates
  step tune python3 benchmarks/studies/tune_tiles.py
}

for stage in "${stages[@]}"; do
  deadline=$((deadline + seconds[$stage]))
  "$stage"
done
exit $failed
