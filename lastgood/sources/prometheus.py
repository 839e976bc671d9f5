"""Figures from Prometheus, by the service's own query: one instant query per arm and reading."""

from __future__ import annotations

import json
import math
import re
import time
import urllib.parse
from typing import Any

from lastgood.bundle import manifest
from lastgood.gates.base import Observation, Tally
from lastgood.service import gates
from lastgood.sources import base
from lastgood.sources import http_get as web

_NAME = re.compile(r"\$(bundle|arm)\b")
_NO_URL = "no Prometheus is configured; set 'prometheus_url' under [metrics] in lastgood.toml"


class PrometheusSource(base.Source):
    """The Prometheus at *url*. In a query `$bundle` is the first 12 hex digits of a bundle, `$arm` candidate, stable or control."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def read(self, asked: base.MeasurementRequest, *, now: float, cursor: base.Cursor | None) -> base.SourceReading:
        """One observation with the highest value of the result as `value`, for each arm that the query distinguishes.

        No answer in time, an HTTP error, an answer that is not JSON, a result that is empty or not a finite number: `down`. Takes the
        gate's `timeout_s` at most, for both arms together.
        """
        gate = asked.gate
        if not isinstance(gate, gates.Query | gates.Downstream) or gate.query is None:
            raise TypeError(f"gate {gate.metric!r} has no query for Prometheus")
        end = time.monotonic() + gate.timeout_s
        try:
            watched = self._value(_filled(gate.query, asked.watched, arm="stable" if asked.beside is None else "candidate"), end=end)
            beside = None
            if asked.beside is not None and isinstance(gate, gates.Query) and _NAME.search(gate.query):
                beside = self._beside(gate, asked.beside, arm="control" if asked.control else "stable", end=end)
        except web.Failed as error:
            seen = Observation(at=now, down=True, detail=str(error))
        else:
            seen = Observation(at=now, watched=watched, beside=beside, share=asked.share)
        return base.SourceReading(observations=[seen], cursor={})

    def _beside(self, gate: gates.Query, bundle: str, *, arm: str, end: float) -> Tally | None:
        """Stable's value; without a margin it is only shown, so a missing one costs nothing."""
        try:
            return self._value(_filled(gate.query, bundle, arm=arm), end=end)
        except web.Failed:
            if gate.margin is not None:
                raise
            return None

    def _value(self, query: str, *, end: float) -> Tally:
        if not self._url:
            raise web.Failed(_NO_URL)
        left_s = end - time.monotonic()
        if left_s <= 0:
            raise web.Failed(f"{self._url} did not answer in time")
        asked = urllib.parse.urlencode({"query": query, "timeout": f"{math.ceil(left_s * 1000)}ms"})
        status, body = web.get(f"{self._url}/api/v1/query?{asked}", timeout_s=left_s)
        return Tally(n=1, value=_highest(_result(status, body), query=query))


def _filled(query: str, bundle: str, *, arm: str) -> str:
    values = {"bundle": manifest.short(bundle), "arm": arm}
    return _NAME.sub(lambda found: values[found[1]], query)


def _result(status: int, body: bytes) -> Any:
    """The `data` of the answer. Raises Failed."""
    try:
        value = json.loads(body)
        if value["status"] == "success" and status == 200:
            return value["data"]
        said = f"{value.get('errorType')}: {value.get('error')}"
    except (ValueError, KeyError, TypeError, AttributeError):
        said = repr(body[:200])
    raise web.Failed(f"prometheus answered {status}, {said}; correct the query or the address")


def _highest(data: Any, *, query: str) -> float:
    """The highest number of an instant vector or scalar; NaN values are ignored. Raises Failed."""
    try:
        samples = {"vector": lambda: [sample["value"] for sample in data["result"]], "scalar": lambda: [data["result"]]}
        if data["resultType"] not in samples:
            raise web.Failed(f"query {query!r} returns a {data['resultType']}; make it return one number per series")
        values = [float(text) for _, text in samples[data["resultType"]]()]
    except (KeyError, TypeError, ValueError) as error:
        raise web.Failed(
            f"prometheus did not answer with numbers: {error!r}; check whether another program listens on that address"
        ) from error
    known = [value for value in values if not math.isnan(value)]
    if not known:
        raise web.Failed(
            f"no data: query {query!r} returns {'only NaN' if values else 'nothing'} now; correct it, or wait for the first values"
        )
    highest = max(known)
    if math.isinf(highest):
        raise web.Failed(f"query {query!r} returns {highest}, a non-finite value; correct it")
    return highest
