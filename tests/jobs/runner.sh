#!/bin/sh
# A scheduler of jobs in a folder, for tests of `run = "template"`: each job is a process in a session of its own.
#
#   runner.sh submit FOLDER SCRIPT OUTPUT    starts a job, prints its id
#   runner.sh poll FOLDER ID...              prints `ID STATE` for each job
#   runner.sh cancel FOLDER ID...            ends jobs
#   runner.sh lose FOLDER ID STATE           kills a job as a cluster does, and gives it this state
#
# A file FOLDER/kill makes `submit` kill the process that asks, once, when the job is there.
# While FOLDER/hold exists, jobs wait. A file FOLDER/refuse makes `submit` fail with its text, and FOLDER/silent makes every
# command end with the exit code for "try again".
set -eu
action=$1
folder=$2
shift 2
mkdir -p "$folder"
if test -e "$folder/silent"; then
    echo "the scheduler has a rest" >&2
    exit 75
fi

# Sends a signal to all processes of a job that has not ended.
end() {
    test -e "$folder/$1/code" || kill "-$2" "-$(cat "$folder/$1/pid")"
}

case $action in
submit)
    if test -e "$folder/refuse"; then
        cat "$folder/refuse" >&2
        exit 1
    fi
    number=1
    while ! mkdir "$folder/job$number" 2> /dev/null; do number=$((number + 1)); done
    job="$folder/job$number"
    cp "$1" "$job/script"
    # The job gets neither the pipes of this command nor its session. The leader of the session writes its own id.
    setsid sh -c '
        echo $$ > "$2/pid.new" && mv "$2/pid.new" "$2/pid"
        while test -e "$1/hold"; do sleep 0.05; done
        touch "$2/began"
        sh "$3" > "$4" 2>&1 && code=0 || code=$?
        echo "$code" > "$2/code.new" && mv "$2/code.new" "$2/code"
    ' runner "$folder" "$job" "$1" "$2" < /dev/null > /dev/null 2>&1 &
    while ! test -e "$job/pid"; do sleep 0.02; done
    if test -e "$folder/kill"; then
        rm "$folder/kill"
        kill -KILL "$PPID"
    fi
    echo "started job$number"
    ;;
poll)
    for id in "$@"; do
        job="$folder/$id"
        if test -e "$job/state"; then
            echo "$id $(cat "$job/state")"
        elif test -e "$job/code"; then
            test "$(cat "$job/code")" = 0 && echo "$id completed" || echo "$id failed"
        elif ! test -e "$job/began"; then
            echo "$id pending (held)"
        elif kill -0 "$(cat "$job/pid")" 2> /dev/null; then
            echo "$id running on $(uname -n)"
        fi
    done
    ;;
cancel)
    for id in "$@"; do
        echo cancelled > "$folder/$id/state"
        end "$id" TERM
    done
    ;;
lose)
    echo "$2" > "$folder/$1/state"
    end "$1" KILL
    ;;
esac
