#!/usr/bin/env bash
# As much of the full atlas as fits into a time, the most important first, into one archive.
#
#     bash benchmarks/atlas.sh 330 15 OUTPUT          # seconds, processes, folder of the archive
#     tar xzf OUTPUT/atlas.tar.gz -C runs             # elsewhere; then `overparam atlas` goes on
#
# PYTHON names the interpreter (default: that of the environment of the project); OVERPARAM_DATA the
# folder of the data. A problem without its data is left out.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=$1 workers=$2 output=$3
python=${PYTHON:-.venv/bin/python}
export PYTHONPATH=src:${PYTHONPATH:-} OMP_NUM_THREADS=1

"$python" -m overparam atlas --budget "${seconds}s" --workers "$workers" --output runs \
    2>&1 | tee "$output/atlas.log" || true
tar czf "$output/atlas.tar.gz" -C runs atlas
ls -l "$output"
