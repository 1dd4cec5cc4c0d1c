#!/usr/bin/env bash
# Trains the study on one GPU: run.sh ROWS_AT_ONCE OVERRIDE ...
#   experiments/study/run.sh 16 dataset.root=<lspet> backbone.weights=<mobilenet_v2.pth>
# A row's seeds are one multirun, one after the other; rows run side by side. Run again, it resumes what was interrupted
# and passes over what is finished. Start `nvidia-cuda-mps-control -d` before, so that the rows' kernels share the GPU.
set -u
at_once=${1:?rows at once}
shift
rows=${ROWS:-p3 p1 p1_wide p8 p5 random frozen first_order lr_100 lr_10 p3_random_0 p3_random_1 p3_random_2 d1 d4 d16 posenfs second_order gumbel}
mkdir -p runs/logs
export OMP_NUM_THREADS=1
for row in $rows; do echo "$row"; done | xargs -P "$at_once" -I ROW sh -c '
    pnfs train -m experiment=study/ROW seed=${SEEDS:-0,1,2} profile=lspet_gpu "$@" > runs/logs/ROW.log 2>&1 ||
        echo "ROW: failed, see runs/logs/ROW.log"' \
    run trainer.enable_progress_bar=false "$@"
