"""A page reaches a person: late, twice, but in the end, whatever is dead on the way. On a virtual clock."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from lastgood import errors
from lastgood.core.events import RollBack
from lastgood.ledger import Delivery, Ledger, Page, connect
from lastgood.paging import channels
from lastgood.paging import delivery as paging
from lastgood.settings import PagingSettings, Settings
from tests.ledger.children import killed
from tests.ledger.world import Everything, act, digest, promote, register
from tests.paging.endpoint import WAIT_S, Answer, Endpoint, serving
from tests.paging.pager import DEAD, KEY, NOW, SERVICE, files, settings, tell

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")

PAGERDUTY = f"pagerduty://{KEY}"
DEDUP = "lastgood/flights/rollout-4"


def longest() -> float:
    """The worst luck there is."""
    return 1.0


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A pager that takes everything until it is told otherwise."""
    with serving() as found:
        yield found


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """The empty ledger of the home folder that all settings here have."""
    with connect(settings(tmp_path).ledger_url) as found:
        found.migrate()
        yield found


def look(ledger: Ledger, configured: Settings, after_s: float = 0.0) -> int:
    """One look of the deliverer, so many seconds after the first."""
    return paging.deliver(ledger, configured, now=NOW + after_s, chance=longest)


def delivery(ledger: Ledger, kind: str, key: str = "rollout-4", *, service: str = SERVICE) -> Delivery:
    """What became of a page on the one channel of this kind."""
    (found,) = (one for page in ledger.pages(service) if page.key == key for name, one in page.deliveries.items() if name.startswith(kind))
    return found


def web(endpoint: Endpoint) -> str:
    """A webhook at *endpoint*, by Apprise."""
    return f"json://127.0.0.1:{endpoint.port}/hook"


# --- one look ----------------------------------------------------------------------------------------------


def test_a_page_goes_to_every_channel_once(ledger: Ledger, endpoint: Endpoint, tmp_path: Path):
    """File, pager and webhook have it after one look; then it is settled and nobody asks for it any more."""
    configured = settings(tmp_path, PAGERDUTY, web(endpoint), at=endpoint)
    tell(ledger)
    assert look(ledger, configured) == 3
    assert sorted(asked.path for asked in endpoint.taken()) == ["/hook", "/v2/enqueue"]
    assert [found["key"] for found in files(tmp_path)] == ["rollout-4"]
    (page,) = ledger.pages(SERVICE)
    assert page.delivered_at == NOW
    assert {one.delivered_at for one in page.deliveries.values()} == {NOW}
    assert (look(ledger, configured, 1), endpoint.taken()) == (0, [])


def test_without_channels_there_is_the_file(ledger: Ledger, tmp_path: Path):
    """Nothing configured: the page lies in the home folder and is settled."""
    tell(ledger)
    assert look(ledger, settings(tmp_path)) == 1
    assert (len(files(tmp_path)), ledger.pages(SERVICE)[0].delivered_at) == (1, NOW)


def test_the_same_alert_fifty_times_wakes_once(ledger: Ledger, endpoint: Endpoint, tmp_path: Path):
    """Of one revision it is one event; told again about later revisions it joins the open alert by its key."""
    configured = settings(tmp_path, PAGERDUTY, at=endpoint)
    for number in range(50):
        tell(ledger, now=NOW + number)
        look(ledger, configured, number)
    assert [asked.body["dedup_key"] for asked in endpoint.taken()] == [DEDUP]
    register(ledger, 1)
    promote(ledger, digest(1))
    for revision in (1, 2):
        tell(ledger, revision=revision, now=NOW + 100)
        look(ledger, configured, 100)
    assert [(asked.body["event_action"], asked.body["dedup_key"]) for asked in endpoint.taken()] == [("trigger", DEDUP)] * 2


