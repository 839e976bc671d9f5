"""`lastgood test-page`, and what `status` says of pages that did not get through."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from lastgood import settings as settings_
from lastgood.paging import delivery
from lastgood.release import convergence
from lastgood.settings import Settings
from lastgood.testing import projects
from tests.cli.conftest import Run
from tests.paging.pager import DEAD, KEY

DEAD_PAGER = {"LASTGOOD_PAGING_URLS": f"pagerduty://{KEY}", "LASTGOOD_PAGING_PAGERDUTY_URL": DEAD, "LASTGOOD_PAGING_TIMEOUT_S": "1"}


@pytest.fixture
def released(settings: Settings) -> None:
    """A service that has been released once."""
    with projects.opened(settings) as ctx:
        projects.released(ctx, 1)


@pytest.fixture
def delivering(settings: Settings, released: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A controller's loop that delivers, with a pager beside the file that nobody answers."""
    monkeypatch.setattr(convergence, "controller_record", lambda _: types.SimpleNamespace(pid=1))
    loop = delivery.PageLoop(settings_.load(settings.project, environ=DEAD_PAGER), pause_s=0.05)
    loop.start()
    yield
    loop.end(wait_s=10)


def test_a_test_page_arrives(run: Run, settings: Settings, delivering: None) -> None:
    """In the pages folder, for that is all that this call is configured for; it says that nothing is wrong."""
    done = run("test-page", "toy", "--severity", "info")
    assert (done.code, done.out) == (0, "  file         has it\n")
    (told,) = [json.loads(file.read_text("utf-8")) for file in Path(settings.home / "pages").glob("[!.]*.json")]
    assert (told["severity"], told["summary"]) == ("info", "toy: a test page by tester; nothing is wrong")


def test_a_channel_that_does_not_answer_is_named_here_and_in_status(run: Run, delivering: None) -> None:
    """With why, without its secret; the others have the page all the same."""
    done = run("test-page", "toy", "--timeout", "3", "--json", env=DEAD_PAGER)
    assert (done.code, done.json["arrived"], done.json["channels"]["file"]) == (1, False, "has it")
    (name,) = set(done.json["channels"]) - {"file"}
    assert name.startswith("pagerduty")
    assert done.json["channels"][name] not in ("has it", "not tried yet")
    status = run("status", "toy")
    assert f"! page not delivered by {name} (" in status.out
    assert "a test page by tester" in status.out
    assert KEY not in done.out + status.out
    assert [one["channel"] for one in run("status", "toy", "--json").json["undelivered"]] == [name]


def test_without_a_controller_nobody_delivers(run: Run, settings: Settings, released: None) -> None:
    """It says so, and leaves no page behind that comes later and frightens somebody."""
    done = run("test-page", "toy")
    assert (done.code, "lastgood up" in done.err) == (1, True)
    assert run("test-page", "nobody").code == 2
    with projects.opened(settings) as ctx:
        assert ctx.ledger.pages("toy") == []
