#!/usr/bin/env bash
# A nightly backup for cron, proved by restoring it on a throw-away server; prints nothing when all is well.
#
#   17 3 * * *  cd /srv/pipeline && VECBAK_CONFIG=/etc/vecbak.yaml /opt/vecbak/nightly_backup.sh
#
# Environment: VECBAK_CONFIG (the config; default ./vecbak.yaml), VECBAK (the program; default vecbak)
set -euo pipefail

vecbak=${VECBAK:-vecbak}
task=nightly_$(date +%Y%m%d_%H%M%S)
report=$(mktemp)
trap 'rm -f "$report"' EXIT

# cron mails what is printed: on success nothing, else everything
if ! { "$vecbak" backup --task-id "$task" && "$vecbak" verify latest --restore --task-id "$task"; } >"$report" 2>&1; then
    echo "The nightly backup $task FAILED:" >&2
    cat "$report" >&2
    exit 1
fi
