"""Channels to a person, one small class each: a file, PagerDuty, Opsgenie and its successor, and everything that Apprise supports.

PagerDuty and Opsgenie are called directly: an alert needs a key that stays the same on every repetition and when it is closed, and
a configurable address; Apprise's plugins fix the address, and close Opsgenie alerts by what they remember on one machine. Any
channel may get a page twice; the key makes that harmless.

What does not belong here: which pages are due, and retries (`delivery`).
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import http.client
import json
import logging
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from lastgood import errors
from lastgood.ledger import Page
from lastgood.paging import files as pages
from lastgood.paging import message as page_message
from lastgood.settings import PagingSettings, Settings

FILE = "file"

_TALKATIVE = ("apprise", "urllib3.connectionpool")
"""Loggers that write whole addresses at level DEBUG, including the tokens in them."""

_GRAVITY = ("info", "warning", "critical")


class Undelivered(errors.Unavailable):
    """A channel did not accept a page. `down`: it would not accept another one at the moment either."""

    def __init__(self, message: str, *, down: bool) -> None:
        super().__init__(message)
        self.down = down


class Channel(ABC):
    """One way to reach a person. `name` is the same at every start and contains no secret."""

    name: str

    def wants(self, page: Page) -> bool:
        """Whether this channel takes such pages."""
        return True

    @abstractmethod
    def send(self, page: Page) -> None:
        """Deliver a page; it may have been delivered before. Raises Undelivered, whose text contains no secret."""


def configured(settings: Settings) -> list[Channel]:
    """The file, which is always available, then one channel per configured URL; an invalid URL fails when it is used."""
    urls = dict.fromkeys(url.get_secret_value() for url in settings.paging.urls)
    return [File(settings), *(_channel(url, settings.paging) for url in urls)]


def _channel(url: str, limits: PagingSettings) -> Channel:
    scheme = urllib.parse.urlsplit(url).scheme.lower() if "://" in url else ""
    kinds: Mapping[str, Callable[[str, str, PagingSettings], Channel]] = {"pagerduty": PagerDuty, "opsgenie": Opsgenie, "jsm": Opsgenie}
    return kinds.get(scheme, Apprise)(url, scheme, limits)


class File(Channel):
    """A file in `pages/` and a line in the log."""

    name = FILE

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.pages

    def send(self, page: Page) -> None:
        told = {name: getattr(page, name) for name in ("summary", "at", "key", "severity", "resolves")}
        whole = {**told, "body": dict(page.body), "text": page_message.text(page)}
        try:
            pages.leave(self._folder, service=page.service, revision=page.revision, name=page.key, page=whole)
        except OSError as error:
            raise Undelivered(f"cannot write a page to {self._folder}: {error}; check the disk", down=True) from error
        pages.log_page(page.summary, severity=page.severity)


class _Remote(Channel):
    """A channel configured by a URL with secrets in it."""

    def __init__(self, url: str, scheme: str, limits: PagingSettings) -> None:
        self.name = f"{scheme or 'unknown'}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
        self._url = url
        self._limits = limits

    def _failed(self, why: str, *, down: bool = True) -> Undelivered:
        # A server's text may contain characters that the ledger refuses.
        told = "".join(letter if letter.isprintable() else " " for letter in redact(why, self._url))
        return Undelivered(f"{self.name}: {told}"[:500], down=down)

    def _post(self, address: str, body: Mapping[str, Any], **headers: str) -> None:
        """Send JSON and expect a 2xx. A refusal of this one page (4xx) does not mean that the channel is down."""
        sent = {"Content-Type": "application/json", "User-Agent": "lastgood", **headers}
        request = urllib.request.Request(address, data=json.dumps(body).encode(), headers=sent, method="POST")  # noqa: S310  # the settings take http(s) only
        try:
            # The status shows that it was accepted; a body that never ends must not make it look refused.
            _OPENER.open(request, timeout=self._limits.timeout_s).close()
        except urllib.error.HTTPError as error:
            raise self._failed(f"HTTP {error.code} {_body(error)}", down=error.code == 429 or error.code >= 500) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise self._failed(f"no answer: {error}; retrying") from None


def _body(error: urllib.error.HTTPError) -> str:
    with error, contextlib.suppress(OSError, http.client.HTTPException):
        return error.read(300).decode(errors="replace")
    return ""


class _Pager(_Remote):
    """A channel that wakes people."""

    def __init__(self, url: str, scheme: str, limits: PagingSettings) -> None:
        super().__init__(url, scheme, limits)
        self._scheme = scheme
        # The key keeps its capitals only in the unparsed text; Apprise's form KEY@TOKEN is accepted too.
        self._key = urllib.parse.unquote(re.split(r"[@/?#]", url.partition("://")[2])[0])

    def wants(self, page: Page) -> bool:
        return page.resolves or _GRAVITY.index(page.severity) >= _GRAVITY.index(self._limits.pager_severity)


class PagerDuty(_Pager):
    """PagerDuty's Events API v2: `pagerduty://ROUTING_KEY`."""

    def send(self, page: Page) -> None:
        event: dict[str, Any] = {
            "routing_key": self._key,
            "event_action": "resolve" if page.resolves else "trigger",
            "dedup_key": page_message.dedup_key(page),
        }
        if not page.resolves:
            event["client"] = "lastgood"
            event["payload"] = {
                "summary": page.summary[:1024],
                "source": page.service,
                "severity": page.severity,
                "timestamp": datetime.datetime.fromtimestamp(page.at, datetime.UTC).isoformat(),
                "custom_details": page_message.details(page),
            }
        self._post(self._limits.pagerduty_url, event)


