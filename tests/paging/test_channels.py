"""What each channel sends, and what it makes of each answer, against a real server."""

from __future__ import annotations

import base64
import importlib
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lastgood import settings as settings_
from lastgood.paging import channels
from lastgood.paging.channels import Channel, Undelivered
from tests import timing
from tests.paging.endpoint import Answer, Endpoint, serving
from tests.paging.pager import BAD, DEAD, KEY, NOW, STABLE, VERDICT, files, page, settings

PASSWORD, TOKEN = "hunter22-secret", "T0kenInThePath"
DEDUP = "lastgood/flights/rollout-4"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A server that takes everything until it is told otherwise."""
    with serving() as found:
        yield found


def channel(url: str, *, at: Endpoint | str = DEAD, **more: Any) -> Channel:
    """The channel that *url* configures; it waits two seconds at most."""
    _, found = channels.configured(settings(Path("/nowhere"), url, at=at, **{"timeout_s": 2.0} | more))
    return found


def web(endpoint: Endpoint, *, password: str = PASSWORD, token: str = TOKEN) -> str:
    """The address of *endpoint* as an Apprise webhook with two secrets in it."""
    return f"json://someone:{password}@127.0.0.1:{endpoint.port}/hooks/{token}"


def refused(way: Channel, **change: Any) -> Undelivered:
    """What sending a page raises."""
    with pytest.raises(Undelivered) as caught:
        way.send(page(**change))
    return caught.value


def test_pagerduty_gets_the_figures_and_a_stable_key(endpoint: Endpoint):
    """A trigger event of the Events API v2: routing key as configured, dedup key, severity, time, and details for machines."""
    channel(f"pagerduty://{KEY}", at=endpoint).send(page())
    asked = endpoint.take()
    assert (asked.method, asked.path, asked.headers["content-type"]) == ("POST", "/v2/enqueue", "application/json")
    payload = asked.body.pop("payload")
    assert asked.body == {"routing_key": KEY, "event_action": "trigger", "dedup_key": DEDUP, "client": "lastgood"}
    details = payload.pop("custom_details")
    assert payload == {"summary": page().summary, "source": "flights", "severity": "critical", "timestamp": "2023-11-14T22:13:20+00:00"}
    assert details["gates"]["errors"] == {name: value for name, value in VERDICT.items() if name != "gate"}
    assert (details["stable"], details["before"]["candidate"], details["revision"]) == (STABLE, BAD, 7)
    assert "lastgood status flights" in details["next"]


def test_pagerduty_closes_what_it_opened(endpoint: Endpoint):
    """A page that resolves, of whatever severity and revision, is a resolve event with the same key and nothing else."""
    channel(f"pagerduty://{KEY}", at=endpoint).send(page(revision=9, severity="info", resolves=True))
    assert endpoint.take().body == {"routing_key": KEY, "event_action": "resolve", "dedup_key": DEDUP}


@pytest.mark.parametrize(("scheme", "path"), [("opsgenie", "/v2/alerts"), ("jsm", "/jsm/alerts")])
def test_opsgenie_and_its_successor_open_and_close_by_alias(endpoint: Endpoint, scheme: str, path: str):
    """An alert under the key as alias, and its closing by that alias, at the address that is configured for each."""
    way = channel(f"{scheme}://{KEY}", at=endpoint)
    way.send(page())
    opened = endpoint.take()
    assert (opened.path, opened.headers["authorization"]) == (path, f"GenieKey {KEY}")
    assert {name: opened.body[name] for name in ("alias", "message", "priority", "entity", "source")} == {
        "alias": DEDUP,
        "message": page().summary,
        "priority": "P1",
        "entity": "flights",
        "source": "lastgood",
    }
    assert json.loads(opened.body["details"]["gates"])["errors"]["estimate"] == 0.125
    way.send(page(resolves=True))
    closed = endpoint.take()
    assert (closed.path, closed.headers["authorization"]) == (
        f"{path}/lastgood%2Fflights%2Frollout-4/close?identifierType=alias",
        f"GenieKey {KEY}",
    )
    assert closed.body["note"].startswith("[resolved]")


@pytest.mark.parametrize(("severity", "priority"), [("critical", "P1"), ("warning", "P3"), ("info", "P5")])
def test_opsgenie_has_priorities(endpoint: Endpoint, severity: str, priority: str):
    """Each severity is a priority of its own."""
    channel(f"opsgenie://{KEY}", at=endpoint).send(page(severity=severity))
    assert endpoint.take().body["priority"] == priority


def test_what_is_long_is_cut_to_what_pagers_take(endpoint: Endpoint):
    """Whole texts would be refused for good: every field stays within the documented limit, and short details stay whole."""
    gates = [{**VERDICT, "gate": f"gate {number}", "why": "w" * 2000} for number in range(30)]
    long = {"summary": "s" * 5000, "key": "k" * 600, "body": {**page().body, "reason": "r" * 9000, "verdicts": gates}}
    channel(f"opsgenie://{KEY}", at=endpoint).send(page(**long))
    alert = endpoint.take().body
    assert {name: len(alert[name]) for name in ("message", "description")} == {"message": 130, "description": 15_000}
    assert len(alert["alias"]) <= 255
    assert sum(len(name) + len(value) for name, value in alert["details"].items()) <= 8000
    assert alert["details"]["stable"] == STABLE
    assert len(alert["details"]["gates"]) > 3000
    channel(f"pagerduty://{KEY}", at=endpoint).send(page(**long))
    event = endpoint.take().body
    assert (len(event["payload"]["summary"]), len(event["dedup_key"])) == (1024, len(alert["alias"]))
    assert event["dedup_key"] == alert["alias"]


def test_pagers_are_for_what_is_grave():
    """Below the configured severity nobody is woken, but what closes an alert always goes; chat gets all."""
    pager, chat = channel(f"pagerduty://{KEY}"), channel("json://127.0.0.1/")
    wanted = {
        (severity, resolves): pager.wants(page(severity=severity, resolves=resolves))
        for severity in ("critical", "warning", "info")
        for resolves in (False, True)
    }
    assert [which for which, wants in wanted.items() if not wants] == [("info", False)]
    assert not channel(f"jsm://{KEY}", pager_severity="critical").wants(page(severity="warning"))
    assert chat.wants(page(severity="info"))


@pytest.mark.parametrize(("status", "down"), [(429, True), (500, True), (503, True), (400, False), (403, False), (302, False)])
def test_an_answer_that_is_no_success_is_a_failure(endpoint: Endpoint, status: int, down: bool):
    """Too many requests and faults of the server mean that the channel is down; a refusal is about this page. Nothing is redirected."""
    endpoint.answers = [Answer(status=status, body=b"because", headers={"location": f"{endpoint.url}/elsewhere"})]
    error = refused(channel(f"pagerduty://{KEY}", at=endpoint))
    assert (error.down, f"HTTP {status} because" in str(error), error.retryable) == (down, True, True)
    assert [asked.path for asked in endpoint.taken()] == ["/v2/enqueue"]


@pytest.mark.parametrize("status", [302, 307, 400, 429, 500])
def test_a_webhook_that_does_not_take_it_is_a_failure(endpoint: Endpoint, status: int):
    """Apprise's channels are believed only if they say that it was taken; a redirect was not, whatever answers behind it."""
    endpoint.answers = [Answer(status=status, headers={"location": "/elsewhere"})]
    error = refused(channel(web(endpoint)))
    assert error.down
    assert f"error={status}" in str(error)
    assert [asked.path for asked in endpoint.taken()] == ["/hooks/T0kenInThePath"]


