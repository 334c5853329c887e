"""An S3 server on loopback (moto) behind a proxy that can fail in the ways in which networks and stores fail. Reads one
JSON command per line from standard input, and answers each with one JSON line. The first line that it prints has the
port of the proxy.

Commands: {"manner": NAME, ...} sets how the proxy behaves, and resets its counts; {"counts": true};
{"keys": PREFIX}; {"delete": KEY}; {"get": KEY}; {"put": KEY, "text": TEXT}."""

import http.client
import json
import logging
import random
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
BUCKET = "bucket"
STORM = ["cut", "short", "flip", "500", "503", "reset", "delay"]


class State:
    """How the proxy behaves."""

    def __init__(self):
        self.lock = threading.Lock()
        self.set({"manner": "well"})

    def set(self, command):
        with self.lock:
            self.manner = command["manner"]
            self.command = command
            self.random = random.Random(command.get("seed", 1))
            self.requests = {}
            self.faults = {}
            # The requests that are being answered, and the most at a time.
            self.bytes = {"received": 0, "sent": 0}
            self.now = 0
            self.most = 0

    def moved(self, way, size):
        with self.lock:
            self.bytes[way] += size

    def fault(self, method, path, headers):
        """The fault of this request; None for none."""
        with self.lock:
            self.requests[method] = self.requests.get(method, 0) + 1
            fault = self.choose(method, path, headers)
            if fault:
                self.faults[fault] = self.faults.get(fault, 0) + 1
            return fault

    def choose(self, method, path, headers):
        writes = method in ("PUT", "POST", "DELETE")
        conditional = "if-none-match" in headers or "if-match" in headers
        blob = "/v1/blob/" in path
        match self.manner:
            case "storm":
                if self.random.random() < self.command["rate"]:
                    return self.random.choice(STORM)
            case "read_only" if writes:
                return "403"
            case "denied":
                return "403"
            case "no_conditions" if conditional:
                return "501"
            case "ignores_conditions" if conditional:
                return "unconditional"
            case "outage":
                return "reset"
            case "silent":
                return "silent"
            case "slow":
                return "delay"
            case "wrong_bytes" if method == "GET" and blob:
                return "flip"
            case "cut_once" if method == "GET" and blob and not self.faults:
                return "cut"
            case "lost_answer" if method == "PUT" and "/v1/action/" in path and not self.faults:
                return "cut"
        return None


STATE = State()
TARGET = None


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self):
        with STATE.lock:
            STATE.now += 1
            STATE.most = max(STATE.most, STATE.now)
        try:
            self.answer_one()
        finally:
            with STATE.lock:
                STATE.now -= 1

    def answer_one(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        fault = STATE.fault(self.command, self.path, headers)
        STATE.moved("received", len(body))
        if fault == "silent":
            time.sleep(120)
        if fault == "reset":
            return self.hang_up()
        if fault in ("403", "500", "501", "503"):
            code = {"403": "AccessDenied", "501": "NotImplemented"}.get(fault, "InternalError")
            text = f"<Error><Code>{code}</Code><Message>made by the proxy</Message></Error>".encode()
            return self.reply(int(fault), [("Content-Type", "application/xml")], b"" if self.command == "HEAD" else text)
        if fault == "unconditional":
            headers = {name: value for name, value in headers.items() if not name.startswith("if-")}
        if fault == "delay":
            time.sleep(STATE.command.get("seconds", 0.05))
        upstream = http.client.HTTPConnection(*TARGET)
        upstream.request(self.command, self.path, body=body or None, headers={**headers, "connection": "close"})
        reply = upstream.getresponse()
        content = reply.read()
        kept = [(name, value) for name, value in reply.getheaders()
                if name.lower() not in ("connection", "transfer-encoding", "content-length")]
        length = reply.getheader("content-length")
        if fault == "cut":
            # The whole length is announced, and half of the body comes.
            return self.reply(reply.status, kept, content[: len(content) // 2], announced=len(content), hang_up=True)
        if fault == "short" and content:
            # A shorter body that looks whole.
            return self.reply(reply.status, kept, content[:-1])
        if fault == "flip" and content:
            place = STATE.random.randrange(len(content))
            content = content[:place] + bytes([content[place] ^ 1]) + content[place + 1:]
        announced = int(length) if self.command == "HEAD" and length else None
        self.reply(reply.status, kept, content, announced)

    def reply(self, status, headers, content, announced=None, hang_up=False):
        try:
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content) if announced is None else announced))
            self.end_headers()
            if self.command != "HEAD":
                STATE.moved("sent", len(content))
                self.wfile.write(content)
            self.wfile.flush()
        except OSError:
            return
        if hang_up:
            self.hang_up()

    def hang_up(self):
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        pass


def main():
    global TARGET
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    TARGET = moto.get_host_and_port()
    s3 = boto3.client("s3", endpoint_url=f"http://{TARGET[0]}:{TARGET[1]}", region_name="us-east-1",
                      aws_access_key_id="test", aws_secret_access_key="test")
    s3.create_bucket(Bucket=BUCKET)
    proxy = Server(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    print(json.dumps({"port": proxy.server_port}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answer = True
        if "manner" in command:
            STATE.set(command)
        elif "counts" in command:
            answer = {"requests": STATE.requests, "faults": STATE.faults, "most": STATE.most,
                      "bytes": STATE.bytes}
        elif "keys" in command:
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=command["keys"])
            answer = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        elif "delete" in command:
            s3.delete_object(Bucket=BUCKET, Key=command["delete"])
        elif "get" in command:
            answer = s3.get_object(Bucket=BUCKET, Key=command["get"])["Body"].read().decode("latin-1")
        elif "put" in command:
            s3.put_object(Bucket=BUCKET, Key=command["put"], Body=command["text"].encode("latin-1"))
        print(json.dumps(answer), flush=True)


main()
