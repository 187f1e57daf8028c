#!/usr/bin/env bash
# Heals a poisoned narrow ResNet-9 on 12,800 CIFAR-10 images from a tenth of its 200 poisoned samples, on two cores.
#
#   benchmarks/cifar10.sh DATA OUT
#
# DATA  folder with train/<class>/* and test/<class>/* of CIFAR-10
# OUT   gets one run folder per step, and table.csv; a step that is there already is not done again
#
# XLF over groups of 16 samples, XLF, LF and SSD exact per sample as the equations are printed, and XLF as the public
# code does it. Two runs side by side, one thread each.
set -euo pipefail
data=${1:?usage: benchmarks/cifar10.sh DATA OUT}
out=${2:?usage: benchmarks/cifar10.sh DATA OUT}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
export OMP_NUM_THREADS=1

train() { # name, flags
  [ -e "$out/$1/metrics.json" ] || potion-fast train --data folder --root "$data" --train-size 12800 \
    --model resnet9 --width 16 --iterations 4000 --batch-size 128 --lr 0.05 --poisoned 200 --found 20 --quiet \
    --out "$out/$1" "${@:2}"
}

unlearn() { # name, flags; exit code 3 means that the search ended before its threshold, and the table says so
  [ -e "$out/$1/metrics.json" ] || potion-fast unlearn "$out/poisoned" --reference "$out/clean" --quiet \
    --out "$out/$1" "${@:2}" || [ $? -eq 3 ]
}

both() { wait -n && wait -n; }

train poisoned & train clean --leave-out-poisoned & both
unlearn xlf-groups-of-16 --group-size 16 --curve & unlearn xlf-groups-of-1 --group-size 1 & both
unlearn lf-groups-of-1 --objective lf --group-size 1 & unlearn ssd-groups-of-1 --objective ssd --group-size 1 & both
unlearn xlf-reference --mode reference

for run in poisoned clean xlf-groups-of-16 xlf-groups-of-1 lf-groups-of-1 ssd-groups-of-1 xlf-reference; do echo "$out/$run"; done |
  xargs python3 "$here/table.py" > "$out/table.csv"
cat "$out/table.csv"