@pytest.mark.parametrize("url", [f"pagerduty://{KEY}", f"jsm://{KEY}", "json://127.0.0.1:9/"])
def test_a_dead_endpoint_is_down(url: str):
    """Nobody listens: the channel is down, and says so."""
    error = refused(channel(url))
    assert error.down
    assert str(error).startswith(url.partition(":")[0] + "-")


@pytest.mark.parametrize("kind", ["pagerduty", "json"])
def test_a_slow_endpoint_is_given_up(endpoint: Endpoint, kind: str):
    """An answer that does not come in time counts as none; the time is the one that is configured, not Apprise's four seconds."""
    importlib.import_module("apprise")
    endpoint.hold = True
    url = web(endpoint) if kind == "json" else f"pagerduty://{KEY}"
    assert timing.soon(lambda: refused(channel(url, at=endpoint, timeout_s=0.2)), within_s=3.5).down


def test_the_status_counts_not_the_body(endpoint: Endpoint):
    """An answer whose body never ends was a success all the same, or a failure with its status."""
    endpoint.answers = [Answer(status=202, unfinished=True), Answer(status=503, body=b"busy", unfinished=True)]
    way = channel(f"pagerduty://{KEY}", at=endpoint, timeout_s=0.3)
    way.send(page())
    assert "HTTP 503" in str(refused(way))


def test_a_webhook_gets_the_whole_text(endpoint: Endpoint):
    """Title, text and kind as Apprise sends them; a page that resolves is a success."""
    way = channel(web(endpoint))
    way.send(page())
    asked = endpoint.take()
    assert (asked.path, asked.body["type"], asked.body["title"]) == ("/hooks/T0kenInThePath", "failure", f"[critical] {page().summary}")
    assert asked.headers["authorization"] == "Basic " + base64.b64encode(f"someone:{PASSWORD}".encode()).decode()
    assert "gate errors: error_rate 0.125 against 0.01" in asked.body["message"]
    way.send(page(severity="warning"))
    way.send(page(resolves=True))
    assert [asked.body["type"] for asked in endpoint.taken()] == ["warning", "success"]


@pytest.mark.parametrize("url", ["nothing://somewhere", "just words", "", "json://"])
def test_an_address_that_is_none_fails_when_it_is_used(url: str):
    """A misspelt channel does not keep the controller from starting; its pages wait until it is corrected."""
    found = settings_.PagingSettings(urls=(url,))
    way = channels._channel(url, found)
    error = refused(way)
    assert "Apprise does not support this address; correct it in paging.urls" in str(error)
    assert error.down


