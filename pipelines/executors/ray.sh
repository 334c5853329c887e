#!/bin/sh
# The commands of [executor] for jobs of a Ray cluster: docs/scale.md. RAY_API_SERVER_ADDRESS is the address of the
# dashboard, such as http://head:8265. All machines of the cluster see the project and the cache at the same path.
set -eu
action=$1
shift
case $action in
submit)
    key=$1 cpus=$2 memory=$3 gpus=$4 script=$5
    id="raisin-$key-$(date +%s)-$$"
    ray job submit --no-wait --submission-id "$id" --entrypoint-num-cpus "$cpus" --entrypoint-num-gpus "$gpus" \
        --entrypoint-memory "${memory}000000" -- sh "$script" >&2
    echo "$id"
    ;;
poll)
    # `ray job list` prints all jobs as Python objects, which is one question for all jobs.
    list=$(ray job list 2> /dev/null) || { echo "ray job list failed" >&2; exit 75; }
    for id in "$@"; do
        status=$(printf '%s\n' "$list" | tr ',' '\n' | awk -v id="submission_id='$id'" '
            index($0, "submission_id=") { found = index($0, id) }
            found && match($0, /JobStatus\.[A-Z]+/) { print substr($0, RSTART + 10, RLENGTH - 10); exit }
            found && match($0, /status=.[A-Z]+/) { print substr($0, RSTART + 8, RLENGTH - 8); exit }')
        case $status in
        PENDING) echo "$id pending" ;;
        RUNNING) echo "$id running" ;;
        SUCCEEDED) echo "$id completed" ;;
        STOPPED) echo "$id cancelled" ;;
        FAILED) echo "$id failed" ;;
        esac
    done
    ;;
cancel)
    for id in "$@"; do ray job stop --no-wait "$id" >&2; done
    ;;
esac
