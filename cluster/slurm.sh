#!/usr/bin/env bash
# A Ray cluster for the time of one Slurm job, and one mmrlhf job on it.
#
#   sbatch --nodes 4 --partition gpu cluster/slurm.sh ppo jobs/qwen2.5-omni-7b-4nodes.yaml [key=value ...]
#
# Submit from the checkout, on storage that every node sees; .venv is made with `make setup EXTRA=gpu`. A node that
# fails, or a time limit that comes, puts the job back into the queue, and it goes on from its newest checkpoint.
#SBATCH --job-name=mmrlhf
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --signal=B:TERM@300
#SBATCH --output=mmrlhf-%j.log
#SBATCH --open-mode=append
set -euo pipefail

(( $# >= 2 )) || { echo "usage: sbatch cluster/slurm.sh COMMAND FILE [key=value ...]" >&2; exit 2; }
cd "${SLURM_SUBMIT_DIR:?run this with sbatch}"
export PATH="$PWD/.venv/bin:$PATH"
command -v mmrlhf > /dev/null || { echo "mmrlhf not found: run \`make setup EXTRA=gpu\` in $PWD" >&2; exit 1; }

# Since Slurm 22.05 srun does not take over what sbatch was given; Ray's processes would have one core of each node.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:?pass --cpus-per-task}"

# One token for this job, in a file that only its owner reads.
umask 077
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_TOKEN_PATH="$PWD/.ray-token-$SLURM_JOB_ID"
python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH"
trap 'kill $(jobs -p) 2> /dev/null || true; wait; rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_node="${nodes[0]}"
# Not --ip-address: a host's own name may stand for 127.0.1.1 there.
head_ip="$(srun --nodes 1 --ntasks 1 -w "$head_node" hostname --all-ip-addresses | awk '{ print $1 }')"
port=$(( 20000 + SLURM_JOB_ID % 20000 ))
export RAY_ADDRESS="$head_ip:$port"

echo "head $head_node ($RAY_ADDRESS), $SLURM_JOB_NUM_NODES nodes"
srun --nodes 1 --ntasks 1 --overlap -w "$head_node" \
    ray start --head --block --node-ip-address "$head_ip" --port "$port" \
    --num-cpus "$SLURM_CPUS_PER_TASK" --dashboard-host 127.0.0.1 --disable-usage-stats &
for (( tries = 0; tries < 60; tries++ )); do
    ray status --address "$RAY_ADDRESS" > /dev/null 2>&1 && break
    sleep 2
done
if (( SLURM_JOB_NUM_NODES > 1 )); then
    srun --nodes $(( SLURM_JOB_NUM_NODES - 1 )) --ntasks $(( SLURM_JOB_NUM_NODES - 1 )) --overlap -x "$head_node" \
        ray start --block --address "$RAY_ADDRESS" --num-cpus "$SLURM_CPUS_PER_TASK" --disable-usage-stats &
fi
# The nodes join within seconds; a placement that does not fit says so by itself.
python - "$SLURM_JOB_NUM_NODES" << 'PYTHON'
import sys
import time

import ray

ray.init(log_to_driver=False)
wanted, until = int(sys.argv[1]), time.monotonic() + 180
while len(ray.nodes()) < wanted:
    if time.monotonic() > until:
        sys.exit(f"only {len(ray.nodes())} of {wanted} nodes joined within 180 s")
    time.sleep(2)
PYTHON

arguments=("$@")
if (( ${SLURM_RESTART_COUNT:-0} > 0 )); then
    [[ "$(mmrlhf "$1" --help)" != *--resume* ]] || arguments+=(--resume)
fi
mmrlhf "${arguments[@]}" &
run=$!
# Slurm tells this script before the time is up: an online run then saves what it has and ends with 143.
trap 'kill -TERM "$run" 2> /dev/null || true' TERM
status=0
wait "$run" || status=$?
while kill -0 "$run" 2> /dev/null; do # the signal ended the wait, and not yet the run
    status=0
    wait "$run" || status=$?
done
(( status != 143 )) || scontrol requeue "$SLURM_JOB_ID"
exit "$status"
