"""A small real worker: a program with the arguments of the real one, whose behaviour a file decides.

The file named by LASTGOOD_FAKE_BEHAVIOUR/<hex12> holds words: `crash N` (exit at once with status N), `never`
(answers 503), `repeats N` (N requests came under an id that an earlier one had), `wrong` (names another bundle), `stubborn` (ignores SIGTERM), `holds N` (has N requests to answer: tells so, and does
not end). Read at each start and each request.
"""

import argparse
import contextlib
import http.server
import json
import os
import signal
import socketserver
import sys
from pathlib import Path


def behaviour(digest):
    """The words of the behaviour file, none if there is none."""
    path = Path(os.environ["LASTGOOD_FAKE_BEHAVIOUR"]) / digest.removeprefix("sha256:")[:12]
    return path.read_text().split() if path.exists() else []


def say(text):
    """Write a line to the log."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main():
    """Serve /readyz until told to end."""
    parser = argparse.ArgumentParser()
    for name in ("service", "bundle", "socket"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    say(f"starting {os.environ['OMP_NUM_THREADS']} {os.environ['LASTGOOD_HOME']}")
    words = behaviour(args.bundle)
    if "crash" in words:
        say("Traceback: boring\nValueError: part 'model' is damaged\nbye")
        sys.exit(int(words[1]))
    holds = int(words[words.index("holds") + 1]) if "holds" in words else 0

    def hold(*_):
        folder = Path(os.environ["LASTGOOD_HOME"]) / "run" / args.service / "workers" / "draining"
        folder.mkdir(exist_ok=True)
        left = {"requests": holds, "copies": 0}
        staged = folder / f".{os.getpid()}.json"  # whoever kills us reads the file at any moment
        staged.write_text(json.dumps(left))
        staged.replace(folder / f"{os.getpid()}.json")

    if "holds" in words:
        signal.signal(signal.SIGTERM, hold)
    if "stubborn" in words:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            words = behaviour(args.bundle)
            named = "sha256:" + "f" * 64 if "wrong" in words else args.bundle
            told = {"ready": "never" not in words, "bundle": named, "timeout_s": 20, "in_flight": holds, "warm_up_s": 0.5}
            if "repeats" in words:
                told |= {"repeated_ids": int(words[words.index("repeats") + 1]), "unclear_labels": 1}
            body = json.dumps(told).encode()
            self.send_response(503 if "never" in words else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

        def address_string(self):
            return "unix"

    with contextlib.suppress(FileNotFoundError):
        Path(args.socket).unlink()
    socketserver.ThreadingUnixStreamServer(args.socket, Handler).serve_forever()


main()
