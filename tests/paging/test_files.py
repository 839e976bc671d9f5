"""The channel that is always there: files in the home folder and lines in the log."""

from __future__ import annotations

import concurrent.futures
import errno
import json
import logging
import os
from pathlib import Path

import pytest

from lastgood.paging import files as pages


def names(folder: Path) -> list[str]:
    """What lies in a folder, also what is hidden."""
    return sorted(file.name for file in folder.iterdir())


def test_a_page_is_a_file_that_sorts_by_revision(tmp_path: Path):
    """Its name is made from service, revision and what it is about, and the same page lands in the same file."""
    for revision in (12, 3, 3):
        pages.leave(tmp_path / "pages", service="toy", revision=revision, name="rollout-1", page={"summary": f"s{revision}", "at": 1.5})
    pages.leave(tmp_path / "pages", service="toy", revision=3, name="other", page={"summary": "other"})
    found = names(tmp_path / "pages")
    assert len(found) == 3
    assert [name.split("-")[1] for name in found] == ["00000003", "00000003", "00000012"]
    assert json.loads((tmp_path / "pages" / found[-1]).read_text("utf-8")) == {
        "schema": "lastgood.page/v1",
        "service": "toy",
        "revision": 12,
        "summary": "s12",
        "at": 1.5,
    }


def test_a_file_is_whole_or_not_there(tmp_path: Path):
    """Whoever reads while pages are written sees whole ones only, and nothing half-done is left behind."""
    page = {"summary": "s" * 10_000}
    pages.leave(tmp_path, service="toy", revision=1, name="k", page=page)
    (file,) = tmp_path.iterdir()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        writing = pool.submit(_write_often, tmp_path, page)
        reads = 0
        while not writing.done() or reads == 0:
            assert json.loads(file.read_text("utf-8"))["summary"] == page["summary"]
            reads += 1
        writing.result()
    assert names(tmp_path) == [file.name]


def _write_often(folder: Path, page: dict[str, str]) -> None:
    for _ in range(60):
        pages.leave(folder, service="toy", revision=1, name="k", page=page)


def test_two_writers_of_one_page_do_not_trip_over_each_other(tmp_path: Path):
    """Two deliverers at once, as after a lease has changed hands, both succeed and leave one file."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(_write_often, tmp_path, {"summary": "s"}) for _ in range(2)]:
            done.result()
    assert len(names(tmp_path)) == 1


def test_a_full_disk_leaves_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What could not be brought to disk is no page, and however often it is tried again, the folder does not fill."""

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        pages.leave(tmp_path, service="toy", revision=1, name="k", page={})
    assert names(tmp_path) == []


def test_no_folder_is_an_error(tmp_path: Path):
    """Who delivers has to know."""
    (tmp_path / "pages").write_text("in the way")
    with pytest.raises(OSError, match="pages"):
        pages.leave(tmp_path / "pages", service="toy", revision=1, name="k", page={})


def test_the_log_has_levels(caplog: pytest.LogCaptureFixture):
    """Critical is an error, warning a warning, info a message."""
    caplog.set_level(logging.INFO)
    for severity in ("critical", "warning", "info"):
        pages.log_page(f"{severity} burns", severity=severity)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "PAGE critical burns"),
        ("WARNING", "PAGE warning burns"),
        ("INFO", "PAGE info burns"),
    ]
