#!/bin/sh
# The commands of [executor] for jobs of Kubernetes: docs/scale.md. Needs kubectl with a namespace.
#
#   RAISIN_IMAGE   the image with raisin and its libraries
#   RAISIN_CLAIM   the persistent volume claim (ReadWriteMany) with the project and the cache
#   RAISIN_MOUNT   where the claim is mounted, with the same path as on the machine of the build
set -eu
action=$1
shift
case $action in
submit)
    key=$1 cpus=$2 memory=$3 gpus=$4 script=$5
    gpu=""
    test "$gpus" = 0 || gpu=", nvidia.com/gpu: \"$gpus\""
    kubectl create -o 'jsonpath={.metadata.name}' -f - <<JOB
apiVersion: batch/v1
kind: Job
metadata:
  generateName: raisin-$key-
spec:
  backoffLimit: 0
  ttlSecondsAfterFinished: 86400
  template:
    metadata:
      labels: {app: raisin}
    spec:
      restartPolicy: Never
      containers:
      - name: stage
        image: "$RAISIN_IMAGE"
        command: ["sh", "$script"]
        resources:
          requests: {cpu: "$cpus", memory: "${memory}M"$gpu}
          limits: {memory: "${memory}M"$gpu}
        volumeMounts: [{name: shared, mountPath: "$RAISIN_MOUNT"}]
      volumes: [{name: shared, persistentVolumeClaim: {claimName: "$RAISIN_CLAIM"}}]
JOB
    ;;
poll)
    # One line for each pod: its job, its phase, why the pod failed, why the container ended.
    ended=.status.containerStatuses[0].state.terminated.reason
    columns="JOB:.metadata.labels.job-name,PHASE:.status.phase,POD:.status.reason,CONTAINER:$ended"
    pods=$(kubectl get pods --selector app=raisin --no-headers --output "custom-columns=$columns") || exit 75
    printf '%s\n' "$pods" | while read -r job phase pod container; do
        case $phase/$pod/$container in
        /*) ;;
        Succeeded/*) echo "$job completed" ;;
        Failed/*/OOMKilled) echo "$job out_of_memory" ;;
        Failed/Evicted/* | Failed/Preempting/* | Failed/Terminated/*) echo "$job preempted" ;;
        Failed/NodeLost/* | Failed/NodeShutdown/* | Failed/Shutdown/*) echo "$job node_fail" ;;
        Failed/*) echo "$job failed" ;;
        Running/*) echo "$job running" ;;
        *) echo "$job pending" ;;
        esac
    done
    ;;
cancel)
    for job in "$@"; do kubectl delete job "$job" --ignore-not-found --wait=false > /dev/null; done
    ;;
esac