def test_what_resolves_closes_the_alert_and_never_overtakes_it(ledger: Ledger, endpoint: Endpoint, tmp_path: Path):
    """Same key, resolve after trigger, also when the trigger was refused for a while and both are due at once."""
    configured = settings(tmp_path, PAGERDUTY, at=endpoint)
    register(ledger, 1)
    promote(ledger, digest(1))
    tell(ledger, revision=1)
    endpoint.refuse(503)
    look(ledger, configured)
    tell(ledger, revision=2, now=NOW + 1, resolves=True, severity="info")
    assert [asked.body["event_action"] for asked in endpoint.taken()] == ["trigger"]
    for after_s in (1, 2, 3):
        look(ledger, configured, after_s)
    assert [(asked.body["event_action"], asked.body["dedup_key"]) for asked in endpoint.taken()] == [("trigger", DEDUP), ("resolve", DEDUP)]


def test_the_page_of_a_rollback_is_told_whole(ledger: Ledger, endpoint: Endpoint, tmp_path: Path):
    """From the commit of an automatic step back to the pager: who did what, the bundles, and what to type."""
    register(ledger, 1, 2)
    promote(ledger, digest(1))
    promote(ledger, digest(2))
    back = RollBack(reason="bad answers", verified=Everything(), automatic=True)
    act(ledger, back, now=NOW, verb="rollback")
    assert look(ledger, settings(tmp_path, PAGERDUTY, at=endpoint), 1) == 2
    event = endpoint.take().body
    details = event["payload"]["custom_details"]
    assert event["dedup_key"] == f"lastgood/flights/{ledger.pages(SERVICE)[0].key}"
    assert (details["verb"], details["stable"], details["before"]["stable"]) == ("rollback", digest(1), digest(2))
    assert details["next"][1] == f"lastgood promote flights {digest(2)[7:19]} --override-quarantine --reason WHY"


def test_what_is_refused_comes_in_the_end(ledger: Ledger, endpoint: Endpoint, tmp_path: Path):
    """429, then 500, then taken: tried after 2 and 4 s in the worst case, not before, and the tries are on record."""
    configured = settings(tmp_path, PAGERDUTY, at=endpoint)
    tell(ledger)
    endpoint.refuse(429, 500)
    sent = {after_s: (look(ledger, configured, after_s), len(endpoint.taken())) for after_s in (0, 1.9, 2, 5.9, 6, 7)}
    assert sent == {0: (1, 1), 1.9: (0, 0), 2: (0, 1), 5.9: (0, 0), 6: (1, 1), 7: (0, 0)}
    assert delivery(ledger, "pagerduty") == Delivery(tries=3, next_at=0.0, delivered_at=NOW + 6, error="")


def test_a_dead_channel_is_tried_again_and_holds_up_no_other(ledger: Ledger, tmp_path: Path):
    """The others have the page at once; the dead one gets it as soon as it is back, though nobody restarted anything."""
    with serving() as gone, serving() as chat:
        port = gone.port
        configured = settings(tmp_path, PAGERDUTY, web(chat), at=gone)
        gone.close()
        tell(ledger)
        assert look(ledger, configured) == 2
        assert chat.take().body["type"] == "failure"
        dead = delivery(ledger, "pagerduty")
        assert (dead.tries, dead.next_at, dead.delivered_at) == (1, NOW + 2, None)
        assert "no answer" in dead.error
        assert ledger.pages(SERVICE)[0].delivered_at is None
        with serving(port) as back:
            assert look(ledger, configured, 2) == 1
            assert back.take().body["dedup_key"] == DEDUP
        assert (ledger.pages(SERVICE)[0].delivered_at, chat.taken()) == (NOW + 2, [])


def test_a_channel_that_is_down_is_asked_once_a_look(ledger: Ledger, endpoint: Endpoint, tmp_path: Path):
    """Of many pages one finds out; the next look tries one that was not tried yet, and all go when it is back."""
    configured = settings(tmp_path, PAGERDUTY, at=endpoint)
    for number in range(4):
        tell(ledger, f"k{number}", now=NOW - 10 + number)
    endpoint.refuse(503, 503)
    for after_s in (0, 1):
        look(ledger, configured, after_s)
        assert [asked.body["dedup_key"] for asked in endpoint.taken()] == [f"lastgood/flights/k{after_s}"]
    look(ledger, configured, 3)
    assert sorted(asked.body["dedup_key"][-2:] for asked in endpoint.taken()) == ["k0", "k1", "k2", "k3"]


