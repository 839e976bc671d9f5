"""The main use case, end to end, on real flights: a bad release, caught by its gates and rolled back as a whole, every claim checked.

    ./demo [--json] [--down]

Builds run through Dagster, requests through the real proxy, commands through the real command line. It uses the
project's home folder and starts from an empty one; a home that it did not create itself is left alone.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Iterator
from typing import Any

from demos import claims
from demos import flights_answers as answers_
from demos import runner as stage
from lastgood import errors
from lastgood.bundle import manifest
from lastgood.settings import Settings

SERVICE = "flights"
MONTH_NAMES = {3: "March", 5: "May", 6: "June"}
RATE = 80.0
"""Requests per second, each followed by its label; while a release is in progress both bundles answer nearly all of them."""
LABEL_DELAY_S = 10.0
"""Seconds from an answer to its label: the shadow phase is over before the first label arrives, as with real flights."""
ENOUGH = 500
"""Number of answers per phase of the story that is about an already serving bundle."""


class Demo(stage.Stage):
    """The story, step by step; each step builds on the one before."""

    service = SERVICE

    def __init__(self, settings: Settings, story: claims.Story) -> None:
        super().__init__(settings, story)
        self.month = self.folder / "month"
        self.overlay = stage.overlay(settings.project, SERVICE)

    def run(self) -> None:
        self.start()
        self._build_bundle("A", "trained on January and February, departures read at the airport")
        self.first_release("A")
        with self._traffic():
            self._live_through(3, "A")
            self._build_bundle("B", "the same data and model, but serving reads departures in UTC", clock="utc")
            self._set_month(5)
            self.propose("B")
            self.gate_takes_out("B", gate="quality", good="A", evidence="live labels")
            self._the_log_agrees()
            self.somebody_was_told("B")
            self.recovered()
            self.refused_again("B")
            self._live_through(6, "A")
            self._quality_is_back()
            self.control_plane_dies("A")
            self._build_bundle("C", "the clock mended, and a flight called late only from 0.5 on", late_from=0.5)
            self.propose("C")
            self.passes_its_gates("C")
            self._live_through(6, "C", enough=100)
        self.no_request_lost(told="3 releases, 1 automatic rollback", parts=("model", "config"))
        self.audited("C")

    def _build_bundle(self, name: str, what: str, *, clock: str = "local", late_from: float = 0.4) -> None:
        self.story.tell(f"building bundle {name} with Dagster: {what}")
        options = {"departure_clock": clock, "late_from": late_from}
        ops = {
            "flights__data": {"config": {"train": [1, 2], "evaluate": [3]}},
            "flights__config": {"config": {"options": options, "overlay": self.overlay}},
        }
        self.ids[name] = self.run_job("build", ops)
        report = self.cli("show", SERVICE, self.ids[name])["evaluations"][-1]["report"]
        shown = f"Brier {report['metrics']['brier']:.4f}, AUC {report['metrics']['auc']:.3f}"
        paired = (report.get("against") or {}).get("paired")
        if paired:
            shown += f", against stable on the same flights {paired['difference']:+.4f} ± {1.96 * paired['standard_error']:.4f} Brier"
        self.story.tell(f"bundle {name} is {manifest.short(self.ids[name])}; offline: {shown}")

    def _the_log_agrees(self) -> None:
        """An independent check of the ledger's figure: flights that both answered, joined with their outcomes."""
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

    def _quality_is_back(self) -> None:
        told = self._answers()
        since = max((a.received for a in told if a.bundle == self.ids["B"]), default=0.0)
        served = [a for a in told if a.bundle == self.ids["A"] and not a.failed and a.sent > since][-2000:]
        rescored = self._ask_bundle("A", served)
        same = sum(abs((a.probability or 0.0) - again) < 1e-9 for a, again in zip(served, rescored, strict=True))
        self.story.claim(
            "quality is restored: live answers are exactly those of A",
            ok=bool(served) and same == len(served),
            value=f"{same} of {len(served)}",
            unit="answers",
            detail=f"live Brier {_brier_of(served):.4f}",
        )

    # --- tools -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _traffic(self) -> Iterator[None]:
        from services.flights import data

        workspace = self.settings.home / "dvc" / SERVICE
        prepared = data.build(train=[1, 2], evaluate=[3], workspace=workspace, project=self.settings.project).prepared
        self.story.tell(f"real flights through the proxy, {RATE:.0f} requests a second, each followed by its label")
        self._set_month(3)
        args = {"--prepared": prepared, "--month": self.month, "--rate": RATE, "--label-delay": LABEL_DELAY_S}
        with self.load("demos.flights_load", *(str(word) for pair in args.items() for word in pair)):
            yield

    def _live_through(self, month: int, name: str, *, enough: int = ENOUGH) -> None:
        """Replay flights of *month* until bundle *name* has given *enough* labelled answers."""
        self._set_month(month)
        self.story.tell(f"flights of {MONTH_NAMES[month]}, answered by {name}")
        self.wait_for_answers(name, enough=enough)

    def _set_month(self, month: int) -> None:
        """Atomically: the load may read it at any moment."""
        staged = self.month.with_suffix(".new")
        staged.write_text(str(month))
        staged.replace(self.month)

    def _answers(self) -> list[answers_.Answer]:
        return [answers_.of(line) for line in self.lines()]

    def _ask_bundle(self, name: str, asked: list[answers_.Answer]) -> list[float]:
        """What bundle *name*, still warm, would have answered: through the proxy, by debug token, without affecting users."""
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


if __name__ == "__main__":
    stage.main(SERVICE, "Release a bad bundle on real data and roll it back, under load.", lambda here, story: Demo(here, story).run())
