"""A page is written with the change it is about, goes to each channel alone, and is never lost."""

from __future__ import annotations

import concurrent.futures
import contextlib
import signal
from pathlib import Path
from typing import Any

import pytest

from lastgood import errors
from lastgood.core.events import Marked, Paged, RollBack, SetHold
from lastgood.ledger import DiskFull, Ledger, Page, audit, connect
from lastgood.system import failpoints
from tests.ledger import foreign
from tests.ledger.children import killed
from tests.ledger.test_files import BALLAST, _fill_disk, fill, may_mount, mounted, open_at
from tests.ledger.world import SERVICE, Everything, act, decide, digest, promote, register

WRITES = ("ledger.after_begin", "ledger.after_revision_insert", "ledger.after_marks", "ledger.before_commit")
BACK = RollBack(reason="bad answers", verified=Everything(), automatic=True)
NEXT = 5
"""The revision of the first change after `filled`."""


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    """A ledger where bundle 2 serves, 1 is previous, and nobody was paged yet."""
    register(ledger, 1, 2, 3)
    promote(ledger, digest(1))
    promote(ledger, digest(2))
    assert (ledger.newest(SERVICE), ledger.pages(SERVICE)) == (NEXT - 1, [])
    return ledger


def tell(ledger: Ledger, key: str = "k", *, revision: int = 1, now: float = 100.0, resolves: bool = False, service: str = SERVICE) -> bool:
    """Leave a page."""
    told: dict[str, Any] = {"severity": "critical", "summary": f"{key} of {revision}", "body": {}, "resolves": resolves}
    return ledger.page(service, revision=revision, key=key, now=now, **told)


def paged(ledger: Ledger) -> list[Paged]:
    """The pages that an automatic step back brings just now."""
    return [effect for effect in decide(ledger, BACK, now=700.0)[1] if isinstance(effect, Paged)]


def due(ledger: Ledger, channel: str = "mail", *, now: float = 1000.0, limit: int = 20) -> list[tuple[int, str]]:
    """Revision and key of what *channel* is to deliver."""
    return [(page.revision, page.key) for page in ledger.due_pages(channel, now=now, limit=limit)]


def find(ledger: Ledger, key: str = "k", revision: int = 1) -> Page:
    """One page with all its deliveries."""
    (page,) = (page for page in ledger.pages(SERVICE) if (page.key, page.revision) == (key, revision))
    return page


def note(ledger: Ledger, channel: str = "mail", *, key: str = "k", revision: int = 1, delivered: bool = True, **more: Any) -> None:
    """Note a try."""
    ledger.page_tried(find(ledger, key, revision), channel, **{"now": 500.0} | more, delivered=delivered)


def test_a_change_and_its_page_are_one(filled: Ledger):
    """The page of an automatic step back tells who did what, the bundles now and before, and what the gates said."""
    verdict = {"gate": "errors", "outcome": "fail", "estimate": 0.2, "reference": 0.1}
    (told,) = paged(filled)
    done = act(filled, BACK, now=700.0, verb="rollback", evidence={"verdicts": [verdict]})
    (page,) = filled.pages(SERVICE)
    assert Paged(summary=page.summary, key=page.key, severity=page.severity, resolves=page.resolves) == told
    assert (page.revision, page.severity) == (done.number, "warning")
    assert page.summary.endswith("bad answers")
    assert (page.at, page.delivered_at, page.deliveries) == (done.at, None, {})
    assert page.body == {
        "verb": "rollback",
        "actor": "op",
        "reason": "because",
        "verdicts": [verdict],
        "stable": digest(1),
        "candidate": None,
        "previous": done.state.previous,
        "before": {"stable": digest(2), "candidate": None, "previous": digest(1)},
    }


def test_a_repeated_operation_pages_once(filled: Ledger):
    """Whoever does not know the outcome and repeats the change leaves no second page."""
    state, effects = decide(filled, BACK, now=700.0)
    asked: dict[str, Any] = {"verb": "rollback", "actor": "op", "reason": "r", "now": 700.0, "operation": "op-1"}
    assert filled.append(state, effects, **asked) == filled.append(state, effects, **asked)
    assert len(filled.pages(SERVICE)) == 1


