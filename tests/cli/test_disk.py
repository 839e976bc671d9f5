"""The command line on a full disk and on a read-only one."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from lastgood.settings import Settings
from lastgood.testing import projects
from tests.cli.conftest import Run
from tests.ledger import test_files


def fill(folder: Path) -> Path:
    """Take every byte that is left; returns the file that holds them."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    return filler


def test_a_rollback_commits_on_a_full_disk(run: Run, settings: Settings) -> None:
    """The reserve beside the ledger is given up for it; afterwards everything works again."""
    if not test_files.may_mount():
        pytest.skip("needs a small file system of its own, which only root may mount; tests/ledger covers the ledger without one")
    settings.home.mkdir()
    with test_files.mounted(settings.home, "24m"):
        with projects.opened(settings) as ctx:
            _, b, c = projects.released(ctx, 1, 2, 3)
        filler = fill(settings.home)
        done = run("rollback", "toy", "--yes", "--reason", "alert")
        assert done.code == 0, done.err
        assert run("status", "toy", "--json").json["stable"] == b
        filler.unlink()
        assert run("show", "toy", c, "--json").json["mark"]["kind"] == "quarantined"
        assert run("hold", "toy", "--reason", "freeze").code == 0
        assert run("audit", "verify", "toy").code == 0


def test_a_read_only_home_can_be_looked_at(run: Run, settings: Settings) -> None:
    """Status and history answer; a rollback says that the ledger cannot be written, and how to mend it."""
    with projects.opened(settings) as ctx:
        _, _, c = projects.released(ctx, 1, 2, 3)
    with test_files.read_only(settings.home):
        assert run("status", "toy", "--json").json["stable"] == c
        assert len(run("history", "toy", "--json").json["revisions"]) == 9
        done = run("rollback", "toy", "--yes")
        assert done.code == 1, done.err
        assert "Traceback" not in done.err
    assert run("rollback", "toy", "--yes").code == 0
