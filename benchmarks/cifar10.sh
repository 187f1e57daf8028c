#!/usr/bin/env bash
# Heals a small network on CIFAR-10 images from a tenth of its poisoned samples, on two cores.
#
#   benchmarks/cifar10.sh DATA OUT [NETWORK]
#
# DATA     folder with train/<class>/* and test/<class>/* of CIFAR-10
# OUT      gets one run folder per step, table.csv and classes.csv; a step that is there already is not done again
# NETWORK  resnet9 (default): a quarter of the width, 12,800 images, 200 of them poisoned and 20 found. XLF over groups
#          of 16 samples, XLF, LF and SSD exact per sample as the equations are printed, and XLF as the public code does
#          it. vit: six blocks of width 96, 25,600 images as stored, 1,280 poisoned and 128 found. XLF, LF and SSD over
#          groups of 64, the default, XLF over groups of 16 and over whole batches. $SEED, 0 unless it is set, is that of
#          data, poison and training
#
# Two runs side by side, one thread each.
set -euo pipefail
usage="usage: benchmarks/cifar10.sh DATA OUT [resnet9 | vit]"
data=${1:?$usage}
out=${2:?$usage}
network=${3:-resnet9}
here=$(cd "$(dirname "$0")" && pwd)
case $network in
  resnet9) settings=(--train-size 12800 --width 16 --iterations 4000 --lr 0.05 --poisoned 200 --found 20) ;;
  vit)
    settings=(--train-size 25600 --width 96 --iterations 2400 --lr 0.001 --poisoned 1280 --found 128
      --optimizer adamw --weight-decay 0.05 --schedule cosine --no-augment)
    ;;
  *) echo "$usage" >&2 && exit 2 ;;
esac
mkdir -p "$out"
export OMP_NUM_THREADS=1

train() { # name, flags
  [ -e "$out/$1/metrics.json" ] || potion-fast train --data folder --root "$data" --model "$network" --batch-size 128 \
    "${settings[@]}" --seed "${SEED:-0}" --quiet --out "$out/$1" "${@:2}"
}

unlearn() { # name, flags; exit code 3 means that the search ended before its threshold, and the table says so
  [ -e "$out/$1/metrics.json" ] || potion-fast unlearn "$out/poisoned" --reference "$out/clean" --quiet \
    --out "$out/$1" "${@:2}" || [ $? -eq 3 ]
}

both() { wait -n && wait -n; }

train poisoned & train clean --leave-out-poisoned & both
if [ "$network" = resnet9 ]; then
  runs=(xlf-groups-of-16 xlf-groups-of-1 lf-groups-of-1 ssd-groups-of-1 xlf-reference)
  unlearn xlf-groups-of-16 --group-size 16 --curve & unlearn xlf-groups-of-1 --group-size 1 & both
  unlearn lf-groups-of-1 --objective lf --group-size 1 & unlearn ssd-groups-of-1 --objective ssd --group-size 1 & both
  unlearn xlf-reference --mode reference
else
  runs=(xlf-groups-of-64 lf-groups-of-64 ssd-groups-of-64 xlf-groups-of-16 xlf-batches)
  unlearn xlf-groups-of-64 & unlearn lf-groups-of-64 --objective lf & both
  unlearn ssd-groups-of-64 --objective ssd & unlearn xlf-groups-of-16 --group-size 16 & both
  unlearn xlf-batches --group-size batch
fi

every() { printf '%s\n' poisoned clean "${runs[@]}" | sed "s|^|$out/|" | xargs -d '\n' python3 "$here/studies/$1"; }

every run_table.py > "$out/table.csv"
every class_accuracy.py > "$out/classes.csv"
cat "$out/table.csv"