@pytest.mark.parametrize("place", WRITES)
def test_a_change_that_does_not_happen_pages_nobody(filled: Ledger, url: str, place: str):
    """Killed, or hit by an error, before the commit: neither revision nor page; repeated: one of each."""
    filled.close()
    assert killed(url, f"{place}=kill", lambda own: act(own, BACK)) == -signal.SIGKILL
    with failpoints.armed(f"{place}=raise:EIO"), pytest.raises(errors.Unavailable):
        act(filled, BACK)
    assert (filled.newest(SERVICE), filled.pages(SERVICE)) == (NEXT - 1, [])
    assert act(filled, BACK).number == NEXT
    assert [page.revision for page in filled.pages(SERVICE)] == [NEXT]


def test_a_page_outlives_who_wrote_it(filled: Ledger, url: str, keys: Path):
    """Killed right after the commit, before anything was sent: the page waits for the next deliverer."""
    audit.checkpoint(filled, SERVICE, keys)
    filled.close()
    assert killed(url, "ledger.after_commit=kill", lambda own: act(own, BACK)) == -signal.SIGKILL
    assert [revision for revision, _ in due(filled)] == [filled.newest(SERVICE)] == [NEXT]
    assert audit.verify(filled, SERVICE, keys).problems == ()


def test_a_change_that_the_database_refuses_pages_nobody(filled: Ledger):
    """A revision that breaks a rule takes its page with it."""
    state, _ = decide(filled, SetHold(reason="r", actor="a"), now=700.0)
    told = (Marked(bundle=digest(2), kind="quarantined", reason="r"), Paged(summary="s"))
    with pytest.raises(errors.NotAllowed):
        filled.append(state, told, verb="hold", actor="op", reason="r", now=700.0)
    assert (filled.newest(SERVICE), filled.pages(SERVICE)) == (NEXT - 1, [])


def test_pages_about_one_thing_are_one_page(filled: Ledger):
    """Two with one key in one change would stop it; they become one with both summaries, the gravest severity, and open."""
    state, _ = decide(filled, SetHold(reason="r", actor="a"), now=700.0)
    told = (
        Paged(summary="first", key="k", severity="info", resolves=True),
        Paged(summary="other", key="other", severity="info", resolves=True),
        Paged(summary="second", key="k", severity="warning"),
        Paged(summary="other", key="other", severity="info", resolves=True),
    )
    filled.append(state, told, verb="hold", actor="op", reason="r", now=700.0)
    found = [(page.key, page.summary, page.severity, page.resolves) for page in filled.pages(SERVICE)]
    assert found == [("k", "first; second", "warning", False), ("other", "other", "info", True)]


def test_a_page_that_goes_with_a_change_may_be_about_an_earlier_revision(filled: Ledger):
    """It has a body of its own, and is there once whether it came alone or with a change."""
    state, _ = decide(filled, SetHold(reason="r", actor="a"), now=700.0)
    assert tell(filled, revision=2)
    told = (
        Paged(summary="again", key="k", about=2),
        Paged(summary="slow", key="other", about=2, body={"verdicts": []}),
        Paged(summary="held", key="k"),
    )
    filled.append(state, told, verb="hold", actor="op", reason="r", now=700.0)
    found = {(page.revision, page.key): page for page in filled.pages(SERVICE)}
    assert sorted(found) == [(2, "k"), (2, "other"), (NEXT, "k")]
    assert found[2, "k"].summary != "again"
    assert found[2, "other"].body == {"verdicts": []}
    assert found[NEXT, "k"].body["verb"] == "hold"


def test_the_same_alert_fifty_times_is_one_page(filled: Ledger):
    """Of one key and revision there is one page, as it was first told; the others learn that it is there."""
    assert [tell(filled, now=100.0 + number) for number in range(50)] == [True] + [False] * 49
    assert [(page.key, page.at) for page in filled.pages(SERVICE)] == [("k", 100.0)]
    assert tell(filled, revision=2)
    assert due(filled) == [(1, "k")]


def test_the_same_alert_by_many_at_once(filled: Ledger, url: str):
    """Connections that leave the same page at once leave one, and one of them is told that it was it."""

    def write(writer: int) -> int:
        with connect(url, busy_timeout_s=30) as own:
            return sum(tell(own, f"k{number}") for number in range(10))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(write, range(4))) == 10
    assert len(filled.pages(SERVICE)) == 10


