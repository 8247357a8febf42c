#!/usr/bin/env bash
# A Ray head on this machine: dashboard and job submission on the loopback interface, Ray's other ports on every one,
# behind the token but for metrics (docs/operations.md, "Ports").
# Runs in the foreground; Ctrl-C ends it and everything on it. From another terminal: mmrlhf submit FILE --address http://127.0.0.1:8265
#
#   cluster/local.sh [more options of `ray start`, e.g. --num-cpus 2]
#
# RAY_PORT and DASHBOARD_PORT choose other ports.
set -euo pipefail

checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[[ -d "$checkout/.venv/bin" ]] && PATH="$checkout/.venv/bin:$PATH" # jobs find `mmrlhf` as well
command -v ray > /dev/null || { echo "ray not found: run \`make setup\` first" >&2; exit 1; }

export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export RAY_worker_niceness="${RAY_worker_niceness:-0}" # Ray's 15 starves a run alongside anything else on the machine
export RAY_JOB_STOP_WAIT_TIME_S="${RAY_JOB_STOP_WAIT_TIME_S:-900}" # `ray job stop`: time to save, for which Ray gives 3 s
umask 077
ray get-auth-token --generate > /dev/null 2>&1

exec ray start --head --block \
    --port "${RAY_PORT:-6379}" \
    --include-dashboard true --dashboard-host 127.0.0.1 --dashboard-port "${DASHBOARD_PORT:-8265}" \
    --disable-usage-stats "$@"
