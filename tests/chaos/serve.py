"""Runs under the names `ollama` and `llama-server`, with the standard library only.

    ollama serve ANSWERS PORT [--runner COMMAND...]             SIGUSR1 starts the runner anew
    llama-server serve ANSWERS PORT --model PATH --port PORT

The exporter knows both by their names and arguments.

ANSWERS is a file: by path, the body that is answered.
"""

import contextlib
import json
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWERS = json.load(open(sys.argv[1], encoding="utf-8"))  # noqa: SIM115 - ends with the process
RUNNER = sys.argv[sys.argv.index("--runner") + 1 :] if "--runner" in sys.argv else []


class Handler(BaseHTTPRequestHandler):
    protocol_version, server_version, sys_version = "HTTP/1.1", "llama.cpp", ""

    def do_GET(self) -> None:
        body = ANSWERS.get(self.path, "404 page not found").encode()
        self.send_response(200 if self.path in ANSWERS else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # whoever asked while we were stopped has left
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 100


def begin_runner(*_: object) -> None:
    if RUNNER:
        subprocess.Popen(RUNNER)


signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children that end leave nothing behind
signal.signal(signal.SIGUSR1, begin_runner)
server = Server(("127.0.0.1", int(sys.argv[2])), Handler)
begin_runner()
server.serve_forever()
