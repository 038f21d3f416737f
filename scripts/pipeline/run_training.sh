#!/usr/bin/env bash
# One training load of your own: vectors saved and emptied, then COMMAND, whose exit code is ours; if it fails, dies or
# is interrupted, the old vectors come back.
#
# Usage: run_training.sh TASK_ID COMMAND [ARGUMENT]...
# Environment: VECBAK_CONFIG (the config; default ./vecbak.yaml), VECBAK (the program; default vecbak)
set -euo pipefail

if [[ $# -lt 2 || $1 == -* ]]; then
    echo "Usage: ${0##*/} TASK_ID COMMAND [ARGUMENT]..." >&2
    exit 2
fi
task=$1
shift
exec "${VECBAK:-vecbak}" run --task-id "$task" --truncate-vector-tables --on-failure restore -- "$@"
