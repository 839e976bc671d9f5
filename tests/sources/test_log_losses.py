"""Rows that the logs lack: told once for each log and cause, and shown by `status` for as long as the logs go back."""

from __future__ import annotations

from pathlib import Path

from lastgood import release
from lastgood.serving import losses
from lastgood.sources import log_losses
from tests.drift import project as toy
from tests.drift.project import SERVICE, START


def test_each_cause_is_told_once(tmp_path: Path) -> None:
    """Counts of writers add up, those of readers of the same rows do not; more of the same tells nobody again, another cause does."""
    settings = toy.make(tmp_path)
    folder = settings.inference(SERVICE)
    with release.open_context(settings) as ctx:
        toy.promote(ctx, toy.build(ctx, 0.0), at=START)
        before = {page.key for page in ctx.ledger.pages(SERVICE)}
        log_losses.page_losses(ctx, SERVICE, now=START)
        assert {page.key for page in ctx.ledger.pages(SERVICE)} == before, "nothing is missing"
        assert losses.record(folder / "predictions", "a-1", lost=5, unwritable=2, why="ArrowInvalid", now=START)
        assert losses.record(folder / "predictions", "b-1", lost=1, unwritable=1, now=START)
        for gate in ("gate-1", "gate-2"):
            assert losses.record(folder / "feedback", gate, unreadable=7, why="no JSON", now=START)
        found = {(one.log, one.cause): one.rows for one in log_losses.missing(settings, SERVICE)}
        assert found == {("predictions", "disk"): 3, ("predictions", "unwritable"): 3, ("feedback", "unreadable"): 7}
        for _ in range(3):
            log_losses.page_losses(ctx, SERVICE, now=START)
            losses.record(folder / "predictions", "b-1", lost=9, unwritable=9, now=START)
        told = [page for page in ctx.ledger.pages(SERVICE) if page.key not in before]
        assert sorted(page.key for page in told) == ["log-feedback-unreadable", "log-predictions-disk", "log-predictions-unwritable"]
        assert {page.severity for page in told} == {"warning"}
        assert all(";" in page.summary for page in told), "each says what to do"


def test_a_file_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    """Half a file, another version's, a folder: the others are told all the same."""
    folder = tmp_path / "predictions" / losses.FOLDER
    folder.mkdir(parents=True)
    for number, text in enumerate(["", "[]", '{"lost": "x"}', '{"lost": 1}', "\udc00".encode("utf-8", "replace").decode()]):
        (folder / f"{number}.json").write_text(text)
    (folder / "folder.json").mkdir()
    assert losses.record(tmp_path / "predictions", "w", lost=1, now=START)
    assert [one.who for one in losses.read(tmp_path)] == ["w"]