def test_a_page_of_a_revision_to_come_is_refused(filled: Ledger):
    """It could stand in the way of that revision's own page; one about a service before its first revision may be left."""
    key = paged(filled)[0].key
    with pytest.raises(errors.NotAllowed, match="a page belongs to a revision that is there"):
        tell(filled, key, revision=NEXT)
    assert act(filled, BACK).number == NEXT
    assert tell(filled, "new", revision=0, service="unheard-of")


@pytest.mark.parametrize(
    "wrong",
    [{"summary": "a\0b"}, {"key": "\ud800"}, {"now": float("nan")}, {"severity": "bad"}, {"key": ""}, {"body": {"x": float("nan")}}],
)
def test_a_page_that_means_nothing_is_refused(filled: Ledger, wrong: dict[str, Any]):
    """Text that no engine stores, times that are none and unknown severities are the caller's mistake."""
    told: dict[str, Any] = {"revision": 1, "key": "k", "severity": "info", "summary": "s", "body": {}, "now": 1.0} | wrong
    with pytest.raises((errors.UsageError, errors.NotAllowed, errors.Damaged)):
        filled.page(SERVICE, **told)
    assert filled.pages(SERVICE) == []


def test_those_never_tried_come_first(filled: Ledger):
    """Then the oldest, at most as many as asked for, and none before its time."""
    for key, now in (("c", 103.0), ("a", 101.0), ("b", 102.0)):
        tell(filled, key, now=now)
    assert due(filled) == [(1, "a"), (1, "b"), (1, "c")]
    note(filled, key="a", delivered=False, error="refused", next_at=900.0)
    assert due(filled, now=899.9) == [(1, "b"), (1, "c")]
    assert due(filled, now=900.0) == [(1, "b"), (1, "c"), (1, "a")]
    assert due(filled, now=900.0, limit=2) == [(1, "b"), (1, "c")]


def test_each_channel_has_deliveries_of_its_own(filled: Ledger):
    """What one channel did says nothing about another; a delivered page is not due again."""
    tell(filled)
    note(filled, "mail")
    note(filled, "pager", delivered=False, error="no answer", next_at=600.0)
    assert (due(filled, "mail"), due(filled, "pager"), due(filled, "chat")) == ([], [(1, "k")], [(1, "k")])
    (page,) = filled.due_pages("pager", now=600.0)
    assert list(page.deliveries) == ["pager"]
    assert (page.deliveries["pager"].tries, page.deliveries["pager"].error) == (1, "no answer")
    assert {name: (one.tries, one.delivered_at, one.error) for name, one in find(filled).deliveries.items()} == {
        "mail": (1, 500.0, ""),
        "pager": (1, None, "no answer"),
    }


def test_a_page_waits_for_the_earlier_ones_of_its_key(filled: Ledger):
    """What resolves an alert cannot overtake it on a channel that is behind; other keys and channels go on."""
    tell(filled, "alarm", revision=1, now=101.0)
    tell(filled, "alarm", revision=2, now=102.0, resolves=True)
    tell(filled, "other", revision=2, now=103.0)
    assert due(filled) == [(1, "alarm"), (2, "other")]
    note(filled, key="alarm", delivered=False, error="down", next_at=900.0)
    assert due(filled, now=800.0) == [(2, "other")]
    note(filled, "pager", key="alarm")
    assert due(filled, "pager") == [(2, "alarm"), (2, "other")]
    note(filled, key="alarm")
    assert due(filled) == [(2, "alarm"), (2, "other")]


def test_what_was_delivered_stays_delivered(filled: Ledger):
    """A second deliverer that was slower, and failed, does not make it due again; tries are counted."""
    tell(filled)
    for number in (1, 2):
        note(filled, delivered=False, error=f"no answer {number}", next_at=600.0)
    note(filled, now=700.0)
    note(filled, delivered=False, error="late", next_at=800.0, now=701.0)
    note(filled, now=702.0)
    (one,) = find(filled).deliveries.values()
    assert (one.tries, one.delivered_at, one.error) == (3, 700.0, "")
    assert due(filled) == []


def test_an_error_that_no_engine_stores_is_refused(filled: Ledger):
    """The deliverer has to clean it; nothing is noted."""
    tell(filled)
    with pytest.raises(errors.UsageError, match="not plain text"):
        note(filled, delivered=False, error="a\0b", next_at=1.0)
    assert find(filled).deliveries == {}


