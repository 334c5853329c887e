"""Prints the runs of an experiment as JSON lines, sorted by name: mlflow_runs.py ADDRESS EXPERIMENT

With --halve: gives one run the state of one whose sending was interrupted after half of its points.
"""

import json
import sys

from mlflow import MlflowClient
from mlflow.entities import Metric, RunStatus, RunTag

address, experiment, *more = sys.argv[1:]
client = MlflowClient(address)
runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
runs.sort(key=lambda run: run.info.run_name)


def history(run, metric):
    return sorted([point.step, point.value] for point in client.get_metric_history(run.info.run_id, metric))


if more == ["--halve"]:
    whole = runs[0]
    half = client.create_run(whole.info.experiment_id, start_time=whole.info.start_time, run_name=whole.info.run_name)
    points = [point for name in whole.data.metrics for point in client.get_metric_history(whole.info.run_id, name)]
    points = [Metric(point.key, point.value, point.timestamp, point.step) for point in points[::2]]
    client.log_batch(half.info.run_id, points, [], [RunTag("raisin.key", whole.data.tags["raisin.key"])])
    assert client.get_run(half.info.run_id).info.status == RunStatus.to_string(RunStatus.RUNNING)
    client.delete_run(whole.info.run_id)
    sys.exit()
for run in runs:
    print(json.dumps({
        "name": run.info.run_name,
        "status": run.info.status,
        "start": run.info.start_time,
        "end": run.info.end_time,
        "parameters": run.data.params,
        "tags": run.data.tags,
        "metrics": {name: history(run, name) for name in run.data.metrics},
    }))
