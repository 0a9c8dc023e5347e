# Quick start on Windows PowerShell: train on this machine. Flags go to csr.train:
#   scripts\train.ps1 --train_csv my_train.csv --train_dir my_images\ --batch_size 32
# $env:NUM_RANKS = 4      another number of processes
$ErrorActionPreference = "Stop"
$here = Split-Path -Parent $PSScriptRoot
$activate = Join-Path $here ".venv\Scripts\Activate.ps1"
if (-not $env:VIRTUAL_ENV -and (Test-Path $activate)) { . $activate }
$gpus = [int](python -c "import torch; print(torch.cuda.device_count())")
$ranks = if ($env:NUM_RANKS) { [int]$env:NUM_RANKS } elseif ($gpus -gt 0) { $gpus } else { 1 }
if ($ranks -eq 1) {
    python -m csr.train @args
} else {
    torchrun --standalone --nproc_per_node=$ranks -m csr.train @args
}
exit $LASTEXITCODE
