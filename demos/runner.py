"""Shared by the demonstrations of all services: commands, builds, traffic, and the claims that every story makes.

What does not belong here: the story of one service (`demos/<name>.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from demos import claims
from lastgood import errors, release
from lastgood import settings as settings_
from lastgood.bundle import manifest
from lastgood.layers.traffic.envoy import files as envoy_files
from lastgood.ops import local_stack
from lastgood.release import convergence
from lastgood.service import schema
from lastgood.settings import Settings
from lastgood.system import processes

CODE_LOCATION = "pipelines.definitions"
"""Loaded by name, as Dagster does (workspace.yaml)."""

MARKER = "demo.json"
RELEASE_S = 420.0
"""Maximum time that a release may take until its cut-over or rejection."""
PHASE_S = 120.0
"""Maximum time to wait for answers, on a busy machine."""

Line = Mapping[str, Any]
"""One line of the load: n, sent, received, status, bundle, revision, arm, answer, error."""


class Stage:
    """A service, its stack in a fresh home, and a story run on it."""

    service: str

    def __init__(self, settings: Settings, story: claims.Story) -> None:
        self.settings = settings
        self.story = story
        self.folder = settings.home / "demo"
        self.log = self.folder / "answers.jsonl"
        self.stop = self.folder / "stop"
        self.port = schema.load(settings.services / self.service).traffic.port
        self.ids: dict[str, str] = {}
        self.rollout = 0

    def start(self) -> None:
        """The stack, and a proxy without a bundle to serve."""
        self.story.tell("starting the proxy and the controller")
        local_stack.up(self.settings, names=[self.service], say=self.story.tell)
        status = self._probe()
        self.story.claim("before the first release the proxy says that nothing serves", ok=status == 503, value=status, unit="HTTP")

    # --- commands and builds -----------------------------------------------------------------------------------

    def cli(self, *args: str, allowed: tuple[int, ...] = (0,)) -> dict[str, Any]:
        """Run the real command with --json; returns its object. Raises LastgoodError on any other exit code."""
        argv = [sys.executable, "-m", "lastgood", *args, "--json"]
        env = {**local_stack.environment(self.settings), "LASTGOOD_ACTOR": "demo"}
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
        if done.returncode not in allowed:
            raise errors.LastgoodError(f"'lastgood {' '.join(args)}' ended with {done.returncode}: {done.stdout}{done.stderr}")
        value: dict[str, Any] = json.loads(done.stdout)
        return value

    def run_job(self, job: str, ops: Mapping[str, Any]) -> str:
        """Run a Dagster build job and return the id of the bundle that it registered."""
        import dagster as dg

        defs: dg.Definitions = importlib.import_module(CODE_LOCATION).defs
        config = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}, "ops": dict(ops)}
        instance = dg.DagsterInstance.get()
        done = defs.resolve_job_def(job).execute_in_process(run_config=config, instance=instance, raise_on_error=False)
        if not done.success:
            raise errors.LastgoodError(f"the Dagster run {done.run_id} failed; look at it with 'lastgood up --ui'")
        found = [
            event.materialization.metadata["lastgood/bundle"].value
            for event in done.get_asset_materialization_events()
            if event.materialization.asset_key == dg.AssetKey([self.service, "bundle"])
        ]
        return str(found[-1])

    def _probe(self) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        connection.request("POST", "/predict", body=b"{}", headers={"content-type": "application/json"})
        status = connection.getresponse().status
        connection.close()
        return status

    # --- traffic -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def load(self, module: str, *args: str) -> Iterator[None]:
        """The traffic of *module* (see `demos.load_generator`) in a process of its own while the block runs."""
        argv = [sys.executable, "-m", module, "--port", str(self.port), "--out", str(self.log), "--stop", str(self.stop)]
        argv += ["--token-file", str(envoy_files.debug_token_file(self.settings)), *args]
        record = self.folder / "load.json"
        processes.start(argv, record=record, log=self.folder / "load.log", env=local_stack.environment(self.settings))
        try:
            yield
        finally:
            self.stop.touch()
            load = processes.find_running(record)
            if load is not None:
                end = time.monotonic() + 15
                while processes.alive(load) and time.monotonic() < end:
                    time.sleep(0.1)
                processes.stop(load, grace_s=1.0)

    def lines(self) -> list[Line]:
        """The load's output so far; an incomplete last line is left for the next call."""
        if not self.log.exists():
            return []
        with self.log.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait_for_answers(self, name: str, *, enough: int) -> None:
        """Wait until bundle *name* has given *enough* good answers from now on."""
        began, end = time.time(), time.monotonic() + PHASE_S
        while (
            sum(1 for one in self.lines() if one.get("bundle") == self.ids[name] and one["status"] == 200 and one["sent"] > began) < enough
        ):
            if time.monotonic() > end:
                raise errors.Unavailable(f"{name} gave too few answers within {PHASE_S:g} s; read {self.log.with_name('load.log')}")
            time.sleep(0.5)

    # --- releases ----------------------------------------------------------------------------------------------

    def first_release(self, name: str) -> None:
        """Release *name* where nothing serves yet."""
        done = self.cli("promote", self.service, self.ids[name], "--yes", "--reason", f"demo: release {name}", allowed=(0, 6))
        ok = done["to"] == self.ids[name]
        self.story.claim(f"{name} is stable and passed its offline evaluation", ok=ok, value=done["total_ms"], unit="ms to promote")

    def propose(self, name: str) -> None:
        """Request the release and leave it to the controller."""
        self.story.tell(f"$ lastgood promote {self.service} {manifest.short(self.ids[name])} --yes --no-wait")
        asked = ("promote", self.service, self.ids[name], "--yes", "--no-wait", "--reason", f"demo: release {name}")
        self.rollout = self.cli(*asked, allowed=(0, 6))["revision"]

    def until_ended(self, name: str) -> dict[str, Any]:
        """Report each phase of the release as it comes; returns the revision that ended it."""
        told, end = self.rollout, time.monotonic() + RELEASE_S
        while time.monotonic() < end:
            for revision in reversed(self.cli("history", self.service, "--limit", "10")["revisions"]):
                if revision["revision"] <= told:
                    continue
                told = revision["revision"]
                share = f", {revision['weight_pct']:g} % live" if revision["weight_pct"] else ""
                share += f", {revision['mirror_pct']:g} % mirrored" if revision["mirror_pct"] else ""
                self.story.tell(
                    f"      revision {told}: {revision['verb']} -> {revision['phase']}{share}: {claims.brief(revision['reason'])}"
                )
                if revision["candidate"] != self.ids[name]:
                    return dict(revision)
            time.sleep(1.0)
        gates = json.dumps(self.cli("watch", self.service, "--once"), default=str)[:2000]
        raise errors.Unavailable(f"the release of {name} did not end within {RELEASE_S:g} s; the gates say {gates}")

    def gate_takes_out(self, name: str, *, gate: str, good: str, evidence: str) -> None:
        """No further input from here on: *gate* has to take *name* out, and *good* has to serve. *evidence* names what showed the fault."""
        ended = self.until_ended(name)
        revisions = self.cli("history", self.service, "--limit", "20")["revisions"]
        phases = [r["phase"] for r in reversed(revisions) if r["candidate"] == self.ids[name]]
        self.story.claim(
            f"{name} went shadow, then canary, by itself", ok=phases[:3] == ["preparing", "shadow", "canary"], value=" -> ".join(phases)
        )
        by_itself = ended["verb"] == "rollback" and ended["actor"] == "lastgood-controller"
        canary = min((r["at"] for r in revisions if r["candidate"] == self.ids[name] and r["phase"] == "canary"), default=ended["at"])
        self.story.claim(
            f"a gate took it out on {evidence}, with nobody at the keyboard",
            ok=by_itself and f"gate {gate!r}" in ended["reason"],
            value=round(ended["at"] - canary, 1),
            unit="s after the canary began",
            detail=ended["reason"],
        )
        time.sleep(1.5)
        self._few_were_hit(name, since=canary, ended_at=ended["at"])
        status = self.cli("status", self.service)
        quarantined = any(m["bundle"] == self.ids[name] and m["kind"] == "quarantined" for m in ended["marks"])
        self.story.claim(
            f"{good} has all traffic, and {name} is quarantined",
            ok=status["stable"] == self.ids[good] and quarantined,
            value=manifest.short(self.ids[good]),
        )

    def _few_were_hit(self, name: str, *, since: float, ended_at: float) -> None:
        lines = self.lines()
        mine = [one for one in lines if one.get("bundle") == self.ids[name] and one["sent"] > since - 1]
        all_ = [one for one in lines if since - 1 < one["sent"] < ended_at]
        last = max((one["received"] for one in mine), default=ended_at)
        self.story.claim(
            "few of the answers that users got came from it",
            ok=0 < len(mine) < 0.5 * len(all_),
            value=len(mine),
            unit="answers",
            detail=f"{100 * len(mine) / max(len(all_), 1):.1f} % of the requests of that time",
        )
        self.story.claim(
            "its last answer came this long after the decision",
            ok=last - ended_at < 5,
            value=max(0.0, round((last - ended_at) * 1000, 1)),
            unit="ms",
        )

    def somebody_was_told(self, name: str, words: str = "taken out") -> None:
        """One page that contains *words*, and the reason."""
        short, end = manifest.short(self.ids[name]), time.monotonic() + 20
        found: list[dict[str, Any]] = []
        while not found and time.monotonic() < end:
            pages = [json.loads(file.read_text("utf-8")) for file in sorted((self.settings.home / "pages").glob("*.json"))]
            found = [page for page in pages if short in page["summary"] and words in page["summary"]]
            time.sleep(0.5)
        detail = (found or [{"summary": "none"}])[0]["summary"]
        self.story.claim("one page says what happened", ok=len(found) == 1, value=len(found), unit="page", detail=detail)

    def recovered(self) -> None:
        """The verdict after the rollback, and a report on everything."""
        self.story.tell("      measuring whether that helped, by criteria that were declared before the release")
        end = time.monotonic() + 150
        revision: dict[str, Any] | None = None
        while revision is None and time.monotonic() < end:
            found = [r for r in self.cli("history", self.service, "--limit", "10")["revisions"] if r["verb"] == "verified"]
            revision = found[0] if found else None
            time.sleep(1.0)
        reason = revision["reason"] if revision else "no verdict came"
        self.story.claim(
            "the rollback helped",
            ok=reason.startswith("recovered"),
            value=reason.partition(":")[0],
            detail=reason.partition(": ")[2],
        )
        out = self.folder / "report.html"
        self.cli("report", self.service, "--rollout", str(self.rollout), "--out", str(out))
        size = out.stat().st_size if out.exists() else 0
        self.story.claim(
            "a report of the whole rollout is there, in one file", ok=size > 10_000, value=round(size / 1000), unit="kB", detail=str(out)
        )

    def refused_again(self, name: str) -> None:
        """A quarantined bundle is not released again by mistake."""
        refusal = self.cli("promote", self.service, self.ids[name], "--yes", "--reason", "try again", allowed=(4,))
        self.story.claim(
            f"releasing {name} again is refused, with exit code", ok=refusal["error"] == "NotAllowed", value=refusal["exit_code"]
        )

    def passes_its_gates(self, name: str) -> None:
        """*name* takes over by itself."""
        ended = self.until_ended(name)
        ok = ended["verb"] == "cut-over" and ended["stable"] == self.ids[name]
        self.story.claim(f"{name} passed every gate and is stable, by itself", ok=ok, value=ended["verb"], detail=ended["reason"])

    # --- claims about the whole --------------------------------------------------------------------------------

    def control_plane_dies(self, good: str) -> None:
        """Controller killed and ledger moved away: *good* continues to answer."""
        controller = convergence.controller_record(self.settings)
        if controller is None:
            raise errors.Unavailable("the controller is not running; read its log in the home folder's logs")
        os.kill(controller.pid, 9)
        ledger, away = self.settings.home / "ledger.db", self.folder / "ledger.away"
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
        answered = [one for one in self.lines() if began < one["sent"] < time.time() - 0.2]
        failed = sum(one["status"] != 200 for one in answered)
        self.story.claim(
            "with controller and ledger gone requests are answered by the last good bundle",
            ok=bool(answered) and failed == 0 and {one.get("bundle") for one in answered} == {self.ids[good]},
            value=len(answered),
            unit="answers",
            detail=f"{failed} failed",
        )
        local_stack.start_controller(self.settings)

    def no_request_lost(self, *, told: str, parts: Sequence[str], also: Callable[[Line], bool] = lambda _line: True) -> None:
        """No failed request, and no answer with a part of another bundle; *also* checks an answer itself."""
        lines = self.lines()
        failed = [one for one in lines if one["status"] != 200]
        detail = (
            f"first: {failed[0]['status']} {failed[0].get('error', '')}" if failed else f"{len(lines) / 1000:.1f} thousand requests, {told}"
        )
        self.story.claim("failed requests", ok=not failed, value=len(failed), detail=detail)
        with release.open_context(self.settings, read_only=True) as ctx:
            digests = {
                i: {"bundle": i, **{name: part.digest for name, part in ctx.ledger.bundle(i).parts.items()}} for i in self.ids.values()
            }
        good = [one for one in lines if one["status"] == 200]
        wrong = [one for one in good if not _whole(one, digests, parts=("bundle", *parts)) or not also(one)]
        self.story.claim(f"mixed answers ({', '.join(parts)} of another bundle)", ok=not wrong, value=len(wrong))
        nameless = sum(not one.get("bundle") for one in good)
        self.story.claim("answers without a bundle header", ok=nameless == 0, value=nameless)

    def audited(self, serving: str) -> None:
        """The audit trail is intact, and what serves is what it records."""
        trail = self.cli("audit", "verify", self.service)
        self.story.claim(
            "the audit trail is whole", ok=trail["ok"], value=trail["entries"], unit="entries", detail=f"head {trail['head'][:19]}"
        )
        status = self.cli("status", self.service)
        seen = next(layer for layer in status["layers"] if layer["layer"] == "traffic")
        weights = seen["facts"].get("weights", {})
        self.story.claim(
            "what the proxy serves is what the ledger says",
            ok=weights == {self.ids[serving]: 100.0},
            value=manifest.short(status["stable"]),
        )


