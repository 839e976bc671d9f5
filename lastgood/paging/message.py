"""The text of a page for the person on call: what happened, which bundles, the figures, what was done, what to type.

What does not belong here: sending it (`channels`), when (`delivery`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from lastgood.bundle.manifest import short
from lastgood.ledger import Page
from lastgood.system import text as texts

MAX_KEY = 255
"""PagerDuty's limit for a deduplication key, in characters; Opsgenie's is 512."""
OVER = "-over"
"""Suffix of the key of a page that closes the page without it: a revision has one page per key."""


def dedup_key(page: Page) -> str:
    """The name by which pagers group the pages about one problem: `lastgood/SERVICE/KEY`, the same on every repetition and at its end."""
    key = f"lastgood/{page.service}/{page.key.removesuffix(OVER) if page.resolves else page.key}"
    return key if len(key) <= MAX_KEY else f"{key[:190]}/{hashlib.sha256(key.encode()).hexdigest()[:32]}"


def title(page: Page) -> str:
    """One line: the severity (or that it is over), and what happened."""
    return f"[{'resolved' if page.resolves else page.severity}] {page.summary}"


def text(page: Page) -> str:
    """The page in plain text, several short lines."""
    when = texts.moment(page.at)
    done = "".join(f", {name} {page.body[key]}" for name, key in (("done:", "verb"), ("by", "actor")) if page.body.get(key))
    lines = [title(page), f"when: {when}, revision {page.revision} of {page.service}{done}"]
    lines += [f"bundles: {bundles}" for bundles in (_bundles(page.body),) if bundles]
    lines += [f"gate {line}" for line in map(_gate, verdicts(page)) if line]
    lines += [str(page.body["damaged"])] if page.body.get("damaged") else []
    return "\n".join([*lines, *(f"next: {line}" for line in commands(page))])


def verdicts(page: Page) -> list[Mapping[str, Any]]:
    """The gates' results: the verdicts with the page, or the body itself if it is a verdict."""
    given = page.body.get("verdicts")
    found = given if isinstance(given, list) else [page.body] if page.body.get("gate") else []
    return [verdict for verdict in found if isinstance(verdict, Mapping)]


def details(page: Page) -> dict[str, Any]:
    """The same for machines: bundles, each gate's figures, commands."""
    gates = {
        str(verdict.get("gate")): {name: verdict[name] for name in _FIGURES if verdict.get(name) is not None} for verdict in verdicts(page)
    }
    told = {name: page.body[name] for name in ("verb", "actor", "reason", "stable", "candidate", "before") if page.body.get(name)}
    return {"service": page.service, "revision": page.revision, **told, **({"gates": gates} if gates else {}), "next": commands(page)}


_FIGURES = (
    "metric",
    "kind",
    "outcome",
    "cause",
    "estimate",
    "reference",
    "interval",
    "n",
    "n_beside",
    "user_errors",
    "copies",
    "streak",
    "persistence",
    "why",
)


def commands(page: Page) -> list[str]:
    """The next commands, the likeliest first; each can be typed as it stands, apart from the words in capitals."""
    return [*_likely(page), f"lastgood status {page.service}"]


def _likely(page: Page) -> Iterator[str]:
    service, kind = page.service, page.key.partition("-")[0]
    if page.resolves:
        return
    if kind == "approval":
        yield f"lastgood approve {service} --reason WHY"
        yield f"lastgood rollback {service} stable --reason WHY"
    elif kind in ("hold", "breaker"):
        yield f"lastgood history {service}"
        yield f"lastgood release-hold {service} --reason WHY"
    elif kind == "stranded":
        yield f"lastgood bundle list {service}"
        yield f"lastgood promote {service} BUNDLE"
    elif kind in ("clock", "clocks", "nobody"):
        yield "lastgood doctor"
    elif kind in ("cold", "not"):
        yield f"lastgood bundle list {service}"
    elif kind == "liveness":
        yield f"lastgood liveness {service}"
        yield f"lastgood promote {service} BUNDLE"
    elif left := _left(page):
        number = page.key.partition("-")[2]
        yield f"lastgood report {service}{f' --rollout {number}' if kind == 'rollout' and number.isdigit() else ''}"
        yield f"lastgood promote {service} {_short(left)} --override-quarantine --reason WHY"


def _left(page: Page) -> str | None:
    """The bundle that a rollback took out, which a person may want to release again if the gate was wrong."""
    before = _before(page.body)
    if page.body.get("verb") != "rollback":
        return None
    if before.get("stable") != page.body.get("stable"):
        return before.get("stable")
    return before.get("candidate")


def _before(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The aliases before; none if the body is not that of a revision's page, because a page must be readable in any case."""
    before = body.get("before")
    return before if isinstance(before, Mapping) else {}


def _bundles(body: Mapping[str, Any]) -> str:
    before = _before(body)
    told = []
    for alias in ("stable", "candidate"):
        if alias in body:
            was = f" (was {_short(before.get(alias))})" if before.get(alias) != body[alias] else ""
            told.append(f"{alias} {_short(body[alias])}{was}")
    return ", ".join(told)


def _short(digest: str | None) -> str:
    return short(str(digest)) if digest else "none"


def _gate(verdict: Mapping[str, Any]) -> str:
    estimate, reference, interval = (verdict.get(name) for name in ("estimate", "reference", "interval"))
    figures = "" if estimate is None else f" {_figure(estimate)}"
    figures += "" if reference is None else f" against {_figure(reference)}"
    figures += f", difference within {' to '.join(map(_figure, interval))}" if isinstance(interval, list | tuple) else ""
    figures += f", n={verdict['n']}{_of_copies(verdict)}" if verdict.get("n") else ""
    return (
        f"{verdict.get('gate')}: {verdict.get('metric', 'metric')}{figures}: {verdict.get('outcome', '')}: {verdict.get('why', '')}".rstrip(
            ": "
        )
    )


def _of_copies(verdict: Mapping[str, Any]) -> str:
    """Marks figures that were measured on copies of requests, whose answers were discarded."""
    copies, n = verdict.get("copies"), verdict.get("n")
    whole = isinstance(copies, int) and isinstance(n, int) and copies >= n > 0 and verdict.get("user_errors") is None
    return " copies" if whole else f" and {copies} copies" if copies else ""


def _figure(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)