class Opsgenie(_Pager):
    """Opsgenie's Alert API, which Jira Service Management has taken over: `opsgenie://API_KEY`, `jsm://API_KEY`."""

    def send(self, page: Page) -> None:
        base = self._limits.jsm_url if self._scheme == "jsm" else self._limits.opsgenie_url
        alias, authorization = page_message.dedup_key(page), f"GenieKey {self._key}"
        if page.resolves:
            address = f"{base.rstrip('/')}/{urllib.parse.quote(alias, safe='')}/close?identifierType=alias"
            self._post(address, {"source": "lastgood", "note": page_message.text(page)[:25_000]}, Authorization=authorization)
            return
        alert = {
            "message": page.summary[:130],
            "alias": alias,
            "description": page_message.text(page)[:15_000],
            "priority": {"critical": "P1", "warning": "P3", "info": "P5"}[page.severity],
            "source": "lastgood",
            "entity": page.service,
            "details": _within(8000, {key: v if isinstance(v, str) else json.dumps(v) for key, v in page_message.details(page).items()}),
        }
        self._post(base, alert, Authorization=authorization)


def _within(limit: int, details: Mapping[str, str]) -> dict[str, str]:
    """*details* within *limit* characters, or Opsgenie refuses the alert: short ones whole, long ones cut to equal shares."""
    cut: dict[str, str] = {}
    for key in sorted(details, key=lambda name: len(name) + len(details[name])):
        share = limit // (len(details) - len(cut))
        cut[key] = details[key][: max(0, share - len(key))]
        limit -= len(key) + len(cut[key])
    return cut


class Apprise(_Remote):
    """Everything that Apprise supports: chat, mail, webhooks. Needs `lastgood[paging]`."""

    def send(self, page: Page) -> None:
        try:
            import apprise
        except ImportError:
            raise self._failed("Apprise is not installed; install lastgood[paging]") from None
        kinds = {"critical": apprise.NotifyType.FAILURE, "warning": apprise.NotifyType.WARNING, "info": apprise.NotifyType.INFO}
        kind = apprise.NotifyType.SUCCESS if page.resolves else kinds[page.severity]
        with _said() as said:
            target = apprise.Apprise.instantiate(self._url)
            if target is None:
                raise self._failed("Apprise does not support this address; correct it in paging.urls" + _joined(said))
            target.socket_connect_timeout = target.socket_read_timeout = self._limits.timeout_s
            target.redirects = False  # for the reason of _NoRedirects
            try:
                taken = target.notify(title=page_message.title(page), body=page_message.text(page), notify_type=kind)
            except Exception as error:  # noqa: BLE001  # the border to a hundred plugins; whatever one raises, the page is retried
                raise self._failed(f"{type(error).__name__}: {error}") from None
        if not taken:
            raise self._failed("not accepted" + _joined(said))


class _said(logging.Filter):  # noqa: N801  # used as a context manager
    """Collects Apprise's complaints in this thread, and keeps all its messages out of every log: they may contain secrets."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()
        self._lines: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if record.thread != self._thread:
            return True
        if record.name == "apprise" and record.levelno >= logging.WARNING:
            self._lines.append(record.getMessage())
        return False

    def __enter__(self) -> list[str]:
        for name in _TALKATIVE:
            logging.getLogger(name).addFilter(self)
        return self._lines

    def __exit__(self, *error: object) -> None:
        for name in _TALKATIVE:
            logging.getLogger(name).removeFilter(self)


def _joined(said: list[str]) -> str:
    return "".join(f"; {line}" for line in said)


def redact(text: str, url: str) -> str:
    """*text* without any piece of *url* that could be a secret: everything after the scheme, plain or decoded."""
    pieces = {piece for piece in re.split(r"[/@:?&=#+,;\s]+", url.partition("://")[2] or url) if len(piece) > 3}
    pieces |= {urllib.parse.unquote(piece) for piece in pieces}
    for piece in sorted(pieces, key=len, reverse=True):
        text = re.sub(re.escape(piece), "…", text, flags=re.IGNORECASE)
    return text


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST becomes a GET, whose 200 would be mistaken for a delivered page."""

    def redirect_request(self, *args: object, **more: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)