def _whole(line: Line, digests: Mapping[str, Mapping[str, str]], *, parts: Sequence[str]) -> bool:
    """Whether every part that the answer names belongs to the bundle in its header."""
    wanted = digests.get(line.get("bundle") or "", {})
    return all(line["answer"].get(name) == wanted.get(name) for name in parts)


def fresh_home(settings: Settings, *, service: str, story: claims.Story) -> None:
    """Empty the home folder if an earlier demo created it; refuse if it was created otherwise."""
    marker = settings.home / MARKER
    if settings.home.exists() and any(settings.home.glob("ledger.db*")) and not marker.exists():
        raise errors.NotAllowed(f"{settings.home} holds releases that no demo made; set LASTGOOD_HOME to another folder and run it again")
    if marker.exists():
        story.tell("clearing what the last demo left")
        left = json.loads(marker.read_text("utf-8")).get("service", service)
        local_stack.down(settings, names=sorted({left, service}), keep_serving=False, say=lambda line: None)
        shutil.rmtree(settings.home)
    (settings.home / "demo").mkdir(parents=True)
    marker.write_text(json.dumps({"schema": "lastgood.demo/v1", "service": service}))


def main(service: str, description: str, tell: Callable[[Settings, claims.Story], None], *, story: str = "") -> None:
    """Run the story of *service* (*story* names its switch where there are several) and exit with 0 only if every claim holds."""
    stories = [*(f"./demo --service {file.stem}" for file in sorted(Path(__file__).parent.glob("*.yaml"))), "./demo --year"]
    parser = argparse.ArgumentParser(prog="./demo", description=description, epilog=f"the stories: {', '.join(stories)}")
    parser.add_argument("--service", default=service, choices=[service])
    if story:
        parser.add_argument(f"--{story}", action="store_true", help="this story")
    parser.add_argument("--json", action="store_true", help="print one JSON object with every claim")
    parser.add_argument("--down", action="store_true", help="stop everything at the end")
    options = parser.parse_args()
    settings = settings_.load()
    os.environ.update(local_stack.environment(settings))
    os.chdir(settings.project)
    os.environ.setdefault("DAGSTER_HOME", str(settings.project))
    told = claims.Story(as_json=options.json)
    try:
        fresh_home(settings, service=service, story=told)
        tell(settings, told)
    except (errors.LastgoodError, OSError, http.client.HTTPException) as error:
        told.claim("the demo ran to its end", ok=False, value=type(error).__name__, detail=str(error))
    finally:
        if options.down:
            local_stack.down(settings, names=[service], keep_serving=False, say=told.tell)
    if not options.down:
        told.tell(f"look:  .venv/bin/lastgood status {service}      .venv/bin/lastgood history {service}")
        told.tell("open:  .venv/bin/lastgood up --ui             Dagster on http://127.0.0.1:3000, MLflow on http://127.0.0.1:5000")
        told.tell(f"try:   .venv/bin/lastgood rollback {service}    stop: .venv/bin/lastgood down")
    sys.exit(told.end())


def overlay(project: Path, service: str) -> dict[str, Any]:
    """The demonstration's overlay on the service.yaml of *service*."""
    from lastgood.system import yaml_errors

    file = project / "demos" / f"{service}.yaml"
    found: dict[str, Any] = yaml_errors.load(file.read_text("utf-8"), where=str(file))
    return found