def test_a_page_that_is_refused_holds_up_no_other(ledger: Ledger, endpoint: Endpoint, tmp_path: Path):
    """A refusal of one page says nothing about the next; it is kept, with what the server said, and tried again."""
    configured = settings(tmp_path, PAGERDUTY, at=endpoint)
    tell(ledger, "bad", now=NOW - 2)
    tell(ledger, "good", now=NOW - 1)
    endpoint.answers = [Answer(status=400, body=b"invalid event")]
    assert look(ledger, configured) == 3
    assert [asked.body["dedup_key"][-4:] for asked in endpoint.taken()] == ["/bad", "good"]
    assert "HTTP 400 invalid event" in delivery(ledger, "pagerduty", "bad").error
    assert look(ledger, configured, 2) == 1


def test_a_server_that_answers_rubbish_holds_up_nothing(ledger: Ledger, endpoint: Endpoint, tmp_path: Path):
    """Its answer is noted as far as the ledger can hold it, and the page comes again after the pause."""
    configured = settings(tmp_path, PAGERDUTY, at=endpoint)
    tell(ledger)
    endpoint.answers = [Answer(status=500, body=b"\0\xff\xfe\0" * 100)]
    assert look(ledger, configured) == 1
    assert delivery(ledger, "pagerduty").error.startswith("pagerduty-")
    assert [look(ledger, configured, after_s) for after_s in (1, 2)] == [0, 1]


def test_a_slow_channel_ends_its_look(ledger: Ledger, endpoint: Endpoint, tmp_path: Path):
    """One that does not answer costs one timeout for all its pages."""
    configured = settings(tmp_path, PAGERDUTY, at=endpoint, timeout_s=0.2)
    for number in range(5):
        tell(ledger, f"k{number}")
    endpoint.hold = True
    assert look(ledger, configured) == 5
    assert len(endpoint.taken()) == 1
    assert "no answer" in delivery(ledger, "pagerduty", "k0").error


def test_after_a_day_it_is_tried_hourly_for_ever(ledger: Ledger, endpoint: Endpoint, tmp_path: Path):
    """Old news is not given up, only rarer."""
    configured = settings(tmp_path, PAGERDUTY, at=endpoint)
    tell(ledger, now=NOW - 86_401)
    endpoint.refuse(503, 503)
    hours = [look(ledger, configured, after_s) for after_s in (0, 3599, 3600, 7199, 7200)]
    assert (hours, delivery(ledger, "pagerduty").tries) == ([1, 0, 0, 0, 1], 3)


def test_a_channel_that_is_added_later_gets_no_old_news(ledger: Ledger, endpoint: Endpoint, tmp_path: Path):
    """What every channel of its time had is over; what is still open goes to the new one too."""
    tell(ledger, "old")
    look(ledger, settings(tmp_path))
    tell(ledger, "open")
    look(ledger, settings(tmp_path, PAGERDUTY, at=DEAD))
    look(ledger, settings(tmp_path, web(endpoint)), 10)
    assert [asked.body["title"] for asked in endpoint.taken()] == ["[critical] open burns"]


def test_nobody_is_woken_for_news(ledger: Ledger, endpoint: Endpoint, tmp_path: Path):
    """What is below the pager's severity goes to the others only, and is settled all the same."""
    tell(ledger, severity="info")
    assert look(ledger, settings(tmp_path, PAGERDUTY, web(endpoint), at=endpoint)) == 2
    assert [asked.path for asked in endpoint.taken()] == ["/hook"]
    assert ledger.pages(SERVICE)[0].delivered_at == NOW


def test_what_another_one_sent_meanwhile_is_not_sent_again(ledger: Ledger, endpoint: Endpoint, tmp_path: Path):
    """Between seeing that something is due and being the one to send it, whoever was it before may have done so."""
    _, pager = channels.configured(settings(tmp_path, PAGERDUTY, at=endpoint))
    tell(ledger, "a")

    def may() -> bool:
        ledger.page_tried(ledger.pages(SERVICE)[0], pager.name, now=NOW, delivered=True)
        tell(ledger, "b")
        return True

    assert paging.deliver_over(ledger, pager, now=NOW, chance=longest, may=may) == 1
    assert [asked.body["dedup_key"] for asked in endpoint.taken()] == ["lastgood/flights/b"]
    tell(ledger, "c")
    assert paging.deliver_over(ledger, pager, now=NOW, chance=longest, may=lambda: False) == 0
    assert endpoint.taken() == []


