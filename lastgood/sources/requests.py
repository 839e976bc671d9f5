"""Whose failure a request is: the lines of the proxy's access log, counted by the arm that each request was routed to.

A request counts once, however often it was tried. It failed if its own arm failed it, whatever its user got in the end:

    what happened                                            counts as
    an error, a reset, a time-out in the end                 failed; its user got an error
    a second try was needed, and gave an answer              failed; its user got an answer (also if it hung up during that try)
    422 "uncomputable" by its own arm, no other asked        failed, once for each caller; its user got an answer
    any other 4xx in the end                                 nothing: a caller's mistake says nothing about an arm
    the caller hung up during the first try                  nothing; a slow answer, if it had waited for longer than the ceiling
    no worker of its arm asked, as none was in rotation      nothing, if the fallback answered: ejections and kills have their own gates
    refused by the proxy's own limits                        nothing
    /feedback, /healthz and the like, a bundle by token      nothing, not even in the split

What does not belong here: reading the log (`layers.traffic.envoy.requests`), copies of requests, which it does not have (`envoy.stats`).
"""

from __future__ import annotations

import math
import urllib.parse
from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from lastgood.layers.traffic.envoy.requests import HUNG_UP, Request

ASIDE = frozenset({"/feedback", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"})
"""Paths of a worker that do not ask a bundle for an answer."""

UNCOMPUTABLE = "uncomputable"
MOST_CALLERS = 100
"""Number of remembered callers with rows that could not be computed; further ones do not count, as these are reason enough."""

CUT_OFF = frozenset({"UF", "UC", "UR", "UT", "UPE", "LR", "UMSDR", "DT", "SI"})
"""Envoy's flags for an answer that did not arrive whole from a worker: no connection, cut, reset, timed out.

URX, no more tries left, is not among them: the last try may have had a whole answer, such as a 422, and its code shows what it was.
"""
REFUSED = frozenset({"UO", "RL", "RLSE", "NR", "NC", "OM", "DO", "UAEX", "FI", "DI", "DPE", "IH", "RFCF", "NFCF"})
"""Envoy's flags for a request that its own limits or rules refused: no worker was asked."""
TIMED_OUT = frozenset({"UT", "DT", "UMSDR"})


def routed(requests: Iterable[Request], routes: Collection[str]) -> Iterator[Request]:
    """The requests routed to one of *routes* (names of clusters) for an answer."""
    return (request for request in requests if request.route in routes and request.arm != "debug" and not _aside(request.path))


def _aside(path: str) -> bool:
    plain = urllib.parse.unquote(path)
    return plain in ASIDE or (plain != "/" and plain.rstrip("/") in ASIDE)


def judged(request: Request, callers: set[str]) -> tuple[bool, bool] | None:
    """Whether its arm failed it, and whether its user got an error; None if it does not count for the arm.

    *callers* are those already counted for a row that cannot be computed; a new one is added.
    """
    again = request.attempts > 1
    if request.flags & HUNG_UP:
        return (True, False) if again else None
    if request.code >= 500 or request.flags & CUT_OFF:
        return None if request.flags & REFUSED and not again else (True, True)
    if request.code == 0:
        return None
    if request.code >= 400:
        return (True, False) if _uncomputable(request, callers) else None
    if again:
        return True, False
    return (False, False) if _own(request) else None


def _own(request: Request) -> bool:
    """Whether the routed bundle itself gave the answer; an answer without a bundle's signature counts as its own."""
    return not request.bundle or request.route.startswith(f"b-{request.bundle.removeprefix('sha256:')[:12]}")


def _uncomputable(request: Request, callers: set[str]) -> bool:
    # Of several tries the second went to the fallback and the third came back: no bundle could compute it.
    if request.code != 422 or not request.problem.startswith(UNCOMPUTABLE) or not _own(request) or request.attempts > 1:
        return False
    # A proxy that names no caller makes all of them one: the count is too low, never too high.
    if request.peer in callers or len(callers) >= MOST_CALLERS:
        return False
    callers.add(request.peer)
    return True


def waited(requests: Iterable[Request], *, limit_ms: float) -> tuple[list[float], int]:
    """How long each request's user waited in ms, and how many more waited for an unknown longer time: timed out, or hung up."""
    times: list[float] = []
    beyond = 0
    for request in requests:
        if request.flags & TIMED_OUT and not request.flags & HUNG_UP:
            beyond += 1
        elif request.hung_up_ms is not None:
            beyond += request.hung_up_ms > limit_ms
        elif request.ms is not None and not 400 <= request.code < 500 and (request.attempts > 1 or _own(request)):
            times.append(request.ms)
    return times, beyond


def quantile(times: list[float], share: float, *, beyond: int) -> float | None:
    """The duration that *share* of the requests did not exceed; None if there are none or it lies among the *beyond*."""
    rank = math.ceil(share * (len(times) + beyond))
    return sorted(times)[rank - 1] if 0 < rank <= len(times) else None


def buckets(times: Iterable[float]) -> Counter[float]:
    """Counts per bucket of the proxy's histograms, by lower edge: whole ms, of two significant digits."""
    return Counter(_edge(ms) for ms in times)


def _edge(ms: float) -> float:
    whole = math.floor(ms)
    width = 10 ** max(len(str(whole)) - 2, 0)
    return float(whole // width * width)
