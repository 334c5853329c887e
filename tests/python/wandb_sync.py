"""Uploads a copy of a folder of offline runs with the real `wandb sync`: wandb_sync.py FOLDER

The receiver on loopback answers as far as wandb needs it, and keeps what arrives. Prints one JSON line for each run, sorted
by name: its project, settings, history, summary and exit code.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread

runs, lock = {}, Lock()


class Receiver(BaseHTTPRequestHandler):
    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        with lock:
            answer = json.dumps(self.answer(body)).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = handle_any

    def answer(self, body):
        if self.path.endswith("/file_stream"):
            run = runs[self.path.split("/")[-2]]
            said = json.loads(body)
            for name, part in said.get("files", {}).items():
                rows = [json.loads(line) for line in part["content"]]
                if name == "wandb-history.jsonl":
                    run["history"] += rows
                if name == "wandb-summary.json":
                    run["summary"] = rows[-1]
            if said.get("complete"):
                run["exit"] = said["exitcode"]
            return {}
        if not self.path.endswith("/graphql"):
            return {}
        asked = json.loads(body)
        given = asked["variables"]
        if "UpsertBucket" in asked["query"]:
            run = runs.setdefault(given["name"], {"history": [], "summary": None, "exit": None})
            # A second request has only what has changed.
            for name, value in [("name", given["displayName"]), ("project", given["project"]), ("config", given["config"])]:
                if value is not None:
                    run[name] = json.loads(value) if name == "config" else value
            of = {"id": "1", "name": given["project"], "entity": {"id": "2", "name": "somebody"}}
            bucket = {"id": "3", "name": given["name"], "displayName": given["displayName"], "description": "", "config": "{}",
                      "sweepName": None, "historyLineCount": 0, "project": of}
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        if "CreateRunFiles" in asked["query"]:
            place = f"http://127.0.0.1:{server.server_port}/uploads/"
            files = [{"name": name, "uploadUrl": place + name} for name in given["files"]]
            return {"data": {"createRunFiles": {"runID": "3", "uploadHeaders": [], "files": files}}}
        viewer = {"id": "2", "entity": "somebody", "username": "somebody", "flags": "{}", "teams": {"edges": []}}
        return {"data": {"viewer": viewer, "serverInfo": {"features": []}}}

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
Thread(target=server.serve_forever, daemon=True).start()
with tempfile.TemporaryDirectory() as place:
    # wandb writes beside the runs, and an artifact must stay as it is.
    shutil.copytree(sys.argv[1], f"{place}/wandb")
    subprocess.run(["chmod", "-R", "u+w", f"{place}/wandb"], check=True)
    environment = os.environ | {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}", "WANDB_API_KEY": "0" * 40,
                                "WANDB_ERROR_REPORTING": "false", "HOME": place}
    wandb = Path(sys.executable).parent / "wandb"
    command = [wandb, "sync", *sorted(str(run) for run in Path(f"{place}/wandb").iterdir())]
    subprocess.run(command, check=True, env=environment, cwd=place, stdout=sys.stderr, timeout=300)
for run in sorted(runs.values(), key=lambda run: run["name"]):
    for row in run["history"] + [run["summary"]]:
        # The time of the upload.
        row.pop("_runtime", None)
        row.pop("_wandb", None)
    print(json.dumps(run, sort_keys=True))
