#!/usr/bin/env bash
# The whole retraining workflow of a task: its steps from the config, the vectors saved and emptied just before the
# training load, and brought back if the load fails.
#
# Usage: schema_workflow.sh TASK_ID [option of `vecbak workflow`]...
# Environment: VECBAK_CONFIG (the config; default ./vecbak.yaml), VECBAK (the program; default vecbak)
set -euo pipefail

if [[ $# -lt 1 || $1 == -* ]]; then
    echo "Usage: ${0##*/} TASK_ID [option of 'vecbak workflow']..." >&2
    exit 2
fi
task=$1
shift
exec "${VECBAK:-vecbak}" workflow --task-id "$task" --truncate-vector-tables --on-failure restore "$@"