def test_a_page_is_settled_when_every_channel_has_it(filled: Ledger):
    """Then it is looked for no more, also by a channel that is added later."""
    ways = ["file", "mail"]
    tell(filled)
    tell(filled, "open")
    note(filled, "file")
    assert filled.settle_pages(ways, now=600.0) == 0
    note(filled, "mail", delivered=False, error="no answer", next_at=600.0)
    assert filled.settle_pages(ways, now=600.0) == 0
    note(filled, "mail")
    assert filled.settle_pages([], now=600.0) == 0
    assert filled.settle_pages([*ways, *ways], now=600.0) == 1
    assert filled.settle_pages(ways, now=601.0) == 0
    assert (find(filled).delivered_at, find(filled, "open").delivered_at) == (600.0, None)
    assert due(filled, "added later") == [(1, "open")]


def test_pages_are_shown_newest_first(filled: Ledger):
    """Of one service, with their deliveries, at most as many as asked for."""
    for revision in (1, 2, 3):
        tell(filled, revision=revision)
        note(filled, f"channel {revision}", revision=revision)
    tell(filled, "other", revision=0, service="helpdesk")
    assert [(page.revision, list(page.deliveries)) for page in filled.pages(SERVICE, limit=2)] == [(3, ["channel 3"]), (2, ["channel 2"])]


def test_a_damaged_body_holds_up_nobody(filled: Ledger, url: str):
    """A page whose details somebody else broke is told all the same, and says so; the next one does not wait for it."""
    with foreign.connected(url) as client:
        client.run("INSERT INTO page VALUES (?, 1, 'broken', 'critical', 0, 'it burns', '[]', 1, NULL)", SERVICE)
    tell(filled)
    assert due(filled) == [(1, "broken"), (1, "k")]
    broken = find(filled, "broken")
    assert broken.summary == "it burns"
    assert "the body of page 'broken' of revision 1 of 'flights' is not a JSON object" in broken.body["damaged"]


@pytest.mark.parametrize(("place", "tries"), [("ledger.before_commit", 0), ("ledger.after_commit", 1)])
def test_a_deliverer_that_is_killed(filled: Ledger, url: str, place: str, tries: int):
    """Its note is there or not; if not, the page is due again."""
    tell(filled)
    filled.close()
    assert killed(url, f"{place}=kill", note) == -signal.SIGKILL
    assert sum(one.tries for one in find(filled).deliveries.values()) == tries
    assert due(filled) == [(1, "k")] * (1 - tries)


def test_pages_on_a_full_disk(tmp_path: Path):
    """A page alone is refused with a clear error; that of a rollback commits with it from the reserve."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not may_mount():
        _under_a_fault(folder)
        return
    with mounted(folder, "2m"):
        fill(folder / "ledger.db", ballast_bytes=BALLAST)
        with open_at(folder / "ledger.db", ballast_bytes=BALLAST) as ledger:
            ledger.newest(SERVICE)
            _fill_disk(folder)
            with pytest.raises(DiskFull, match="free some space"):
                _tell_much(ledger, 2000)
            done = act(ledger, BACK, emergency=True)
            assert ledger.pages(SERVICE, limit=1)[0].revision == done.number == NEXT


def _tell_much(ledger: Ledger, count: int) -> None:
    for number in range(count):
        ledger.page(SERVICE, revision=1, key=f"k{number}", severity="info", summary="s", body={"x": "y" * 20_000}, now=1.0)


def test_pages_when_a_write_finds_no_space(tmp_path: Path):
    """The same with the error of the operating system alone, on whatever disk."""
    _under_a_fault(tmp_path)


def _under_a_fault(folder: Path) -> None:
    fill(folder / "ledger.db", ballast_bytes=BALLAST)
    with open_at(folder / "ledger.db", ballast_bytes=BALLAST) as ledger, contextlib.ExitStack() as faults:
        ledger.newest(SERVICE)
        faults.enter_context(failpoints.armed("ledger.before_commit=raise:ENOSPC@1"))
        with pytest.raises(DiskFull, match="free some space"):
            tell(ledger)
        assert (folder / "ledger.db.ballast").exists()
        faults.enter_context(failpoints.armed("ledger.before_commit=raise:ENOSPC@1"))
        done = act(ledger, BACK, emergency=True)
        assert not (folder / "ledger.db.ballast").exists()
        assert [page.revision for page in ledger.pages(SERVICE)] == [done.number] == [NEXT]
