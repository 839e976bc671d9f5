"""Whoever takes away checkpoints, keys and the newest entries, in any combination, is found, also after the next commits."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lastgood import errors
from lastgood.ledger import audit
from lastgood.settings import Settings
from lastgood.testing import projects
from tests.ledger import foreign

SERVICE = "toy"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A service with three releases, each signed as the verbs do it."""
    made = projects.project(tmp_path)
    with projects.opened(made) as ctx:
        for answer in (1, 2, 3):
            projects.released(ctx, answer)
            audit.checkpoint(ctx.ledger, SERVICE, made.keys)
        assert _report(ctx.ledger, made).problems == ()
        assert _report(ctx.ledger, made).uncovered == 0
    return made


def _report(ledger: audit.Ledger, settings: Settings) -> audit.AuditReport:
    return audit.verify(ledger, SERVICE, settings.keys)


def _cut_tail(settings: Settings) -> None:
    with foreign.connected(settings.ledger_url) as client:
        client.guards(on=False)
        client.run("DELETE FROM audit WHERE seq > 6")
        client.run("DELETE FROM revision WHERE number > 3")
        client.run("DELETE FROM mark WHERE revision > 3")
        client.run("DELETE FROM bundle WHERE id NOT IN (SELECT subject FROM audit WHERE kind = 'bundle')")
        client.guards(on=True)


def _file(settings: Settings) -> Path:
    return audit.checkpoint_file(settings.keys, SERVICE)


def _lines(settings: Settings, keep: Callable[[list[str]], list[str]]) -> None:
    lines = _file(settings).read_text().splitlines(keepends=True)
    _file(settings).write_text("".join(keep(lines)))


FILE: dict[str, Callable[[Settings], object]] = {
    "left": lambda s: None,
    "deleted": lambda s: _file(s).unlink(),
    "emptied": lambda s: _file(s).write_text(""),
    "half a line": lambda s: _file(s).write_text(_file(s).read_text()[:40]),
    "only its first line": lambda s: _lines(s, lambda lines: lines[:1]),
    "without its last line": lambda s: _lines(s, lambda lines: lines[:-1]),
    "without its first line": lambda s: _lines(s, lambda lines: lines[1:]),
    "without a middle line": lambda s: _lines(s, lambda lines: [*lines[:2], *lines[3:]]),
    "only its last line": lambda s: _lines(s, lambda lines: lines[-1:]),
}
HEAD: dict[str, Callable[[Settings], object]] = {
    "left": lambda s: None,
    "deleted": lambda s: audit.head_file(s.keys, SERVICE).unlink(),
    "emptied": lambda s: audit.head_file(s.keys, SERVICE).write_text(""),
}
KEY: dict[str, Callable[[Settings], object]] = {
    "left": lambda s: None,
    "deleted": lambda s: shutil.rmtree(s.keys),
    "private half deleted": lambda s: (s.keys / "audit.key").unlink(),
}
TAIL: dict[str, Callable[[Settings], object]] = {"left": lambda s: None, "cut": _cut_tail}
HARMLESS = ("left", "left"), ("without its last line", "left")
"""Nothing is taken away; or what a crash between the two files leaves. With all entries there, nothing is hidden."""
WAYS = [way for way in itertools.product(FILE, HEAD, KEY, TAIL) if way[:2] not in HARMLESS or way[3] == "cut"]


@pytest.mark.parametrize(("file", "head", "key", "tail"), WAYS, ids=str)
def test_nothing_that_is_taken_away_leaves_a_whole_trail(settings: Settings, file: str, head: str, key: str, tail: str) -> None:
    """Found at once, and found after the next commits, which write new checkpoints where they may."""
    TAIL[tail](settings)
    FILE[file](settings)
    HEAD[head](settings)
    KEY[key](settings)
    with projects.opened(settings) as ctx:  # makes a new key, if there is none
        for _ in range(3):
            report = _report(ctx.ledger, settings)
            found = [problem for problem in report.problems if "own guards" not in problem]
            assert found or report.uncovered, (file, head, key, tail)
            ctx.ledger.note(SERVICE, kind="n", body={}, actor="x", now=1.0)
            try:
                audit.checkpoint(ctx.ledger, SERVICE, settings.keys)
            except errors.LastgoodError:  # it refuses to cover it up
                continue


def test_a_first_checkpoint_says_that_entries_were_there_before(settings: Settings) -> None:
    """The file deleted with the newest entries, then a commit: which entries no signature covers is signed."""
    _cut_tail(settings)
    _file(settings).unlink()
    audit.head_file(settings.keys, SERVICE).unlink()
    with projects.opened(settings) as ctx:
        ctx.ledger.note(SERVICE, kind="n", body={}, actor="x", now=1.0)
        audit.checkpoint(ctx.ledger, SERVICE, settings.keys)
        assert _report(ctx.ledger, settings).uncovered == 7
        line = _file(settings).read_text()
        assert '"after":null' in line
        _file(settings).write_text(line.replace('"after":null', '"after":0'))
        assert "not a checkpoint" in _report(ctx.ledger, settings).problems[0]


def test_a_crash_between_the_two_files_is_mended_and_is_no_alarm(settings: Settings) -> None:
    """The newest one in its own file, the line of it not yet written: whole, and the line is there after the next checkpoint."""
    before = _file(settings).read_text()
    with projects.opened(settings) as ctx:
        ctx.ledger.note(SERVICE, kind="n", body={}, actor="x", now=1.0)
        audit.checkpoint(ctx.ledger, SERVICE, settings.keys)
        _file(settings).write_text(before)
        assert (_report(ctx.ledger, settings).problems, _report(ctx.ledger, settings).uncovered) == ((), 0)
        ctx.ledger.note(SERVICE, kind="n", body={}, actor="x", now=1.0)
        audit.checkpoint(ctx.ledger, SERVICE, settings.keys)
        assert (_report(ctx.ledger, settings).problems, _report(ctx.ledger, settings).uncovered) == ((), 0)
        assert len(_file(settings).read_text().splitlines()) == len(before.splitlines()) + 2


def test_checkpoints_of_older_releases_go_on_being_believed(settings: Settings) -> None:
    """They do not say what they follow, and have no file of the newest; the next one says it."""
    from lastgood.bundle import manifest
    from lastgood.system import signing

    claims = [{"service": SERVICE, "seq": entry["seq"], "hash": entry["hash"]} for entry in _entries(settings)[3:7]]
    key = signing.load_private(settings.keys)
    lines = [{**one, "signature": signing.sign(key, manifest.canonical(one), kind=audit.KIND).hex()} for one in claims]
    _file(settings).write_bytes(b"".join(manifest.canonical(line) + b"\n" for line in lines))
    audit.head_file(settings.keys, SERVICE).unlink()
    with projects.opened(settings) as ctx:
        for _ in range(2):
            report = _report(ctx.ledger, settings)
            assert (report.problems, report.uncovered) == ((), 0)
            audit.checkpoint(ctx.ledger, SERVICE, settings.keys)


def _entries(settings: Settings) -> list[dict[str, object]]:
    with projects.opened(settings) as ctx:
        return list(audit.export(ctx.ledger, SERVICE))
