"""`up` beside a controller that commits at the same moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from lastgood import release
from lastgood.layers import base, reconcile
from lastgood.ops import local_stack
from lastgood.settings import Settings
from lastgood.system import processes
from lastgood.testing import projects


class Overtaken(base.Layer):
    """Workers that have already followed a revision which the controller committed after `up` had read the ledger."""

    name = "infrastructure"

    def __init__(self, ctx: release.Context, digests: list[str]) -> None:
        self.ctx = ctx
        self.digests = digests
        self.seen: list[int] = []

    def observe(self) -> base.Observed:
        return base.Observed(revision=self.ctx.ledger.state("toy").revision)

    def apply(self, desired: base.Desired) -> None:
        """Take over nothing: another process did."""

    def verify(self, desired: base.Desired, observed: base.Observed) -> bool | None:
        return observed.revision == desired.revision

    def start_up(self, desired: base.Desired) -> None:
        self.seen.append(desired.revision)
        if self.digests:
            release.propose(self.ctx, "toy", self.digests.pop(), release.Request(actor="controller", reason="meanwhile"))


def test_a_revision_committed_meanwhile_is_brought_up_and_not_called_lagging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer follows a newer revision than the one that `up` read: it reads once more and reports what is so."""
    settings = projects.project(tmp_path)
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1.0)
        layer = Overtaken(ctx, [projects.build(ctx, 2.0)])
        read = ctx.ledger.state("toy").revision

        def build(_settings: Settings, _name: str) -> dict[str, base.Layer]:
            return {"infrastructure": layer}

        def start(_settings: Settings) -> processes.Record:
            return processes.Record(pid=1, started="0")

        monkeypatch.setattr(reconcile, "build", build)
        monkeypatch.setattr(local_stack, "start_controller", start)
        said: list[str] = []
        receipts = local_stack.up(settings, names=["toy"], say=said.append)
    assert layer.seen == [read, read + 1]
    assert [(receipt.status, receipt.desired_revision, receipt.detail) for receipt in receipts] == [("converged", read + 1, "")]
    assert not any("older copy" in line for line in said)


def test_a_ledger_that_was_put_back_is_still_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer is ahead and the ledger does not move: no endless reading, and the person is told."""
    settings = projects.project(tmp_path)
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1.0)
        layer = Overtaken(ctx, [])
        ahead = ctx.ledger.state("toy").revision + 5
        monkeypatch.setattr(layer, "observe", lambda: base.Observed(revision=ahead))
        monkeypatch.setattr(reconcile, "build", lambda *_args: {"infrastructure": layer})
        monkeypatch.setattr(local_stack, "start_controller", lambda _settings: processes.Record(pid=1, started="0"))
        receipts = local_stack.up(settings, names=["toy"], say=lambda _line: None)
    assert [receipt.status for receipt in receipts] == ["lagging"]
    assert "older copy" in receipts[0].detail
