#!/usr/bin/env bash
# From a bare clone to a trained, tested CSR model: draws data, trains three stages, prints the test table.
# Usage: scripts/demo.sh [--seed N] [--short] [--ranks N]
#   --short: a smoke run of about a minute, no quality to expect
#   --ranks: processes that share each step (default: one a GPU; without a GPU one, whose threads take all cores)
set -euo pipefail
cd "$(dirname "$0")/.."
seed=0
short=""
ranks=""
while [ $# -gt 0 ]; do
    case "$1" in
        --seed) seed="${2:?--seed needs a number}"; shift 2 ;;
        --short) short=1; shift ;;
        --ranks) ranks="${2:?--ranks needs a number}"; shift 2 ;;
        *) echo "csr: error: unknown argument $1; usage: scripts/demo.sh [--seed N] [--short] [--ranks N]" >&2; exit 2 ;;
    esac
done
case "$ranks" in
    *[!0-9]* | 0*) echo "csr: error: --ranks $ranks: give a number from 1" >&2; exit 2 ;;
esac
. scripts/environment.sh

out="${CSR_DEMO_OUT:-demo_results}"
num_train=600 num_test=200 epochs="16 10 20"
[ -z "$short" ] || { num_train=64; num_test=32; epochs="1 5 2"; }
read -r e1 e2 e3 <<< "$epochs"
gpus=0
for device in /dev/nvidia0 /dev/dxg /dev/kfd; do # without one, no seconds for importing torch
    [ ! -e "$device" ] || gpus="$(python -c 'import torch; print(torch.cuda.device_count())')"
done
if [ "$gpus" -gt 0 ]; then
    ranks="${ranks:-$gpus}"
    launch=(--num_gpus "$ranks")
else
    ranks="${ranks:-1}"
    launch=(--num_accelerators "$ranks")
    export DS_ACCELERATOR=cpu
fi
if [ "$ranks" -eq 1 ]; then
    start=(csr train) # a launcher would import torch and DeepSpeed once more, before the run does
else
    port=$((20000 + RANDOM % 20000))
    start=(deepspeed "${launch[@]}" --no_local_rank --master_port "$port" --module csr.train)
fi
batch=$((ranks < 16 ? 16 / ranks : 1)) # 16 images a step however many ranks share them

data="$out/phantom-$num_train-$num_test-seed$seed"
if [ ! -d "$data" ]; then
    csr phantom "$data.part" --num_train "$num_train" --num_test "$num_test" --size 256 \
        --seed "$seed" --overwrite
    mv "$data.part" "$data"
fi
name="demo-seed$seed${short:+-short}"
"${start[@]}" \
    --train_csv "$data/labels_train.csv" --train_dir "$data/train" \
    --test_csv "$data/labels_test.csv" --test_dir "$data/test" \
    --backbone_type timm --model_name resnet10t --no_pretrained --image_size 128 \
    --boxes_csv "$data/boxes_train.csv" --box_weight 0.3 --batch_size "$batch" --lr 3e-3 \
    --epochs_stage1 "$e1" --epochs_stage2 "$e2" --epochs_stage3 "$e3" \
    --seed "$seed" --output_dir "$out" --exp_name "$name" --overwrite
echo
results="$(cd "$out" && pwd)/$name"
echo "Results:     $results (results.json, best_model_stage3.pth, ...)"
echo "TensorBoard: tensorboard --logdir $results/tensorboard"
