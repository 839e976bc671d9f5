"""A stand-in for curl where there is none: what the pages ask of it (-s, -f, -i, -H, -d), by Python's own client."""

from __future__ import annotations

import argparse
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tests import tools


def folder(place: Path) -> str:
    """A folder for PATH with `curl` in it: the real one where it is installed."""
    place.mkdir(parents=True, exist_ok=True)
    real = shutil.which("curl", path=tools.WHOLE_PATH)
    if real is not None:
        (place / "curl").symlink_to(real)
    else:
        root = Path(__file__).resolve().parent.parent
        (place / "curl").write_text(f'#!/bin/sh\nPYTHONPATH="{root}" exec "{sys.executable}" -m tests.curl "$@"\n')
        (place / "curl").chmod(0o755)
    return str(place)


def main(argv: list[str] | None = None) -> int:
    """Ask once and print the answer; 22 as curl has it if -f is given and the answer is an error."""
    parser = argparse.ArgumentParser(prog="curl", add_help=False)
    for flag in ("-s", "-f", "-i"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("-d")
    parser.add_argument("url")
    call = parser.parse_args(argv)
    url = call.url if "://" in call.url else f"http://{call.url}"
    headers = dict(line.split(": ", 1) for line in call.H)
    request = urllib.request.Request(url, data=call.d.encode() if call.d else None, headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            status, told, body = answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            status, told, body = error.code, error.headers, error.read()
    if call.f and status >= 400:
        return 22
    if call.i:
        print(f"HTTP/1.1 {status}\n{told}".rstrip("\n") + "\n")  # noqa: T201  # it is a command
    print(body.decode())  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
