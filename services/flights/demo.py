"""The main job, end to end, on real flights: a bad release, rolled back as a whole, with every claim checked.

    ./demo [--json] [--down]

Builds run through Dagster, requests through the real proxy, commands through the real command line. It uses the
project's home folder and starts from an empty one; a home that it did not make itself is left alone.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from lastgood import bundle as bundles
from lastgood import converge, daemon, errors, release
from lastgood import service as services
from lastgood import settings as settings_
from lastgood.ops import claims, stack
from services.flights import answers as answers_

SERVICE = "flights"
MONTH_NAMES = {3: "March", 5: "May", 6: "June"}
MARKER = "demo.json"
RATE = 120.0
"""Requests per second; each is followed by its label. A worker on one core answers several hundred."""
ENOUGH = 500
"""Labelled answers per phase. B gets 2,500: of so many flights of May, drawn at random, each of 100 draws showed the
difference with 95 % confidence, clustered by day."""
PHASE_S = 120.0
"""Longest time to wait for them, on a busy machine."""


class Demo:
    """The story, step by step; each step stands on the one before."""

    def __init__(self, settings: settings_.Settings, story: claims.Story) -> None:
        self.settings = settings
        self.story = story
        self.log = settings.home / "demo" / "answers.jsonl"
        self.stop = settings.home / "demo" / "stop"
        self.month = settings.home / "demo" / "month"
        self.port = services.load(settings.services / SERVICE).traffic.port
        self.ids: dict[str, str] = {}

    def run(self) -> None:
        self._start()
        self._release("A", "trained on January and February, departures read at the airport", train=[1, 2], evaluate=[3])
        with self._traffic():
            self._live_through(3, "A")
            self._release("B", "the same data and model, but serving reads departures in UTC", train=[1, 2], evaluate=[3], clock="utc")
            self._live_through(5, "B", enough=2500)
            self._quality_falls()
            self._roll_back()
            self._live_through(6, "A")
            self._quality_is_back()
            self._refused_again()
            self._control_plane_dies()
            self._release("C", "one month more of training, and the clock mended", train=[1, 2, 3], evaluate=[4])
            self._live_through(6, "C", enough=100)
        self._no_request_lost()
        self._audited()

    # --- steps -------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self.story.tell("starting the proxy and the controller")
        stack.up(self.settings, names=[SERVICE], say=self.story.tell)
        status = self._probe()
        self.story.claim("before the first release the proxy says that nothing serves", ok=status == 503, value=status, unit="HTTP")

    def _release(self, name: str, what: str, *, train: list[int], evaluate: list[int], clock: str = "local") -> None:
        self.story.tell(f"building bundle {name} with Dagster: {what}")
        self.ids[name] = self._build(train=train, evaluate=evaluate, clock=clock)
        report = self._cli("show", SERVICE, self.ids[name])["evaluations"][-1]["report"]
        shown = f"Brier {report['metrics']['brier']:.4f}, AUC {report['metrics']['auc']:.3f}"
        paired = (report.get("against") or {}).get("paired")
        if paired:
            shown += f", against stable on the same flights {paired['difference']:+.4f} ± {1.96 * paired['standard_error']:.4f} Brier"
        self.story.tell(f"bundle {name} is {bundles.short(self.ids[name])}; offline: {shown}")
        done = self._cli("promote", SERVICE, self.ids[name], "--yes", "--reason", f"demo: release {name}", allowed=(0, 6))
        self.story.claim(
            f"{name} is stable and passed its offline evaluation",
            ok=done["to"] == self.ids[name],
            value=done["total_ms"],
            unit="ms to promote",
        )

    def _quality_falls(self) -> None:
        served = self._answered_by("B")
        rescored = self._ask_bundle("A", served)
        live, other = _brier_of(served), answers_.brier(zip(rescored, (a.late for a in served), strict=True))
        mean, error = answers_.paired_by_day(rescored, [a.probability or 0.0 for a in served], served)
        self.story.claim(
            "B is worse on live labels than A on the very same flights",
            ok=mean - 1.96 * error > 0,
            value=round(mean, 5),
            unit="Brier",
            detail=f"B {live:.4f}, A {other:.4f}, difference ± {1.96 * error:.4f} by day, {len(served)} flights",
        )
        self._the_log_agrees(served)

    def _the_log_agrees(self, served: list[answers_.Answer]) -> None:
        """The service's own books: predictions joined with the labels that came back, a second or two behind."""
        from lastgood.serving import inference_log

        joined = inference_log.labelled(self.settings.inference(SERVICE), since=0.0, until=time.time())
        found = {row["bundle"]: row for row in inference_log.quality(joined)} if joined is not None else {}
        of_b = found.get(self.ids["B"], {"n": 0, "brier": float("nan")})
        self.story.claim(
            "the inference log, joined with the labels that came back, says the same of B",
            ok=of_b["n"] > 0.8 * len(served) and abs(of_b["brier"] - _brier_of(served)) < 0.01,
            value=round(of_b["brier"], 4),
            unit="Brier",
            detail=f"{of_b['n']} flights",
        )

    def _roll_back(self) -> None:
        self.story.tell("$ lastgood rollback flights --yes --reason 'labels: quality fell'")
        began = time.time()
        done = self._cli("rollback", SERVICE, "--yes", "--reason", "labels: quality fell", allowed=(0, 6))
        time.sleep(1.0)
        committed = self._cli("history", SERVICE, "--limit", "1")["revisions"][0]["at"]
        last_of_b = max((a.received for a in self._answers() if a.bundle == self.ids["B"]), default=began)
        for layer in done["layers"]:
            self.story.tell(f"      {layer['layer']:<15} {layer['status']:<10} {layer['ms']:7.1f} ms  {layer['detail']}")
        self.story.claim("stable is A again", ok=done["to"] == self.ids["A"], value=bundles.short(done["to"]))
        self.story.claim("every layer followed", ok=done["converged"], value=done["total_ms"], unit="ms in all")
        self.story.claim(
            "traffic was flipped",
            ok=done["traffic_ms"] is not None,
            value=done["traffic_ms"],
            unit="ms after the commit",
        )
        self.story.claim(
            "no answer by B after this long from the start of the command",
            ok=0 <= last_of_b - began < 60,
            value=round((last_of_b - began) * 1000, 1),
            unit="ms",
            detail=f"{(last_of_b - committed) * 1000:.1f} ms after the decision",
        )
        self.story.claim("B is quarantined", ok=self.ids["B"] in done["quarantined"], value=bundles.short(self.ids["B"]))

    def _quality_is_back(self) -> None:
        since = max(a.received for a in self._answers() if a.bundle == self.ids["B"])
        served = [a for a in self._answered_by("A") if a.sent > since]
        rescored = self._ask_bundle("A", served)
        same = sum(abs((a.probability or 0.0) - again) < 1e-9 for a, again in zip(served, rescored, strict=True))
        self.story.claim(
            "quality is restored: live answers are exactly those of A",
            ok=bool(served) and same == len(served),
            value=f"{same} of {len(served)}",
            unit="answers",
            detail=f"live Brier {_brier_of(served):.4f}",
        )

    def _refused_again(self) -> None:
        refusal = self._cli("promote", SERVICE, self.ids["B"], "--yes", "--reason", "try again", allowed=(4,))
        self.story.claim("releasing B again is refused", ok=refusal["error"] == "NotAllowed", value=refusal["exit_code"], unit="exit code")

    def _control_plane_dies(self) -> None:
        controller = converge.controller_record(self.settings)
        if controller is None:
            raise errors.Unavailable("the controller is not running; read its log in the home folder's logs")
        os.kill(controller.pid, 9)
        ledger, away = self.settings.home / "ledger.db", self.settings.home / "demo" / "ledger.away"
        moved = [(path, away.with_name(away.name + path.name.removeprefix("ledger.db"))) for path in ledger.parent.glob("ledger.db*")]
        for path, elsewhere in moved:
            path.rename(elsewhere)
        self.story.tell("controller killed with signal 9, ledger moved away")
        began = time.time()
        try:
            time.sleep(3.0)
        finally:
            for path, elsewhere in moved:
                elsewhere.rename(path)
        answered = [a for a in self._answers() if began < a.sent < time.time() - 0.2]
        failed = sum(a.failed for a in answered)
        self.story.claim(
            "with controller and ledger gone requests are answered by the last good bundle",
            ok=bool(answered) and failed == 0 and {a.bundle for a in answered} == {self.ids["A"]},
            value=len(answered),
            unit="answers",
            detail=f"{failed} failed",
        )
        stack.start_controller(self.settings)

    def _no_request_lost(self) -> None:
        told = self._answers()
        failed = [a for a in told if a.failed]
        detail = (
            f"first: {failed[0].status} {failed[0].error or ''}"
            if failed
            else f"{len(told) / 1000:.1f} thousand requests, 3 releases, 1 rollback"
        )
        self.story.claim("failed requests", ok=not failed, value=len(failed), detail=detail)
        with release.open_context(self.settings, read_only=True) as ctx:
            manifests = {i: {name: part.digest for name, part in ctx.ledger.bundle(i).parts.items()} for i in self.ids.values()}
        wrong = answers_.mixed(told, manifests)
        self.story.claim("mixed answers (model or config of another bundle)", ok=not wrong, value=len(wrong))
        self.story.claim(
            "answers without a bundle header", ok=all(a.bundle for a in told if not a.failed), value=sum(not a.bundle for a in told)
        )

    def _audited(self) -> None:
        trail = self._cli("audit", "verify", SERVICE)
        self.story.claim(
            "the audit trail is whole", ok=trail["ok"], value=trail["entries"], unit="entries", detail=f"head {trail['head'][:19]}"
        )
        status = self._cli("status", SERVICE)
        seen = next(layer for layer in status["layers"] if layer["layer"] == "traffic")
        weights = seen["facts"].get("weights", {})
        self.story.claim(
            "what the proxy serves is what the ledger says", ok=weights == {self.ids["C"]: 100.0}, value=bundles.short(status["stable"])
        )

    # --- tools -------------------------------------------------------------------------------------------------

    def _build(self, *, train: list[int], evaluate: list[int], clock: str) -> str:
        """Run the Dagster job `build` and return the id of the bundle it registered."""
        import dagster as dg

        from pipelines.definitions import defs

        config = {
            "loggers": {"console": {"config": {"log_level": "ERROR"}}},
            "ops": {
                "flights__data": {"config": {"train": train, "evaluate": evaluate}},
                "flights__config": {"config": {"options": {"departure_clock": clock}}},
            },
        }
        instance = dg.DagsterInstance.get()
        done = defs.resolve_job_def("build").execute_in_process(run_config=config, instance=instance, raise_on_error=False)
        if not done.success:
            raise errors.LastgoodError(f"the Dagster run {done.run_id} failed; look at it with 'lastgood up --ui'")
        found = [
            event.materialization.metadata["lastgood/bundle"].value
            for event in done.get_asset_materialization_events()
            if event.materialization.asset_key == dg.AssetKey([SERVICE, "bundle"])
        ]
        return str(found[-1])

    def _cli(self, *args: str, allowed: tuple[int, ...] = (0,)) -> dict[str, Any]:
        """Run the real command with --json; returns its object. Raises LastgoodError on any other exit code."""
        argv = [sys.executable, "-m", "lastgood", *args, "--json"]
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, env={**stack.environment(self.settings), "LASTGOOD_ACTOR": "demo"}
        )
        if done.returncode not in allowed:
            raise errors.LastgoodError(f"'lastgood {' '.join(args)}' ended with {done.returncode}: {done.stdout}{done.stderr}")
        value: dict[str, Any] = json.loads(done.stdout)
        return value

    @contextlib.contextmanager
    def _traffic(self) -> Iterator[None]:
        from services.flights import data

        prepared = data.build(
            train=[1, 2], evaluate=[3], workspace=self.settings.home / "dvc" / SERVICE, project=self.settings.project
        ).prepared
        self.story.tell(f"real flights through the proxy, {RATE:.0f} requests a second, each followed by its label")
        self._set_month(3)
        argv = [
            *(sys.executable, "-m", "services.flights.load", "--port", str(self.port), "--prepared", str(prepared)),
            *("--month", str(self.month), "--rate", str(RATE), "--out", str(self.log), "--stop", str(self.stop)),
        ]
        record = self.settings.home / "demo" / "load.json"
        daemon.start(argv, record=record, log=self.settings.home / "demo" / "load.log", env=stack.environment(self.settings))
        try:
            yield
        finally:
            self.stop.touch()
            load = daemon.find(record)
            if load is not None:
                end = time.monotonic() + 15
                while daemon.alive(load) and time.monotonic() < end:
                    time.sleep(0.1)
                daemon.stop(load, grace_s=1.0)

    def _live_through(self, month: int, name: str, *, enough: int = ENOUGH) -> None:
        """Replay flights of *month* until bundle *name* has given *enough* labelled answers."""
        self._set_month(month)
        self.story.tell(f"flights of {MONTH_NAMES[month]}, answered by {name}")
        began, end = time.time(), time.monotonic() + PHASE_S
        while sum(1 for a in self._answered_by(name) if a.sent > began) < enough:
            if time.monotonic() > end:
                raise errors.Unavailable(f"{name} gave too few answers within {PHASE_S:g} s; read {self.log.with_name('load.log')}")
            time.sleep(0.5)

    def _set_month(self, month: int) -> None:
        """In one step: the load reads it at any moment."""
        staged = self.month.with_suffix(".new")
        staged.write_text(str(month))
        staged.replace(self.month)

    def _answers(self) -> list[answers_.Answer]:
        return list(answers_.read(self.log)) if self.log.exists() else []

    def _answered_by(self, name: str) -> list[answers_.Answer]:
        return [a for a in self._answers() if a.bundle == self.ids[name] and not a.failed]

    def _probe(self) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        connection.request("POST", "/predict", body=b"{}", headers={"content-type": "application/json"})
        status = connection.getresponse().status
        connection.close()
        return status

    def _ask_bundle(self, name: str, asked: list[answers_.Answer]) -> list[float]:
        """What bundle *name*, still warm, would have answered: through the proxy, by debug token, users unaffected."""
        token = (self.settings.keys / "debug.token").read_text().strip()
        headers = {"content-type": "application/json", "x-lastgood-debug-token": token, "x-lastgood-bundle": self.ids[name]}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        probabilities: list[float] = []
        for start in range(0, len(asked), 500):
            rows = [json.loads(answer.body) for answer in asked[start : start + 500]]
            connection.request("POST", "/predict", body=json.dumps({"rows": rows}), headers=headers)
            response = connection.getresponse()
            body = json.loads(response.read())
            if response.headers.get("x-lastgood-bundle") != self.ids[name]:
                raise errors.LastgoodError(f"asked bundle {name}, another one answered: {body}")
            probabilities += [row["probability"] for row in body["predictions"]]
        connection.close()
        return probabilities


