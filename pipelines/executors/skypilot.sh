#!/bin/sh
# The commands of [executor] for managed jobs of SkyPilot: docs/scale.md. The project and the cache lie on a volume that
# the task file mounts at the same path as on the machine of the build.
#
#   RAISIN_TASK   the task file with `resources`, `volumes` and `setup`; its command is replaced
set -eu
action=$1
shift
case $action in
submit)
    key=$1 cpus=$2 memory=$3 gpus=$4 script=$5
    id="raisin-$key-$(date +%s)-$$"
    set -- --name "$id" --cpus "$cpus+" --memory "$(((memory + 999) / 1000))+" --detach-run --yes --env RAISIN_SCRIPT="$script"
    # RAISIN_GPU is the type of the GPUs, such as H100.
    test "$gpus" = 0 || set -- "$@" --gpus "${RAISIN_GPU:?}:$gpus"
    sky jobs launch "$@" "$RAISIN_TASK" >&2
    echo "$id"
    ;;
poll)
    table=$(sky jobs queue --refresh) || exit 75
    for id in "$@"; do
        line=$(printf '%s\n' "$table" | grep -F " $id " | head -n 1) || continue
        case $line in
        *SUCCEEDED*) echo "$id completed" ;;
        *FAILED_PRECHECKS* | *FAILED_NO_RESOURCE* | *FAILED_CONTROLLER*) echo "$id node_fail" ;;
        *FAILED*) echo "$id failed" ;;
        *CANCELL*) echo "$id cancelled" ;;
        *RECOVERING* | *PENDING* | *STARTING* | *SUBMITTED*) echo "$id pending" ;;
        *) echo "$id running" ;;
        esac
    done
    ;;
cancel)
    for id in "$@"; do sky jobs cancel --yes --name "$id" >&2; done
    ;;
esac
