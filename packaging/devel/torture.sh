#!/usr/bin/env bash
# Breaks ggaoe for so many seconds (default 600): simulated lives, hostile input, the real daemon under
# faults. Ends with 1 where something was found.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${VENV:-.venv}/bin/python
seconds=${1:-600}
third=$((seconds / 3))
status=0

PYTHONPATH=tests "$python" -m sim.run --first "$RANDOM$RANDOM" --seconds "$third" || status=1
packaging/devel/fuzz.sh "$third" || status=1
for engine in native portable; do
    # About thirty of its tests take as long as they may.
    GGAOE_ENGINE=$engine GGAOE_TORTURE=$((third / 60 + 1)) "$python" -m pytest -q tests/torture || status=1
done
exit "$status"