class Broken(channels.Channel):
    """A channel with a fault of its own, which tells a secret."""

    name = "broken"

    def send(self, page: Page) -> None:
        raise RuntimeError(f"cannot connect to https://{KEY}@host")


def test_a_fault_of_a_channel_is_noted_without_its_text(ledger: Ledger, caplog: pytest.LogCaptureFixture):
    """Whatever it raises, its pages are all tried and come again; the fault's text might hold a secret."""
    for key in ("a", "b"):
        tell(ledger, key)
    assert paging.deliver_over(ledger, Broken(), now=NOW, chance=longest) == 0
    assert [(delivery(ledger, "broken", key).tries, delivery(ledger, "broken", key).next_at) for key in ("a", "b")] == [(1, NOW + 2)] * 2
    assert delivery(ledger, "broken", "a").error == "broken: RuntimeError while sending; report it with the page"
    assert KEY not in caplog.text


def test_a_broken_body_is_delivered_all_the_same(ledger: Ledger, endpoint: Endpoint, tmp_path: Path):
    """The summary reaches every channel, whatever stands in the place of details."""
    rubbish: tuple[dict[str, Any], ...] = (
        {"before": "x", "verdicts": "none", "verb": "rollback", "stable": 7},
        {"before": {"stable": ["x"]}, "verb": "rollback", "stable": None, "candidate": {}},
        {"verdicts": [1, None, {"interval": [None, "x"], "n": "many", "estimate": "?"}, {"gate": {}}]},
        {"gate": "errors", "reference": [], "why": None},
    )
    for number, body in enumerate(rubbish):
        tell(ledger, f"k{number}", body=body)
    configured = settings(tmp_path, PAGERDUTY, f"opsgenie://{KEY}", web(endpoint), at=endpoint)
    assert look(ledger, configured) == 16
    assert {page.delivered_at for page in ledger.pages(SERVICE)} == {NOW}
    assert [found["summary"] for found in files(tmp_path)] == [f"k{number} burns" for number in sorted(range(4), key=_file(tmp_path))]


def _file(home: Path) -> Callable[[int], int]:
    order = [found["key"] for found in files(home)]
    return lambda number: order.index(f"k{number}")


@pytest.mark.parametrize("hit", [1, 2])
def test_a_restart_in_the_middle(ledger: Ledger, endpoint: Endpoint, tmp_path: Path, hit: int):
    """Killed between sending and noting: sent once more, in the same file, under the same key; then it is over."""
    configured = settings(tmp_path, PAGERDUTY, at=endpoint)
    tell(ledger)
    ledger.close()
    work: Callable[[Ledger], object] = lambda own: look(own, configured)  # noqa: E731  # handed to a child
    assert killed(configured.ledger_url, f"ledger.after_begin=kill@{hit}", work) == -signal.SIGKILL
    assert (len(files(tmp_path)), endpoint.asked.qsize()) == (1, hit - 1)
    assert look(ledger, configured, 1) == 3 - hit
    assert [asked.body["dedup_key"] for asked in endpoint.taken()] == [DEDUP] * hit
    assert (len(files(tmp_path)), ledger.pages(SERVICE)[0].delivered_at) == (1, NOW + 1)
    assert look(ledger, configured, 2) == 0


def test_no_secret_stands_in_the_ledger_or_the_folder(ledger: Ledger, endpoint: Endpoint, tmp_path: Path):
    """Refused, with an answer that echoes the key, and dead: neither rows nor files hold a key or password."""
    configured = settings(tmp_path, PAGERDUTY, f"jsm://{KEY}", "json://bot:hunter22pw@127.0.0.1:9/T0ken", at=endpoint)
    endpoint.answers = [Answer(status=500, body=f"no such key {KEY}".encode())] * 2
    tell(ledger)
    assert look(ledger, configured) == 1
    ledger.close()
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"no such key" in kept
    for secret in (KEY, "hunter22pw", "T0ken"):
        assert secret.encode() not in kept


