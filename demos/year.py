"""The year as it was, a day of flights every few seconds, shown in Dagster: seasons change without a rollback; a mistake is rolled back.

    ./demo --year [--json] [--down]

A was trained on January and February, B on March and April; B serves from June on. Its windows drift, as summers do, and every
alarm is decided on labelled rows. Then somebody releases C past all gates, B with a clock in UTC: no raw column shows that, but the
features that its code computes do. `dagster dev` runs everything: the sensor, the runs, the pages on http://127.0.0.1:3000.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from demos import claims
from demos import runner as stage
from lastgood import release
from lastgood.bundle import manifest
from lastgood.drift import watch as drift_watch
from lastgood.ops import local_stack
from lastgood.settings import Settings

SERVICE = "flights"
DAY_S = 4.0
"""Seconds for a day of flights."""
EVERY = 3
"""One flight in this many becomes a request, some 300 a day."""
RATE = 75.0
"""Requests per second: a day's flights in DAY_S."""
CALM_DAYS = 24
"""Days of June replayed before the mistake."""
TICK_S = 5.0
AFTER_DAYS = 6
LIMIT_S = 300.0
"""Maximum time to wait for anything, on a busy machine."""


class Year(stage.Stage):
    """The story, step by step; each step builds on the one before."""

    service = SERVICE

    def __init__(self, settings: Settings, story: claims.Story) -> None:
        super().__init__(settings, story)
        self.overlay = overlay(settings)
        self._watched: dict[str, drift_watch.DriftWatch] = {}

    def run(self) -> None:
        self.start()
        self.build_bundle("A", "trained on January and February", train=(1, 2), evaluate=(3,))
        self.build_bundle("B", "trained on March and April", train=(3, 4), evaluate=(5,))
        self.build_bundle("C", "B, but serving reads departures in UTC", train=(3, 4), evaluate=(5,), clock="utc")
        self.first_release("A")
        self.open_dagster()
        with self.traffic():
            self.put_live("B", "trained on the spring")
            self._calm()
            self.put_live("C", "a fix that could not wait for the gates")
            self._slip()
            self._after()
        self.no_request_lost(told="3 releases, 1 automatic rollback", parts=("model", "config"))
        self.audited("B")

    # --- steps -------------------------------------------------------------------------------------------------

    def build_bundle(
        self, name: str, what: str, *, train: Sequence[int], evaluate: Sequence[int], clock: str = "local", late_from: float = 0.4
    ) -> None:
        """Build *name* with Dagster. Bundles that differ in *late_from* alone have the same probabilities."""
        self.story.tell(f"building bundle {name} with Dagster: {what}")
        ops = {
            "flights__data": {"config": {"train": list(train), "evaluate": list(evaluate)}},
            "flights__config": {"config": {"options": {"departure_clock": clock, "late_from": late_from}, "overlay": self.overlay}},
        }
        self.ids[name] = self.run_job("build", ops)
        self.story.tell(f"bundle {name} is {manifest.short(self.ids[name])}")

    def open_dagster(self, *, tick_s: float = TICK_S) -> None:
        """`dagster dev` and MLflow, on their usual ports if those are free."""
        os.environ["LASTGOOD_DRIFT_TICK_S"] = f"{tick_s:g}"
        ports = [_free(3000), _free(5000)]
        self.story.tell(f"dagster dev, which looks every {tick_s:g} s")
        local_stack.open_pages(self.settings, dagster_port=ports[0], mlflow_port=ports[1], say=self.story.tell)

    def put_live(self, name: str, why: str) -> None:
        """Past all gates, as a person in a hurry might do it."""
        self.story.tell(f"$ lastgood promote {SERVICE} {manifest.short(self.ids[name])} --skip-analysis --reason '{why}'")
        done = self.cli("promote", SERVICE, self.ids[name], "--yes", "--skip-analysis", "--reason", why, allowed=(0, 6))
        self.story.claim(f"{name} is stable", ok=done["to"] == self.ids[name], value=done["total_ms"], unit="ms to promote")

    def _calm(self) -> None:
        self.story.tell(f"{CALM_DAYS} days of June, a day every {DAY_S:g} s, {100 // EVERY} % of the flights")
        told = self.until(lambda: self.windows("B"), lambda found: len(found) >= CALM_DAYS)
        self.until(lambda: self._shown("B"), lambda shown: len(shown) >= len(told))
        shown = self._shown("B")
        self.story.claim(
            "every window that was looked at is a materialization of flights/drift with numbers",
            ok=len(shown) >= len(told) and all(_has_numbers(metadata) for metadata in shown.values()),
            value=len(shown),
            unit="windows",
            detail=f"outcomes {_counted(one.verdict['outcome'] for one in told)}",
        )
        judged = self._judged()
        self.story.claim(
            "each was judged by the service's own expectations as well", ok=judged >= 4 * len(told), value=judged, unit="checks of windows"
        )
        decided = self._decided("B", wait=any(one.episode.alarm for one in told))
        status = self.cli("status", SERVICE)
        self.story.claim(
            "summer is drift, and nothing was rolled back for it",
            ok=status["stable"] == self.ids["B"] and all(one["outcome"] != "roll_back" for one in decided),
            value=", ".join(one["outcome"] for one in decided) or "no alarm",
            detail=decided[-1]["why"] if decided else "",
        )

    def _slip(self) -> None:
        cut = self.moved_at(self.ids["C"])
        opened = self.until(lambda: [one for one in self.windows("C") if one.change == "opened"], bool)
        self.story.claim(
            "what its code makes of the flights is not what it was trained on: an alarm",
            ok=bool(opened) and any(_made_failed(one) for one in self.windows("C")),
            value=round(opened[0].end - cut, 1) if opened else -1.0,
            unit=f"s after it went live, days of {DAY_S:g} s",
            detail=opened[0].verdict["why"] if opened else "",
        )
        self.until(self.stable, lambda stable: stable == self.ids["B"])
        ended = next(r for r in self.cli("history", SERVICE, "--limit", "20")["revisions"] if r["verb"] == "rollback")
        self.story.claim(
            "the job evaluate_rollback took it back as a whole, without labels and with nobody at the keyboard",
            ok=ended["stable"] == self.ids["B"] and ended["actor"] == "dagster" and ended["reason"].startswith("drift: feature"),
            value=round(ended["at"] - cut, 1),
            unit="s after it went live",
            detail=ended["reason"],
        )
        marks = {(mark["bundle"], mark["kind"]) for mark in ended["marks"]}
        self.story.claim("C is quarantined", ok=(self.ids["C"], "quarantined") in marks, value=manifest.short(self.ids["C"]))
        last = max((one["received"] for one in self.lines() if one.get("bundle") == self.ids["C"]), default=0.0)
        self.story.claim(
            "its last answer came this long after the decision",
            ok=last - ended["at"] < 5,
            value=max(0.0, round((last - ended["at"]) * 1000, 1)),
            unit="ms",
        )
        self.somebody_was_told("C", "rolled back from")

    def _after(self) -> None:
        reports = self.until(lambda: sorted((self.settings.home / "drift" / "reports" / SERVICE).glob("*.html")), bool)
        runs = self.until(self._logged, bool)
        self.story.claim(
            "Evidently's report on the alarm is a file, and in MLflow",
            ok=bool(reports) and bool(runs),
            value=len(reports),
            unit="reports",
            detail=f"{reports[-1] if reports else 'none'}; {len(runs)} MLflow runs hold one",
        )
        found = self.until(lambda: self.windows("B")[-AFTER_DAYS:], lambda found: len(found) >= AFTER_DAYS)
        made = [one for one in found if _made_failed(one)]
        self.story.claim(
            "back with B its features are those of training again", ok=len(made) < len(found) / 2, value=len(found), unit="windows",
            detail=f"outcomes {_counted(one.verdict['outcome'] for one in found)}",
        )  # fmt: skip

    # --- state of the ledger, Dagster and MLflow -------------------------------------------------------------------------

    def windows(self, name: str) -> list[drift_watch.WindowReport]:
        """The windows of *name* since it was last seen to become stable; none if it never was."""
        with release.open_context(self.settings, read_only=True) as ctx:
            what = drift_watch.watch_of_service(ctx, SERVICE)
            if what is not None and what.bundle == self.ids[name]:
                self._watched[name] = what
            return list(drift_watch.window_reports(ctx, self._watched[name])) if name in self._watched else []

    def _shown(self, name: str) -> dict[str, Mapping[str, Any]]:
        """Metadata of the materializations of `flights/drift` by window, for bundle *name*."""
        import dagster as dg

        with dg.DagsterInstance.get() as instance:
            found = instance.fetch_materializations(dg.AssetKey([SERVICE, "drift"]), limit=1000).records
        events = [one.asset_materialization for one in found if one.asset_materialization]
        mine = self.ids[name][7:15]
        return {str(event.partition): event.metadata for event in events if str(event.partition).startswith(mine)}

    def _judged(self) -> int:
        """Number of window checks recorded in Dagster."""
        import dagster as dg

        with dg.DagsterInstance.get() as instance:
            keys = [dg.AssetCheckKey(dg.AssetKey([SERVICE, "drift"]), name) for name in ("schema", "nulls", "ranges", "categories")]
            return sum(len(instance.event_log_storage.get_asset_check_execution_history(key, limit=1000)) for key in keys)

    def _decided(self, name: str, *, wait: bool) -> list[Mapping[str, Any]]:
        def asked() -> list[Mapping[str, Any]]:
            shown = self.cli("show", SERVICE, self.ids[name])["evaluations"]
            return [one["report"] for one in shown if one["kind"] == "drift-decision"]

        return list(self.until(asked, lambda found: bool(found) or not wait))

    def _logged(self) -> list[Any]:
        import mlflow

        client = mlflow.MlflowClient(tracking_uri=self.settings.tracking_uri)
        experiments = [one.experiment_id for one in client.search_experiments()]
        return list(client.search_runs(experiments, filter_string="tags.`lastgood.kind` = 'drift report'"))

    def stable(self) -> str:
        """The stable bundle in the ledger."""
        return str(self.cli("status", SERVICE)["stable"])

    def moved_at(self, digest: str) -> float:
        """When *digest* first became stable, Unix seconds."""
        revisions = self.cli("history", SERVICE, "--limit", "20")["revisions"]
        return float(min(r["at"] for r in revisions if r["stable"] == digest))

    # --- tools -------------------------------------------------------------------------------------------------

    @staticmethod
    def until(ask: Any, enough: Any) -> Any:
        """The first answer of *ask* that is *enough*, or the last one within LIMIT_S."""
        end = time.monotonic() + LIMIT_S
        while True:
            found = ask()
            if enough(found) or time.monotonic() > end:
                return found
            time.sleep(1.0)

    @contextlib.contextmanager
    def traffic(self) -> Iterator[None]:
        """The flights of the summer, a day every DAY_S seconds, while the block runs."""
        from services.flights import data

        workspace = self.settings.home / "dvc" / SERVICE
        prepared = data.build(train=[3, 4], evaluate=[5], workspace=workspace, project=self.settings.project).prepared
        args = {"--prepared": prepared, "--in-order": "6,7,8,9,10", "--every": EVERY, "--rate": RATE, "--label-delay": 1.0}
        with self.load("demos.flights_load", *(str(word) for pair in args.items() for word in pair)):
            time.sleep(2.0)  # an empty window of B's would rightly be an alarm
            yield


