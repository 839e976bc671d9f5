"""`python -m bench NAME [--quick] [--json]`: measure, print tables; `all` also writes bench/RESULTS.md."""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import machine, report

NAMES = (
    "ledger",
    "rollback",
    "traffic",
    "gates",
    "gates_users",
    "gates_live",
    "shadow",
    "index",
    "index_judged",
    "drift",
    "drift_scores",
    "drift_live",
)
RESULTS = Path(__file__).with_name("RESULTS.md")


def measure(name: str, *, quick: bool, collections: Path | None = None) -> report.Report:
    """Run one measurement; *collections* is the folder that `index_judged` reads."""
    more = {"collections": collections} if name == "index_judged" else {}
    found = machine.facts()
    began = time.monotonic()
    tables = importlib.import_module(f"bench.{name}").run(quick=quick, **more)
    return report.Report(name=name, quick=quick, machine=found, tables=tables, took_s=time.monotonic() - began)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the requested measurements; a figure that misses its promise is shown, and is not an error."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", choices=(*NAMES, "all"))
    parser.add_argument("--quick", action="store_true", help="few repetitions, seconds instead of minutes; rough figures")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object instead of tables")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file that 'all' writes (default: bench/RESULTS.md)")
    parser.add_argument(
        "--collections", type=Path, help="folder of judged collections for index_judged; its layouts are in bench/judged.py"
    )
    call = parser.parse_args(argv)
    # An end like any other, so that what was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    reports = []
    for name in NAMES if call.name == "all" else (call.name,):
        print(f"measuring {name} ...", file=sys.stderr)
        reports.append(measure(name, quick=call.quick, collections=call.collections))
        if not call.as_json:
            print(reports[-1].text(), flush=True)
        if call.name == "all":  # each at once: an hour of measurements must not be lost if a later one fails
            call.out.write_text(report.results(reports), "utf-8")
            print(f"wrote {call.out} up to {name}", file=sys.stderr)
    if call.as_json:
        values = [one.to_json() for one in reports]
        print(json.dumps(values if call.name == "all" else values[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
