"""Pages and settings for the tests of paging."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lastgood import settings as settings_
from lastgood.ledger import Ledger, Page
from lastgood.settings import Settings
from tests.paging.endpoint import Endpoint

SERVICE = "flights"
NOW = 1_700_000_000.0
KEY = "R0uTingKeyWithCAPS0123456789ABCD"
DEAD = "http://127.0.0.1:9"
"""The port `discard`, on which nobody listens."""
STABLE, BAD = "sha256:" + "a1" * 32, "sha256:" + "b2" * 32
VERDICT = {
    "gate": "errors",
    "metric": "error_rate",
    "kind": "guardrail",
    "outcome": "fail",
    "estimate": 0.125,
    "reference": 0.01,
    "interval": [0.08, 0.17],
    "n": 4000,
    "why": "worse by 11.5 points",
}
BODY = {
    "verb": "rollback",
    "actor": "controller",
    "reason": "errors",
    "stable": STABLE,
    "candidate": None,
    "before": {"stable": STABLE, "candidate": BAD},
    "verdicts": [VERDICT],
}


def page(**change: Any) -> Page:
    """The page of a candidate that a gate has rejected."""
    told: dict[str, Any] = {
        "service": SERVICE,
        "revision": 7,
        "key": "rollout-4",
        "severity": "critical",
        "resolves": False,
        "at": NOW,
        "summary": "flights: candidate b2b2b2b2b2b2 was taken out",
        "body": BODY,
        "delivered_at": None,
        "deliveries": {},
    }
    return Page(**told | change)


def settings(home: Path, *urls: str, at: Endpoint | str = DEAD, **more: Any) -> Settings:
    """Settings with these channels; PagerDuty, Opsgenie and JSM are played by *at*."""
    base = at if isinstance(at, str) else at.url
    group = {"urls": urls, "pagerduty_url": f"{base}/v2/enqueue", "opsgenie_url": f"{base}/v2/alerts", "jsm_url": f"{base}/jsm/alerts"}
    return Settings(project=home, home=home, paging=settings_.PagingSettings(**group | more))


def tell(ledger: Ledger, key: str = "rollout-4", *, revision: int = 0, now: float = NOW, service: str = SERVICE, **change: Any) -> bool:
    """Leave a page in *ledger*."""
    told: dict[str, Any] = {"severity": "critical", "summary": f"{key} burns", "body": BODY} | change
    return ledger.page(service, revision=revision, key=key, now=now, **told)


def files(home: Path) -> list[dict[str, Any]]:
    """The files that were left."""
    return [json.loads(file.read_text("utf-8")) for file in sorted((home / "pages").glob("[!.]*.json"))]