def overlay(settings: Settings) -> dict[str, Any]:
    """The overlay on service.yaml: days of DAY_S seconds, and a release without phases."""
    found = stage.overlay(settings.project, SERVICE)
    days = [day * DAY_S for day in (3, 5, 7, 14, 28)]
    drift = {
        "window_s": DAY_S,
        "time": "scheduled_departure",
        "settle_s": 2.5,
        "persistence": 3,
        "decide": {"score": "brier", "margin": 0.002, "cluster_s": 86_400, "looks_s": days, "label_delay_s": 2.0},
    }
    return {**found, "drift": drift}


def _has_numbers(metadata: Mapping[str, Any]) -> bool:
    """Whether a window with rows has the distances of its columns."""
    return metadata["rows"].value == 0 or any(name.startswith("distance/") for name in metadata)


def _made_failed(one: drift_watch.WindowReport) -> bool:
    """Whether a feature that the serving code computes has drifted in this window."""
    return any(column["name"].startswith("made ") and column["outcome"] in ("fail", "broken") for column in one.verdict["columns"])


def _counted(outcomes: Any) -> str:
    found = list(outcomes)
    return ", ".join(f"{found.count(one)} {one}" for one in dict.fromkeys(found))


def _free(wanted: int) -> int:
    """*wanted* if nobody listens on it, else any free port."""
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    return wanted


if __name__ == "__main__":
    stage.main(
        SERVICE,
        "Live through a summer under Dagster's drift sensor, with a slip that it rolls back.",
        lambda here, story: Year(here, story).run(),
        story="year",
    )