@hypothesis.given(tries=st.integers(1, 10_000), luck=st.floats(0, 1), age_s=st.floats(0, 1e9))
def test_pauses_grow_to_five_minutes_and_stay_random(tries: int, luck: float, age_s: float):
    """Full jitter between one second and a limit that doubles, at most five minutes; an hour once it is old."""
    pause_s = paging.backoff(tries, age_s=age_s, chance=lambda: luck)
    if age_s > 86_400:
        assert pause_s == 3600
    else:
        assert 1.0 <= pause_s <= min(300.0, 2.0 ** min(tries, 20))
        assert paging.backoff(tries, age_s=age_s, chance=lambda: 0.0) == 1.0
        assert paging.backoff(tries + 1, age_s=age_s, chance=lambda: luck) >= pause_s


# --- the loop ----------------------------------------------------------------------------------------------


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Settings], paging.PageLoop]]:
    """Starts loops that look every few milliseconds; all have ended when the test has."""
    loops: list[paging.PageLoop] = []

    def begin(configured: Settings, **more: Any) -> paging.PageLoop:
        loops.append(paging.PageLoop(configured, **{"clock": lambda: NOW, "pause_s": 0.01} | more))
        loops[-1].start()
        return loops[-1]

    yield begin
    for loop in loops:
        loop.end(wait_s=WAIT_S)
    assert _threads() == []


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pages/")]


def test_the_loop_delivers_and_ends(ledger: Ledger, endpoint: Endpoint, tmp_path: Path, start: Any):
    """One thread for each channel, which the end of the loop ends at once, though it had just begun to wait."""
    loop = start(settings(tmp_path, PAGERDUTY, web(endpoint), at=endpoint))
    assert len(_threads()) == 3
    tell(ledger)
    assert {endpoint.take().path, endpoint.take().path} == {"/hook", "/v2/enqueue"}
    loop.end(wait_s=WAIT_S)
    assert _threads() == []
    idle = start(settings(tmp_path), pause_s=WAIT_S * 10)
    idle.end(wait_s=WAIT_S)
    assert _threads() == []


def test_a_loop_that_never_began_ends(tmp_path: Path):
    """Ending it twice, or without a start, is no error."""
    loop = paging.PageLoop(settings(tmp_path, PAGERDUTY))
    loop.end(wait_s=1.0)
    loop.end()


def test_a_channel_that_hangs_delays_no_other(ledger: Ledger, endpoint: Endpoint, tmp_path: Path, start: Any):
    """While the pager holds one page, file and chat get that one and the next; the pager gets both in the end."""
    with serving() as chat:
        endpoint.hold = True
        start(settings(tmp_path, PAGERDUTY, web(chat), at=endpoint, timeout_s=WAIT_S))
        tell(ledger, "first")
        assert endpoint.take().body["dedup_key"] == "lastgood/flights/first"
        tell(ledger, "second")
        assert [chat.take().body["title"] for _ in range(2)] == ["[critical] first burns", "[critical] second burns"]
        assert endpoint.taken() == []
        endpoint.release()
        assert endpoint.take().body["dedup_key"] == "lastgood/flights/second"


def test_the_loop_waits_for_a_ledger(endpoint: Endpoint, tmp_path: Path, start: Any):
    """Started before there is a ledger it says so, once, and delivers as soon as there is one."""
    told: list[str] = []
    seen = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())
            seen.set()

    listener = Listener()
    paging.log.addHandler(listener)
    try:
        start(settings(tmp_path, PAGERDUTY, at=endpoint))
        assert seen.wait(WAIT_S)
        with connect(settings(tmp_path).ledger_url) as ledger:
            ledger.migrate()
            tell(ledger)
            assert endpoint.take().body["dedup_key"] == DEDUP
    finally:
        paging.log.removeHandler(listener)
    assert len([line for line in told if "there is no ledger at" in line]) <= 2
    assert any("there is no ledger at" in line for line in told)


