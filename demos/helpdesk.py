"""A change of documentation and prompt that looks fine offline but is bad for users, caught and rolled back with its index.

    ./demo --service helpdesk [--json] [--down]

A answers from Django 5.2. B brings the documentation of 6.0 and a prompt that puts two words in front of every search: the
golden questions, which are long, are hardly affected; users, who type two or three words, are. C is B with the old prompt.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from demos import claims
from demos import runner as stage
from lastgood import release
from lastgood.bundle import manifest
from lastgood.ops import local_stack
from lastgood.settings import Settings

SERVICE = "helpdesk"
RATE = 80.0
"""Requests per second; most are answered from the cache of the bundle that they reach."""
LABEL_DELAY_S = 2.0
"""Seconds from an answer to its user's feedback."""
ENOUGH = 200
PREFIX = "Django documentation: {{ question }}"


class Demo(stage.Stage):
    """The story, step by step; each step builds on the one before."""

    service = SERVICE

    def __init__(self, settings: Settings, story: claims.Story) -> None:
        super().__init__(settings, story)
        self.overlay = stage.overlay(settings.project, SERVICE)

    def run(self) -> None:
        self.start()
        self._build_bundle("A", "the documentation of Django 5.2, searched for what is asked", version="5.2")
        self.first_release("A")
        with self._traffic():
            self.wait_for_answers("A", enough=ENOUGH)
            self._build_bundle("B", "the documentation of Django 6.0, and a prompt that says what it is about", version="6.0", query=PREFIX)
            self._what_changed()
            self.propose("B")
            self.gate_takes_out("B", gate="helpful", good="A", evidence="what users said")
            self._users_noticed()
            self.somebody_was_told("B")
            self.recovered()
            self._nothing_of_it_is_left()
            self.refused_again("B")
            self.control_plane_dies("A")
            self._build_bundle("C", "the documentation of Django 6.0 with the old prompt", version="6.0")
            self.propose("C")
            self.passes_its_gates("C")
            self.wait_for_answers("C", enough=50)
            self._back_by_hand()
        parts = ("model", "prompt", "index", "config")
        self.no_request_lost(told="3 releases, 2 rollbacks", parts=parts, also=self._made_of_its_own)
        self.audited("A")

    # --- steps -------------------------------------------------------------------------------------------------

    def _build_bundle(self, name: str, what: str, *, version: str, query: str | None = None) -> None:
        self.story.tell(f"building bundle {name} with Dagster: {what}")
        ops: dict[str, Any] = {
            "helpdesk__corpus": {"config": {"version": version}},
            "helpdesk__config": {"config": {"overlay": self.overlay}},
        }
        if query is not None:
            ops["helpdesk__prompt"] = {"config": {"replace": {"query": query}}}
        self.ids[name] = self.run_job("build_helpdesk", ops)
        metrics = self.cli("show", SERVICE, self.ids[name])["evaluations"][-1]["report"]["metrics"]
        shown = ", ".join(f"{word} {metrics[key]:.3f}" for word, key in (("recall@10", "recall_at_10"), ("nDCG@10", "ndcg_at_10")))
        self.story.tell(f"bundle {name} is {manifest.short(self.ids[name])}; offline, {metrics['questions']:.0f} golden questions: {shown}")

    def _what_changed(self) -> None:
        told = self.cli("diff", SERVICE, self.ids["A"], self.ids["B"])
        names = [part["part"] for part in told["parts"] if part["change"] == "changed"]
        words = " ".join(line for one in told["prompt"] for line in one["diff"] if line[0] in "+-")
        self.story.claim(
            "`lastgood diff` shows the three parts that changed",
            ok=names == ["data", "prompt", "index"],
            value=", ".join(names),
            detail=words,
        )

    def _users_noticed(self) -> None:
        rate = {name: self._helpful(self.ids[name]) for name in ("A", "B")}
        self.story.claim(
            "counted again from the load's own book: B helped fewer users than A",
            ok=rate["A"][0] > rate["B"][0] and rate["B"][1] >= 30,
            value=f"{100 * rate['B'][0]:.0f} % against {100 * rate['A'][0]:.0f} %",
            unit="helped",
            detail=f"{rate['B'][1]} answers of B, {rate['A'][1]} of A",
        )

    def _helpful(self, bundle: str) -> tuple[float, int]:
        from demos import helpdesk_load as load

        mine = [one for one in self.lines() if one.get("bundle") == bundle and one["status"] == 200]
        helped = [bool({load.section(s["id"]) for s in one["answer"]["predictions"][0]["sources"]} & set(one["right"])) for one in mine]
        return sum(helped) / max(len(helped), 1), len(helped)

    def _nothing_of_it_is_left(self) -> None:
        """After the rollback every answer is one that A's parts give when computed anew, without any worker or cache."""
        began = max((one["received"] for one in self.lines() if one.get("bundle") == self.ids["B"]), default=0.0)
        self.wait_for_answers("A", enough=ENOUGH)
        served = [one for one in self.lines() if one["sent"] > began and one["status"] == 200]
        asked = self._asked_anew("A", {one["question"] for one in served})
        same = sum(one["answer"]["predictions"] == [asked[one["question"]]] for one in served)
        self.story.claim(
            "quality is restored, and no cached byte of B is served: live answers are exactly those of A's own parts",
            ok=bool(served) and same == len(served),
            value=f"{same} of {len(served)}",
            unit="answers",
            detail=f"{len(asked)} questions",
        )

    def _asked_anew(self, name: str, questions: set[str]) -> dict[str, Any]:
        """The answers of bundle *name*'s parts, computed in this process."""
        from services.helpdesk import runtime

        with release.open_context(self.settings, read_only=True) as ctx:
            parts = ctx.ledger.bundle(self.ids[name]).parts
            folders = {part.name: ctx.store.path(part.digest) for part in parts.values()}
        opened = runtime.Runtime.open(folders, parts["config"].meta["options"], settings=self.settings)
        try:
            return {question: opened.answer(question) for question in sorted(questions)}
        finally:
            opened.close()

    def _back_by_hand(self) -> None:
        """`dagster job launch` rolls the whole bundle back, as an engineer would at night."""
        self.story.tell("$ dagster job launch -w workspace.yaml -j rollback --config-json '…'")
        config = {"ops": {"roll_back": {"config": {"service": SERVICE, "reason": "demo: by hand", "actor": "demo"}}}}
        dagster = shutil.which("dagster", path=local_stack.environment(self.settings).get("PATH", os.defpath)) or "dagster"
        began = time.time()
        argv = [dagster, "job", "launch", "-w", "workspace.yaml", "-j", "rollback", "--config-json", json.dumps(config)]
        env = {**local_stack.environment(self.settings), "DAGSTER_HOME": os.environ["DAGSTER_HOME"]}
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env, cwd=self.settings.project)
        end = time.monotonic() + 60
        while self.cli("status", SERVICE)["stable"] != self.ids["A"] and time.monotonic() < end:
            time.sleep(0.5)
        self.wait_for_answers("A", enough=20)
        last = max((one["received"] for one in self.lines() if one.get("bundle") == self.ids["C"]), default=began)
        self.story.claim(
            "the job rollback takes corpus, prompt, index and configuration back as one",
            ok=done.returncode == 0 and self.cli("status", SERVICE)["stable"] == self.ids["A"],
            value=round(last - began, 1),
            unit="s from the command to the last answer of C",
            detail=done.stderr.strip().splitlines()[-1][:200] if done.returncode else "",
        )

    def _made_of_its_own(self, line: stage.Line) -> bool:
        """Whether index and prompt, as the code that answered saw them, are those of the bundle in the header."""
        if not hasattr(self, "_seen"):
            with release.open_context(self.settings, read_only=True) as ctx:
                parts = {i: ctx.ledger.bundle(i).parts for i in self.ids.values()}
            self._seen = {i: {"index": found["index"].meta["snapshot"], "prompt": found["prompt"].digest} for i, found in parts.items()}
        return all(row["made_of"] == self._seen[line["bundle"]] for row in line["answer"]["predictions"])

    # --- tools -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _traffic(self) -> Iterator[None]:
        self.story.tell(f"real headings of the documentation as questions, {RATE:.0f} a second, each followed by what the user says")
        with release.open_context(self.settings, read_only=True) as ctx:
            corpus = ctx.store.path(ctx.ledger.bundle(self.ids["A"]).parts["data"].digest)
        args: dict[str, float | Path] = {"--corpus": corpus, "--rate": RATE, "--label-delay": LABEL_DELAY_S}
        with self.load("demos.helpdesk_load", *(str(word) for pair in args.items() for word in pair)):
            yield


if __name__ == "__main__":
    stage.main(
        SERVICE,
        "Release bad documentation and prompt, and roll them back with their index, under load.",
        lambda here, story: Demo(here, story).run(),
    )
