#!/bin/sh
# A cluster for queries on this machine, for tests: one scheduler and two executors on free ports.
#
#   cluster.sh start FOLDER RAISIN    prints the address of the cluster: df://127.0.0.1:PORT
#   cluster.sh stop FOLDER
set -eu

action=$1
folder=$2

# The last word of the first line of a log, which says where a process listens.
place() {
    for _ in $(seq 300); do
        if test -s "$1"; then
            sed -n '1s/.* //p' "$1"
            return
        fi
        sleep 0.1
    done
    echo "$1 stays empty" >&2
    exit 1
}

case $action in
start)
    raisin=$3
    mkdir -p "$folder"
    "$raisin" cluster scheduler --port 0 > /dev/null 2> "$folder/scheduler.log" &
    echo $! > "$folder/scheduler.pid"
    scheduler=$(place "$folder/scheduler.log")
    for number in 1 2; do
        "$raisin" cluster executor --scheduler "$scheduler" --cores 2 --memory 1GB \
            --work "$folder/work$number" > /dev/null 2> "$folder/executor$number.log" &
        echo $! > "$folder/executor$number.pid"
    done
    for number in 1 2; do
        place "$folder/executor$number.log" > /dev/null
    done
    echo "df://$scheduler"
    ;;
stop)
    for file in "$folder"/*.pid; do
        kill "$(cat "$file")" 2> /dev/null || true
    done
    ;;
esac