def test_an_unexpected_fault_does_not_end_the_loop(ledger: Ledger, endpoint: Endpoint, tmp_path: Path, start: Any):
    """A clock that fails once on every channel, as anything may, costs that look only."""
    failed: set[str] = set()

    def clock() -> float:
        thread = threading.current_thread().name
        if thread not in failed:
            failed.add(thread)
            raise RuntimeError("the clock fell down")
        return NOW

    tell(ledger)
    start(settings(tmp_path, PAGERDUTY, at=endpoint), clock=clock)
    assert endpoint.take().body["dedup_key"] == DEDUP
    _until(lambda: ledger.pages(SERVICE)[0].delivered_at == NOW)
    assert len(failed) == len(_threads()) == 2


def test_of_two_loops_one_serves_a_channel(ledger: Ledger, endpoint: Endpoint, tmp_path: Path, start: Any):
    """Controllers on two hosts send each page once; when one ends, the other goes on at once."""
    configured = settings(tmp_path, PAGERDUTY, at=endpoint)
    loops = [start(configured), start(configured)]
    for number in range(10):
        tell(ledger, f"k{number}")
    assert sorted(endpoint.take().body["dedup_key"][-2:] for _ in range(10)) == [f"k{number}" for number in range(10)]
    _until(lambda: all(page.delivered_at == NOW for page in ledger.pages(SERVICE)))
    loops[0].end(wait_s=WAIT_S)
    assert endpoint.taken() == []
    tell(ledger, "later")
    assert endpoint.take().body["dedup_key"] == "lastgood/flights/later"


def test_an_ended_loop_leaves_its_channels_to_the_next(ledger: Ledger, endpoint: Endpoint, tmp_path: Path, start: Any):
    """Its leases are free at once, not only when they run out; the clock stands still here."""
    configured = settings(tmp_path, PAGERDUTY, at=endpoint)
    loop = start(configured)
    tell(ledger, "first")
    endpoint.take()
    loop.end(wait_s=WAIT_S)
    name = next(way.name for way in channels.configured(configured) if way.name != channels.FILE)
    assert ledger.lease(f"pages/{name}", holder="the next", now=NOW, ttl_s=60.0)


def test_a_loop_leaves_a_channel_that_is_served(ledger: Ledger, endpoint: Endpoint, tmp_path: Path, start: Any):
    """While somebody else has the lease it sends nothing; when that has run out it does."""
    now = [NOW]
    configured = settings(tmp_path, PAGERDUTY, at=endpoint)
    name = next(way.name for way in channels.configured(configured) if way.name != channels.FILE)
    assert ledger.lease(f"pages/{name}", holder="dead", now=NOW, ttl_s=paging.LEASE_S)
    start(configured, clock=lambda: now[0])
    tell(ledger)
    _until(lambda: len(files(tmp_path)) == 1)
    assert endpoint.taken() == []
    now[0] = NOW + paging.LEASE_S
    assert endpoint.take().body["dedup_key"] == DEDUP


def test_a_slow_channel_keeps_its_lease_while_it_is_waited_for(ledger: Ledger, endpoint: Endpoint, tmp_path: Path, start: Any):
    """Whoever waits the longest time for a channel's answer is not taken for dead meanwhile, and nobody else sends the page too."""
    (limit,) = (one.le for one in PagingSettings.model_fields["timeout_s"].metadata if hasattr(one, "le"))
    configured = settings(tmp_path, PAGERDUTY, at=endpoint)
    configured = configured.model_copy(update={"paging": configured.paging.model_copy(update={"timeout_s": limit})})
    name = next(way.name for way in channels.configured(configured) if way.name != channels.FILE)
    start(configured, clock=lambda: NOW)
    tell(ledger)
    assert endpoint.take().body["dedup_key"] == DEDUP
    assert not ledger.lease(f"pages/{name}", holder="another", now=NOW + limit + 1, ttl_s=60.0)


def _until(true: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(round(WAIT_S / 0.01)):
        if true():
            return
        waiting.wait(0.01)
    pytest.fail("it did not come true in time")


def test_deliver_raises_what_the_ledger_raises(tmp_path: Path):
    """Without a ledger there is nothing to deliver, and whoever asked learns it."""
    with connect(settings(tmp_path).ledger_url) as nothing, pytest.raises(errors.Unavailable, match="there is no ledger"):
        look(nothing, settings(tmp_path))
