#!/bin/sh
# A Slurm of one machine for tests, on loopback: munged, slurmctld and two slurmd in a folder, without accounting.
# Needs root and the packages slurm-wlm and munge. Prints what it started; never touches /etc or a Slurm that runs.
#
#   cluster.sh start FOLDER [LINES]    LINES are further lines of slurm.conf
#   cluster.sh restart-controller FOLDER
#   cluster.sh kill-node FOLDER NAME   as if the power went off: the processes of the node's jobs too
#   cluster.sh start-node FOLDER NAME
#   cluster.sh stop FOLDER
set -eu

action=$1
folder=$(realpath -m "$2")
export SLURM_CONF="$folder/slurm.conf"

start_controller() {
    slurmctld -i >> "$folder/controller.out" 2>&1
}

start_node() {
    slurmd -N "$1" >> "$folder/$1.out" 2>&1
}

# Ends the process of a pid file, and waits for its end.
end() {
    test -s "$1" || return 0
    pid=$(cat "$1")
    kill "${2:--TERM}" "$pid" 2> /dev/null || return 0
    for _ in $(seq 100); do
        kill -0 "$pid" 2> /dev/null || return 0
        sleep 0.1
    done
    kill -KILL "$pid" 2> /dev/null || true
}

case $action in
start)
    test "$(id -u)" = 0 || { echo "cluster.sh needs root, for munged and slurmd" >&2; exit 1; }
    mkdir -p "$folder/state" "$folder/munge"
    chmod 755 "$folder"
    chmod 700 "$folder/munge"
    dd if=/dev/urandom of="$folder/munge/key" bs=128 count=1 2> /dev/null
    chmod 400 "$folder/munge/key"
    # munged wants that nobody else can write in the folders of its files.
    mkdir -p "$folder/munge/run" && chmod 755 "$folder/munge" "$folder/munge/run"
    # Four ports for each cluster, below those that the system gives to connections.
    base=$((10000 + $$ % 5000 * 4))
    host=$(hostname -s)
    cores=$(nproc)
    cat > "$SLURM_CONF" <<CONF
ClusterName=raisin-test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/run/socket
CryptoType=crypto/munge
SlurmctldPort=$base
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/controller.pid
SlurmctldLogFile=$folder/controller.log
SlurmdPidFile=$folder/%n.pid
SlurmdLogFile=$folder/%n.log
SlurmdSpoolDir=$folder/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdTimeout=6
SlurmctldTimeout=6
InactiveLimit=0
KillWait=2
MinJobAge=60
SchedulerParameters=sched_interval=1,batch_sched_delay=1,bf_interval=2,requeue_delay=1
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
PropagateResourceLimits=NONE
MaxArraySize=16
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((base + 1)) CPUs=4 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((base + 2)) CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=60 DefMemPerCPU=200 State=UP OverTimeLimit=0
PartitionName=small Nodes=n1 MaxTime=60 DefMemPerCPU=200 State=UP
SlurmdParameters=config_overrides
${3:-}
CONF
    munged --force --key-file="$folder/munge/key" --socket="$folder/munge/run/socket" --pid-file="$folder/munge/pid" \
        --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" --num-threads=2
    start_controller
    start_node n1
    start_node n2
    for _ in $(seq 100); do
        test "$(sinfo --noheader --format=%T 2> /dev/null | sort -u)" = idle && break
        sleep 0.2
    done
    sinfo --noheader --format='%P %D %T' || { tail -n 5 "$folder"/*.log >&2; exit 1; }
    ;;
restart-controller)
    end "$folder/controller.pid"
    sleep "${3:-2}"
    start_controller
    ;;
kill-node)
    pid=$(cat "$folder/$3.pid")
    kill -KILL "$pid" 2> /dev/null || true
    for stepd in $(pgrep -x slurmstepd || true); do
        # The spool folder of the node is the working folder or an open file of its slurmstepd.
        ls -l "/proc/$stepd/fd" "/proc/$stepd/cwd" 2> /dev/null | grep -q "$folder/spool-$3\|$folder/$3.log" || continue
        for child in $(cat /proc/"$stepd"/task/*/children 2> /dev/null || true); do
            for grand in $(cat /proc/"$child"/task/*/children 2> /dev/null || true); do
                kill -KILL "$grand" 2> /dev/null || true
            done
            kill -KILL "$child" 2> /dev/null || true
        done
        kill -KILL "$stepd" 2> /dev/null || true
    done
    ;;
start-node)
    start_node "$3"
    ;;
stop)
    scancel --quiet --user="$(id -un)" 2> /dev/null || true
    sleep 1
    for name in n1 n2 controller; do end "$folder/$name.pid"; done
    end "$folder/munge/pid"
    ;;
*)
    echo "usage: cluster.sh start|restart-controller|kill-node|start-node|stop FOLDER" >&2
    exit 2
    ;;
esac
