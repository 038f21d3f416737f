#!/usr/bin/env bash
# A nightly backup for cron, proved by restoring it on a throw-away server; prints nothing when all is well. Old backups of
# the same task go afterwards, by the config's retention.
#
#   17 3 * * *  cd /srv/pipeline && VECBAK_CONFIG=/etc/vecbak.yaml /opt/vecbak/nightly_backup.sh
#
# Environment: VECBAK_CONFIG (the config; default ./vecbak.yaml), VECBAK (the program; default vecbak),
# TASK_ID (all nights' backups are in this task's folder; default nightly)
set -euo pipefail

vecbak=${VECBAK:-vecbak}
task=${TASK_ID:-nightly}
report=$(mktemp)
trap 'rm -f "$report"' EXIT

nightly() {
    "$vecbak" backup --task-id "$task" &&
        "$vecbak" verify latest --restore --task-id "$task" &&
        "$vecbak" prune --task-id "$task" --yes
}

# cron mails what is printed: on success nothing, else everything
if ! nightly >"$report" 2>&1; then
    echo "The nightly backup $task FAILED:" >&2
    cat "$report" >&2
    exit 1
fi
