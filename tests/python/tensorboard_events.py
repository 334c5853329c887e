"""Reads event files as TensorBoard does: python tensorboard_events.py FOLDER

Prints one JSON line for each run: its name, its scalars (tag, then steps and values) and its hyperparameters.
"""

import json
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

for folder in sorted(Path(sys.argv[1]).iterdir()):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = events.Tags()["scalars"]
    scalars = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}
    held = {}
    for content in events.summary_metadata.items():
        if content[0] == "_hparams_/session_start_info":
            start = HParamsPluginData.FromString(content[1].plugin_data.content).session_start_info
            for name, value in start.hparams.items():
                held[name] = getattr(value, value.WhichOneof("kind"))
    print(json.dumps({"run": folder.name, "scalars": scalars, "hyperparameters": held}))