def test_without_apprise_the_others_work(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch):
    """What is not installed is named with the remedy; PagerDuty needs none of it."""
    monkeypatch.setitem(sys.modules, "apprise", None)
    assert "install lastgood[paging]" in str(refused(channel(web(endpoint))))
    channel(f"pagerduty://{KEY}", at=endpoint).send(page())
    assert endpoint.take().body["routing_key"] == KEY


def test_names_are_stable_and_tell_nothing():
    """The name under which the ledger remembers a channel is the same at every start, differs by address, and holds no secret."""
    urls = [f"pagerduty://{KEY}", "pagerduty://another", "json://someone:hunter22@host/", "words"]
    names = [channel(url).name for url in urls]
    assert names == [channel(url).name for url in urls]
    assert len(set(names)) == 4
    assert [name.partition("-")[0] for name in names] == ["pagerduty", "pagerduty", "json", "unknown"]
    assert not [name for name in names if KEY in name or "hunter22" in name or "host" in name]
    assert [way.name for way in channels.configured(settings(Path("/nowhere"), urls[0], urls[0]))] == ["file", names[0]]


def test_keys_keep_their_capitals_and_apprises_form_is_understood(endpoint: Endpoint):
    """`pagerduty://KEY@TOKEN/…`, as Apprise writes it, and percent-encoded keys lead to the same key."""
    for url in (f"pagerduty://{KEY}@token/source", f"pagerduty://{KEY}/?region=eu", f"pagerduty://%52{KEY[1:]}"):
        channel(url, at=endpoint).send(page())
        assert endpoint.take().body["routing_key"] == KEY


@pytest.mark.parametrize("body", [f"key {KEY} is unknown", f"Bad KEY {KEY.lower()}", "a\0b\r\n\x1b[31mred", "x" * 9000])
def test_what_a_server_says_is_safe_to_keep(endpoint: Endpoint, body: str):
    """No secret that it echoes, no character that the ledger or a terminal chokes on, no novel."""
    endpoint.answers = [Answer(status=500, body=body.encode())]
    said = str(refused(channel(f"pagerduty://{KEY}", at=endpoint)))
    assert KEY.lower() not in said.lower()
    assert said.isprintable()
    assert len(said) <= 500


def test_no_secret_reaches_a_log_or_an_error(endpoint: Endpoint, caplog: pytest.LogCaptureFixture):
    """Neither delivered nor refused nor dead, at the most talkative level, is a password, token or key told anywhere."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="urllib3")
    said = []
    for way in (channel(web(endpoint)), channel(f"pagerduty://{KEY}", at=endpoint), channel(f"opsgenie://{KEY}", at=endpoint)):
        way.send(page())
        endpoint.refuse(500)
        said.append(str(refused(way)))
    assert len(endpoint.taken()) == 6
    endpoint.close()
    said.append(str(refused(channel(web(endpoint)))))
    told = caplog.text + "".join(said)
    for secret in (PASSWORD, "T0kenInThePath", KEY):
        assert secret.lower() not in told.lower()


def test_logs_of_others_go_on(endpoint: Endpoint, caplog: pytest.LogCaptureFixture):
    """Only what belongs to a page is kept out: the same library's other requests are logged as before."""
    requests = pytest.importorskip("requests")
    caplog.set_level(logging.DEBUG)
    channel(web(endpoint)).send(page())
    requests.get(f"{endpoint.url}/metrics", timeout=5)
    assert "GET /metrics" in caplog.text
    assert "POST /hooks" not in caplog.text


def test_redaction_takes_every_piece():
    """User, password, token and query, plain or encoded, in whatever case; words of the scheme stay."""
    url = "slack://bot:pass%40word@T1JJ3T3L2/A1BRTD4JD/tokenXYZ?thread=deadbeef"
    text = "slack said: bot pass@word pass%40word t1jj3t3l2 A1BRTD4JD tokenxyz DEADBEEF"
    assert channels.redact(text, url) == "slack said: bot … … … … … …"


def test_a_file_is_always_left(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The page whole and as text, in one file however often it is sent, and a line in the log."""
    way, *none = channels.configured(settings(tmp_path))
    assert not none
    for _ in range(3):
        way.send(page())
    (found,) = files(tmp_path)
    assert {name: found[name] for name in ("schema", "service", "revision", "key", "severity", "resolves", "at", "summary")} == {
        "schema": "lastgood.page/v1",
        "service": "flights",
        "revision": 7,
        "key": "rollout-4",
        "severity": "critical",
        "resolves": False,
        "at": NOW,
        "summary": page().summary,
    }
    assert found["body"] == page().body
    assert found["text"].startswith("[critical] flights: candidate")
    assert f"PAGE {page().summary}" in caplog.text


def test_a_folder_that_cannot_be_written_is_a_channel_that_is_down(tmp_path: Path):
    """A file in the place of the folder, as a full disk, is told with the remedy and tried again."""
    (tmp_path / "pages").write_text("in the way")
    way, *_ = channels.configured(settings(tmp_path))
    error = refused(way)
    assert error.down
    assert "check the disk" in str(error)
