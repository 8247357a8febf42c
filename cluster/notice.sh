#!/usr/bin/env bash
# Before a container of a cluster stops (preStop in kuberay/base): tells the runs whose drivers are in it to save and
# end, and waits until no driver and no actor is left in it and, on the head, no job is running anywhere. Kubernetes
# waits for terminationGracePeriodSeconds at most.
#
# For containers only: it takes every run that it sees for one of its own.
set -euo pipefail

driver='^[^ ]*python[^ ]* (-P -m mmrlhf_ray\.cli|[^ ]*/mmrlhf) '
rays_own='^[0-9]+ ray::(IDLE|DashboardAgent|RuntimeEnvAgent)'

busy() {
    local here
    here="$(pgrep --full --list-full "$driver|^ray::" | grep --extended-regexp --invert-match "$rays_own")"
    [[ -n $here || "$(ray job list --address http://127.0.0.1:8265 2> /dev/null)" == *RUNNING* ]] # of the head's own Ray
}

pkill -TERM --full "$driver" || true
while busy; do
    sleep 1
done
