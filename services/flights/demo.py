"""The main job, end to end, on real flights: a bad release, caught by its gates and taken back as a whole, with every claim checked.

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

import yaml

from lastgood import bundle as bundles
from lastgood import converge, daemon, errors, release
from lastgood import service as services
from lastgood import settings as settings_
from lastgood.ops import claims, stack
from services.flights import answers as answers_

SERVICE = "flights"
MONTH_NAMES = {3: "March", 5: "May", 6: "June"}
MARKER = "demo.json"
RATE = 80.0
"""Requests per second, each followed by its label; while a release is on its way both bundles answer nearly all of them."""
LABEL_DELAY_S = 10.0
"""Seconds from an answer to its label: the shadow phase is over before the first label comes, as with real flights."""
ENOUGH = 500
"""Answers per phase of the story that is about a bundle which serves already."""
PHASE_S = 120.0
"""Longest time to wait for them, on a busy machine."""
RELEASE_S = 420.0
"""Longest time that a release may take until it is cut over or taken out."""


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
        self.rollout = 0
        self.overlay = yaml.safe_load((settings.services / SERVICE / "demo.yaml").read_text("utf-8"))

    def run(self) -> None:
        self._start()
        self._build_bundle("A", "trained on January and February, departures read at the airport", train=[1, 2], evaluate=[3])
        self._first_release("A")
        with self._traffic():
            self._live_through(3, "A")
            self._build_bundle("B", "the same data and model, but serving reads departures in UTC", train=[1, 2], evaluate=[3], clock="utc")
            self._set_month(5)
            self._propose("B")
            self._gates_take_out("B")
            self._the_log_agrees()
            self._somebody_was_told("B")
            self._recovered()
            self._refused_again()
            self._live_through(6, "A")
            self._quality_is_back()
            self._control_plane_dies()
            self._build_bundle(
                "C", "the clock mended, and a flight called late only from 0.5 on", train=[1, 2], evaluate=[3], late_from=0.5
            )
            self._propose("C")
            self._passes_its_gates("C")
            self._live_through(6, "C", enough=100)
        self._no_request_lost()
        self._audited()

    # --- steps -------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self.story.tell("starting the proxy and the controller")
        stack.up(self.settings, names=[SERVICE], say=self.story.tell)
        status = self._probe()
        self.story.claim("before the first release the proxy says that nothing serves", ok=status == 503, value=status, unit="HTTP")

    def _build_bundle(
        self, name: str, what: str, *, train: list[int], evaluate: list[int], clock: str = "local", late_from: float = 0.4
    ) -> None:
        self.story.tell(f"building bundle {name} with Dagster: {what}")
        self.ids[name] = self._build(train=train, evaluate=evaluate, options={"departure_clock": clock, "late_from": late_from})
        report = self._cli("show", SERVICE, self.ids[name])["evaluations"][-1]["report"]
        shown = f"Brier {report['metrics']['brier']:.4f}, AUC {report['metrics']['auc']:.3f}"
        paired = (report.get("against") or {}).get("paired")
        if paired:
            shown += f", against stable on the same flights {paired['difference']:+.4f} ± {1.96 * paired['standard_error']:.4f} Brier"
        self.story.tell(f"bundle {name} is {bundles.short(self.ids[name])}; offline: {shown}")

    def _first_release(self, name: str) -> None:
        done = self._cli("promote", SERVICE, self.ids[name], "--yes", "--reason", f"demo: release {name}", allowed=(0, 6))
        ok = done["to"] == self.ids[name]
        self.story.claim(f"{name} is stable and passed its offline evaluation", ok=ok, value=done["total_ms"], unit="ms to promote")

    def _propose(self, name: str) -> None:
        """Ask for the release and leave it to the controller."""
        self.story.tell(f"$ lastgood promote flights {bundles.short(self.ids[name])} --yes --no-wait")
        done = self._cli("promote", SERVICE, self.ids[name], "--yes", "--no-wait", "--reason", f"demo: release {name}", allowed=(0, 6))
        self.rollout = done["revision"]

    def _until_ended(self, name: str) -> dict[str, Any]:
        """Tell each phase of the release as it comes; the revision that ended it."""
        told, end = self.rollout, time.monotonic() + RELEASE_S
        while time.monotonic() < end:
            for revision in reversed(self._cli("history", SERVICE, "--limit", "10")["revisions"]):
                if revision["revision"] <= told:
                    continue
                told = revision["revision"]
                share = f", {revision['weight_pct']:g} % live" if revision["weight_pct"] else ""
                share += f", {revision['mirror_pct']:g} % mirrored" if revision["mirror_pct"] else ""
                self.story.tell(
                    f"      revision {told}: {revision['verb']} -> {revision['phase']}{share}: {claims.brief(revision['reason'])}"
                )
                if revision["candidate"] != self.ids[name]:
                    return revision
            time.sleep(1.0)
        gates = json.dumps(self._cli("watch", SERVICE, "--once"), default=str)[:2000]
        raise errors.Unavailable(f"the release of {name} did not end within {RELEASE_S:g} s; the gates say {gates}")

    def _gates_take_out(self, name: str) -> None:
        """Nobody touches the keyboard from here on."""
        ended = self._until_ended(name)
        revisions = self._cli("history", SERVICE, "--limit", "20")["revisions"]
        phases = [r["phase"] for r in reversed(revisions) if r["candidate"] == self.ids[name]]
        self.story.claim(
            f"{name} went shadow, then canary, by itself", ok=phases[:3] == ["preparing", "shadow", "canary"], value=" -> ".join(phases)
        )
        by_itself = ended["verb"] == "rollback" and ended["actor"] == "lastgood-controller"
        canary = min((r["at"] for r in revisions if r["candidate"] == self.ids[name] and r["phase"] == "canary"), default=ended["at"])
        self.story.claim(
            "a gate took it out on live labels, with nobody at the keyboard",
            ok=by_itself and "gate 'quality'" in ended["reason"],
            value=round(ended["at"] - canary, 1),
            unit="s after the canary began",
            detail=ended["reason"],
        )
        time.sleep(1.5)
        mine = [a for a in self._answers() if a.bundle == self.ids[name] and a.sent > canary - 1]
        all_ = [a for a in self._answers() if a.sent > canary - 1 and a.sent < ended["at"]]
        last = max((a.received for a in mine), default=ended["at"])
        self.story.claim(
            "few users ever got an answer of it",
            ok=0 < len(mine) < 0.5 * len(all_),
            value=len(mine),
            unit="answers",
            detail=f"{100 * len(mine) / max(len(all_), 1):.1f} % of the requests of that time",
        )
        self.story.claim(
            "no answer by it after this long from the decision",
            ok=last - ended["at"] < 5,
            value=max(0.0, round((last - ended["at"]) * 1000, 1)),
            unit="ms",
        )
        status = self._cli("status", SERVICE)
        quarantined = any(m["bundle"] == self.ids[name] and m["kind"] == "quarantined" for m in ended["marks"])
        self.story.claim(
            "A has all traffic, and B is quarantined",
            ok=status["stable"] == self.ids["A"] and quarantined,
            value=bundles.short(self.ids["A"]),
        )

    def _the_log_agrees(self) -> None:
        """The same question put to the books by other means: flights that both answered, joined with what happened."""
        from lastgood.serving import inference_log

        folder = self.settings.inference(SERVICE)
        columns = {"request_id", "row", "bundle", "shadow", "probability"}
        joined = inference_log.labelled(folder, since=0.0, until=time.time(), columns=columns)
        rows = joined.to_pylist() if joined is not None else []
        by_a = {(r["request_id"], r["row"]): r for r in rows if r["bundle"] == self.ids["A"] and not r["shadow"]}
        by_b = {(r["request_id"], r["row"]): r for r in rows if r["bundle"] == self.ids["B"] and r["shadow"]}
        both = sorted(by_a.keys() & by_b.keys())
        worse = [_loss(by_b[key]) - _loss(by_a[key]) for key in both]
        mean = sum(worse) / max(len(worse), 1)
        self.story.claim(
            "counted again from the inference log: on flights that both answered B is worse than A",
            ok=len(both) > 200 and mean > 0,
            value=round(mean, 5),
            unit="Brier",
            detail=f"{len(both)} flights answered by both, with their labels",
        )

    def _somebody_was_told(self, name: str) -> None:
        short, end = bundles.short(self.ids[name]), time.monotonic() + 20
        found: list[dict[str, Any]] = []
        while not found and time.monotonic() < end:
            pages = [json.loads(file.read_text("utf-8")) for file in sorted((self.settings.home / "pages").glob("*.json"))]
            found = [page for page in pages if short in page["summary"] and "taken out" in page["summary"]]
            time.sleep(0.5)
        self.story.claim(
            "one page says what happened",
            ok=len(found) == 1,
            value=len(found),
            unit="page",
            detail=(found or [{"summary": "none"}])[0]["summary"],
        )

    def _recovered(self) -> None:
        self.story.tell("      measuring whether that helped, by criteria that were declared before the release")
        end = time.monotonic() + 150
        revision: dict[str, Any] | None = None
        while revision is None and time.monotonic() < end:
            found = [r for r in self._cli("history", SERVICE, "--limit", "10")["revisions"] if r["verb"] == "verified"]
            revision = found[0] if found else None
            time.sleep(1.0)
        reason = revision["reason"] if revision else "no verdict came"
        self.story.claim(
            "the verdict after it is: recovered", ok=reason.startswith("recovered"), value=reason.partition(":")[0], detail=reason
        )
        out = self.settings.home / "demo" / "report.html"
        self._cli("report", SERVICE, "--rollout", str(self.rollout), "--out", str(out))
        size = out.stat().st_size if out.exists() else 0
        self.story.claim(
            "a report of the whole rollout is there, in one file", ok=size > 10_000, value=round(size / 1000), unit="kB", detail=str(out)
        )

    def _passes_its_gates(self, name: str) -> None:
        ended = self._until_ended(name)
        ok = ended["verb"] == "cut-over" and ended["stable"] == self.ids[name]
        self.story.claim(f"{name} passed every gate and is stable, by itself", ok=ok, value=ended["verb"], detail=ended["reason"])

    def _quality_is_back(self) -> None:
        since = max((a.received for a in self._answers() if a.bundle == self.ids["B"]), default=0.0)
        served = [a for a in self._answered_by("A") if a.sent > since][-2000:]
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
            else f"{len(told) / 1000:.1f} thousand requests, 3 releases, 1 automatic rollback"
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

    def _build(self, *, train: list[int], evaluate: list[int], options: dict[str, Any]) -> str:
        """Run the Dagster job `build` and return the id of the bundle it registered."""
        import dagster as dg

        from pipelines.definitions import defs

        config = {
            "loggers": {"console": {"config": {"log_level": "ERROR"}}},
            "ops": {
                "flights__data": {"config": {"train": train, "evaluate": evaluate}},
                "flights__config": {"config": {"options": options, "overlay": self.overlay}},
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
            *(
                "--month",
                str(self.month),
                "--rate",
                str(RATE),
                "--label-delay",
                str(LABEL_DELAY_S),
                "--out",
                str(self.log),
                "--stop",
                str(self.stop),
            ),
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


def _loss(row: dict[str, Any]) -> float:
    return float((row["probability"] - row["label"]) ** 2)


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
