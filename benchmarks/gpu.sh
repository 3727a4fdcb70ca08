#!/usr/bin/env bash
# What is checked and measured on a GPU in about five minutes, into one file.
#
#     bash benchmarks/gpu.sh gpu.txt
#
# PYTHON names the interpreter (default: that of the environment of the project). The data of
# Ethanol are downloaded, or found in the folder that OVERPARAM_DATA names.
set -uo pipefail
cd "$(dirname "$0")/.."
output=${1:-gpu.txt}
python=${PYTHON:-.venv/bin/python}
export PYTHONPATH=src:tests:benchmarks:${PYTHONPATH:-}

section() {  # title, seconds at most, command
    local title=$1 limit=$2 start=$SECONDS
    shift 2
    printf '\n## %s\n\n    %s\n\n' "$title" "${*/#$python/python}"
    timeout "$limit" "$@" 2>&1
    printf '\nexit status %s after %s s\n' $? $((SECONDS - start))
}

{
    nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
    section "Correctness" 110 "$python" -m pytest -q -rs -n 6 -W default -p no:cacheprovider \
        -o addopts=--import-mode=importlib tests/test_cuda.py tests/lab/training/test_replay.py \
        tests/optim/test_tracked.py::test_a_step_replays_as_a_cuda_graph \
        tests/lab/training/test_batched.py::test_an_accelerator_gives_the_same_losses
    section "The rule, one call" 30 "$python" benchmarks/rule.py --device cuda --repeats 7 \
        --shapes 64x64x64 1x768x768 1x768x3072 1x3072x768
    section "The sweep of the lab" 60 "$python" benchmarks/reproduce.py --device cuda --scale none
    section "The step of an optimizer" 150 "$python" benchmarks/optim.py --device cuda --tf32 \
        --shapes 256x256,768x768,768x3072,1024x1024,2048x2048,4096x4096 --seconds 1 \
        --accuracy 768x3072
} | tee "$output"