def _brier_of(answered: list[answers_.Answer]) -> float:
    return answers_.brier((a.probability or 0.0, a.late) for a in answered)


def fresh_home(settings: settings_.Settings, *, story: claims.Story) -> None:
    """Empty the home folder if an earlier demo made it; refuse if somebody else did."""
    marker = settings.home / MARKER
    if settings.home.exists() and any(settings.home.glob("ledger.db*")) and not marker.exists():
        raise errors.NotAllowed(f"{settings.home} holds releases that no demo made; set LASTGOOD_HOME to another folder and run it again")
    if marker.exists():
        story.tell("clearing what the last demo left")
        stack.down(settings, names=[SERVICE], keep_serving=False, say=lambda line: None)
        shutil.rmtree(settings.home)
    (settings.home / "demo").mkdir(parents=True)
    marker.write_text(json.dumps({"schema": "lastgood.demo/v1"}))


def main() -> None:
    """Tell the story and exit with 0 only if every claim holds."""
    parser = argparse.ArgumentParser(prog="./demo", description="Release a bad bundle on real data and roll it back, under load.")
    parser.add_argument("--service", default=SERVICE, choices=[SERVICE])
    parser.add_argument("--json", action="store_true", help="print one JSON object with every claim")
    parser.add_argument("--down", action="store_true", help="stop everything at the end")
    options = parser.parse_args()
    settings = settings_.load()
    os.environ.update(stack.environment(settings))
    os.chdir(settings.project)
    os.environ.setdefault("DAGSTER_HOME", str(settings.project))
    story = claims.Story(as_json=options.json)
    try:
        fresh_home(settings, story=story)
        Demo(settings, story).run()
    except (errors.LastgoodError, OSError, http.client.HTTPException) as error:
        story.claim("the demo ran to its end", ok=False, value=type(error).__name__, detail=str(error))
    finally:
        if options.down:
            stack.down(settings, names=[SERVICE], keep_serving=False, say=story.tell)
    if not options.down:
        story.tell("look:  .venv/bin/lastgood status flights      .venv/bin/lastgood history flights")
        story.tell("open:  .venv/bin/lastgood up --ui             Dagster on http://127.0.0.1:3000, MLflow on http://127.0.0.1:5000")
        story.tell("try:   .venv/bin/lastgood rollback flights    stop: .venv/bin/lastgood down")
    sys.exit(story.end())


if __name__ == "__main__":
    main()
