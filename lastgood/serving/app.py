"""The HTTP interface of a worker: one bundle, strict input, and an answer that says which bundle gave it.

The application is given a loaded bundle and its logs; loading and processes belong to `worker`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import fastapi
import pydantic
from fastapi import responses
from starlette.types import ASGIApp

from lastgood.bundle import manifest
from lastgood.layers import answer_store as cache
from lastgood.layers.infrastructure.local import in_flight
from lastgood.layers.traffic import headers as traffic_headers
from lastgood.service import schema, timeouts
from lastgood.serving import (
    admission,
    border,
    envelope,
    feedback,
    inference_log,
    metrics,
    openapi,
    request_rows,
    row_form,
    row_ids,
    runtime,
    segments,
    uncomputable,
)
from lastgood.serving.border import Refused
from lastgood.system import clock as system_clock

_logger = logging.getLogger(__name__)
_NOT_READY = {traffic_headers.UNREADY: "1", traffic_headers.FAILED_CHECK: "true"}
"""Tells the proxy that an answer only means that this worker is not ready; callers never see it."""
REMEMBERED = 50_000
"""Answered requests for which a worker remembers the caller's id, about 20 MB."""
_QUIET_S = 10.0
"""Seconds between two tracebacks of rows that cannot be computed."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A verified and loaded bundle. `notes` are for people: differences from the environment that it was built for."""

    bundle: manifest.Bundle
    service: schema.Service
    runtime: runtime.Runtime
    started: str
    notes: tuple[str, ...] = ()

    def identity(self) -> dict[str, str]:
        """What every prediction names: the bundle, and the digests of the parts that made the answer, where it has them."""
        parts = {name: part.digest for name, part in self.bundle.parts.items() if name in ("model", "prompt", "index", "config")}
        return {"bundle": self.bundle.id, **parts}


@dataclasses.dataclass(slots=True, kw_only=True)
class _Worker:
    """Shared by the routes."""

    loaded: Loaded
    identity: dict[str, str]
    """Bundle and parts, for callers who may see the parts; all others get only what is in `named`."""
    named: dict[str, str]
    rows: pydantic.TypeAdapter[Any]
    outcomes: pydantic.TypeAdapter[Any]
    predictions_log: segments.SegmentLog
    feedback_log: segments.SegmentLog
    metrics: metrics.Metrics
    clock: Callable[[], float]
    threads: concurrent.futures.ThreadPoolExecutor
    out_of_memory: Callable[[], None]
    bounds: admission.UserBounds
    turns: admission.Turns
    form: row_form.Form
    wellness: uncomputable.Wellness = dataclasses.field(init=False)
    cache: cache.Cache | None = None
    callers: row_ids.CallerIds = dataclasses.field(default_factory=lambda: row_ids.CallerIds(capacity=REMEMBERED))
    """Used only in the event loop's thread."""
    quiet_until: float = -math.inf
    counted: in_flight.InFlight = dataclasses.field(default_factory=in_flight.InFlight)
    warm_up_s: float | None = None
    """Duration of the warm-up in seconds, once it was answered."""
    ready: bool = False
    readable: bool = False
    """Whether rows of this service can be read back from its log at all, as the warm-up rows can; if so, every row must be readable."""

    def __post_init__(self) -> None:
        self.wellness = uncomputable.Wellness(functools.partial(_ask_warm_up, self))


def create(
    loaded: Loaded,
    *,
    predictions_log: segments.SegmentLog,
    feedback_log: segments.SegmentLog,
    answers: cache.Cache | None = None,
    counted: in_flight.InFlight | None = None,
    clock: Callable[[], float] = system_clock.now,
    on_failed_warm_up: Callable[[], None] = lambda: None,
    on_out_of_memory: Callable[[], None] = lambda: None,
) -> ASGIApp:
    """The ASGI application of *loaded*. Its lifespan starts and closes the two logs, and closes the cache of *answers*.

    Ready once the warm-up was answered; if that fails, *on_failed_warm_up* is called and it never becomes ready. A row that
    needs more memory than is available is refused like any that cannot be computed. If memory does not even suffice for the warm-up
    rows, the answer is 500, and *on_out_of_memory* is called: the process should be restarted.
    """
    logs = {inference_log.PREDICTIONS: predictions_log, inference_log.FEEDBACK: feedback_log}
    serving = loaded.service.serving
    worker = _Worker(
        loaded=loaded,
        identity=loaded.identity(),
        named={} if loaded.service.traffic.disclose == "none" else {"bundle": loaded.bundle.id},
        rows=request_rows.adapter_of(loaded.runtime.Request),
        outcomes=request_rows.adapter_of(feedback.Feedback),
        predictions_log=predictions_log,
        feedback_log=feedback_log,
        metrics=metrics.Metrics(service=loaded.service.service, bundle=loaded.bundle.id, logs=logs),
        clock=clock,
        threads=concurrent.futures.ThreadPoolExecutor(loaded.runtime.concurrency, thread_name_prefix="predict"),
        out_of_memory=on_out_of_memory,
        bounds=admission.UserBounds(
            requests=serving.user_requests, feedback=max(serving.user_feedback_per_min, serving.max_batch), clock=time.monotonic
        ),
        turns=admission.Turns(loaded.runtime.concurrency),
        form=inference_log.form_of(loaded.runtime.Request),
        cache=answers,
        counted=counted or in_flight.InFlight(),
    )
    lifespan = _lifespan(worker, on_failed_warm_up)
    app = fastapi.FastAPI(title=loaded.service.service, description=loaded.service.description, version=manifest.short(loaded.bundle.id),
                          lifespan=lifespan, docs_url=None, redoc_url=None)  # fmt: skip
    _add_routes(app, worker)
    return envelope.Envelope(
        app, bundle=loaded.bundle.id, counted=worker.counted, metrics=worker.metrics, out_of_memory=worker.out_of_memory
    )


def _lifespan(worker: _Worker, on_failed_warm_up: Callable[[], None]) -> Callable[[fastapi.FastAPI], AbstractAsyncContextManager[None]]:
    """From the start of the logs and the warm-up to the shutdown of the logs, the threads and the cache."""
    logs = (worker.predictions_log, worker.feedback_log)

    @contextlib.asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        for log in logs:
            log.start()
        warming = asyncio.create_task(_warm_up(worker, on_failed_warm_up))
        try:
            yield
        finally:
            await warming
            worker.threads.shutdown()
            for log in logs:
                log.close()
            if worker.cache is not None:
                worker.cache.close()

    return lifespan


def _add_routes(app: fastapi.FastAPI, worker: _Worker) -> None:
    row = worker.loaded.runtime.Request
    batch = worker.loaded.service.serving.max_batch

    @app.post("/predict", openapi_extra=openapi.body(row, max_rows=batch), responses=openapi.ANSWERS)
    async def predict(request: fastapi.Request) -> responses.Response:
        """Answer one row, or up to the batch limit of rows as `{"rows": [...]}`; both get a list of predictions."""
        return await _predict(worker, request)

    @app.post("/feedback", openapi_extra=openapi.body(feedback.Feedback, max_rows=batch), responses=openapi.ANSWERS)
    async def take_feedback(request: fastapi.Request) -> responses.Response:
        """Take the outcome of a row, or of several as `{"rows": [...]}`. Sending it again does no harm; the last one holds."""
        return await _take_feedback(worker, request)

    @app.get("/healthz")
    async def healthz() -> responses.Response:
        """The process lives."""
        return _json(200, {"ok": True, "bundle": worker.loaded.bundle.id})

    @app.get("/readyz", responses={503: {"description": "not ready yet"}})
    async def readyz() -> responses.Response:
        """Whether requests should be sent here, and what this worker serves."""
        return _json(200, _about(worker)) if worker.ready else _json(503, _about(worker), headers=_NOT_READY)

    @app.get("/metrics")
    async def show_metrics() -> responses.Response:
        """Counters for Prometheus."""
        return responses.Response(worker.metrics.text(), media_type=metrics.CONTENT_TYPE)

    @app.exception_handler(Refused)
    async def refused(_: fastapi.Request, error: Exception) -> responses.Response:
        if not isinstance(error, Refused):
            raise error
        worker.metrics.refused(error.rows, kind=error.kind)
        answer = _json(error.status, {"error": error.message, **({"problems": error.problems} if error.problems else {})})
        answer.headers.update(error.headers)
        return answer

    @app.exception_handler(admission.TooMany)
    async def too_many(request: fastapi.Request, error: Exception) -> responses.Response:
        if not isinstance(error, admission.TooMany):
            raise error
        worker.metrics.refused_for_now(path=request.url.path)
        answer = _json(429, {"error": error.message})
        answer.headers["retry-after"] = str(error.retry_after_s)
        return answer

    openapi.lift_schemas(app, [row, feedback.Feedback])


async def _predict(worker: _Worker, request: fastapi.Request) -> responses.Response:
    if not worker.ready:
        raise Refused(503, "not ready: the warm-up has not finished yet; see /readyz and try again", headers=_NOT_READY)
    border.check_head(request.headers)
    with worker.bounds.request(_user(worker, request)):
        return await _predict_rows(worker, request)


async def _parse(worker: _Worker, request: fastapi.Request, body: bytes, adapter: pydantic.TypeAdapter[Any]) -> list[Any]:
    """The checked rows of *body*. Raises Refused, or MemoryError if memory ran out."""
    most, kind = worker.loaded.service.serving.max_batch, request.headers.get("content-type", "")
    try:
        return request_rows.parse(body, adapter, max_rows=most, content_type=kind)
    except MemoryError as error:
        await _blame_row(worker, error)
    try:
        return request_rows.parse(body, adapter, max_rows=most, content_type=kind)
    except MemoryError as error:
        raise request_rows.beyond(border.parse(body), adapter, error) from error


async def _predict_rows(worker: _Worker, request: fastapi.Request) -> responses.Response:
    body = await request_rows.read(request, worker.loaded.service.serving.max_body_bytes)
    at, began = worker.clock(), time.perf_counter()
    rows = await _parse(worker, request, body, worker.rows)
    if worker.readable:
        request_rows.check_kept(worker.form, rows)
    shadow = envelope.is_copy(request.scope)
    async with worker.turns.turn(request.headers.get(traffic_headers.PEER, ""), _user(worker, request)):
        outputs = await asyncio.get_running_loop().run_in_executor(
            worker.threads, functools.partial(_answer_or_refuse, worker, rows, shadow=shadow)
        )
    ids: envelope.Ids = request.scope["state"]["ids"]
    # Only the owner can bypass the proxy, as for a test or a scrape.
    told = worker.identity if traffic_headers.DISCLOSE in request.headers or not envelope.through_proxy(request.scope) else worker.named
    answer = json.dumps({"request_id": ids.own, **told, "predictions": outputs}, allow_nan=False).encode()
    latency_us = round((time.perf_counter() - began) * 1e6)
    answered = inference_log.Answered(
        request_id=ids.own, caller_id=ids.callers, at=at, bundle=worker.loaded.bundle.id, arm=_arm(request), shadow=shadow,
        latency_us=latency_us, rows=rows, outputs=outputs,
    )  # fmt: skip
    worker.predictions_log.append(answered.as_rows())
    if ids.callers is not None and not shadow and worker.callers.add(ids.callers, ids.own):
        worker.metrics.repeated_id()
    worker.metrics.predictions(len(rows), shadow=shadow)
    # An HTTP cache in between does not know bundles: it would keep returning the answers of one that was rolled back.
    return responses.Response(answer, media_type="application/json", headers={"cache-control": "no-store"})


def _answer_or_refuse(worker: _Worker, rows: list[Any], *, shadow: bool) -> list[dict[str, Any]]:
    """The checked answers. Raises Refused (422) for a valid row that the service's code cannot compute, else Failed or MemoryError."""
    began = time.monotonic()

    def answer(some: Sequence[Any], *, copy: bool) -> list[dict[str, Any]]:
        return uncomputable.contained(lambda: uncomputable.check(_answer(worker, list(some), shadow=copy), rows=len(some)))

    try:
        return answer(rows, copy=shadow)
    except (uncomputable.Failed, MemoryError) as error:
        if not worker.wellness.well():
            raise _end_or_fail(worker, error) from error
        number = uncomputable.find(rows, functools.partial(answer, copy=True), until=began + _patience_s(worker.loaded.service))
        if number is None:
            raise _end_or_fail(worker, error) from error
        _tell(worker, "row %d of a request cannot be computed, but the warm-up rows can: the row is refused", number, error)
        text = f"cannot be computed by this service ({uncomputable.describe_error(error)}); correct the row, or the code"
        raise request_rows.uncomputable(number, text) from error


def _end_or_fail(worker: _Worker, error: uncomputable.Failed | MemoryError) -> uncomputable.Failed | MemoryError:
    """The error to raise: MemoryError, which ends this process, only if memory is short for the bundle's own rows too."""
    if isinstance(error, MemoryError) and not worker.wellness.out_of_memory:
        return uncomputable.Failed("MemoryError in the service's code")
    return error


async def _blame_row(worker: _Worker, error: MemoryError) -> None:
    """Raise *error*, or Failed, unless the bundle answers its own rows: then the row needs too much memory."""
    if not await asyncio.get_running_loop().run_in_executor(worker.threads, worker.wellness.well):
        raise _end_or_fail(worker, error) from error


def _tell(worker: _Worker, text: str, number: int, error: BaseException) -> None:
    """Log a warning in the worker's log, but not for every bad row that somebody sends."""
    now = time.monotonic()
    if now >= worker.quiet_until:
        worker.quiet_until = now + _QUIET_S
        _logger.warning(text, number, exc_info=error)


def _patience_s(service: schema.Service) -> float:
    """Seconds after which the search for the cause is given up, so that the caller still gets an answer in time."""
    return 0.8 * timeouts.try_s(service.traffic)


def _answer(worker: _Worker, rows: list[Any], *, shadow: bool) -> list[dict[str, Any]]:
    """The runtime's answer, computed in the calling thread, where the runtime can see whether the request is a copy."""
    with runtime.shadow(on=shadow):
        if shadow or worker.cache is None:  # a copy exists to be measured
            return worker.loaded.runtime.predict(rows)
        return _cached(worker, worker.cache, rows)


def _cached(worker: _Worker, kept: cache.Cache, rows: list[Any]) -> list[dict[str, Any]]:
    """Cached answers for rows equal to earlier ones, as far as they are still kept; the runtime's own for the others."""
    keys = [hashlib.sha256(row.model_dump_json().encode()).digest() for row in rows]
    found: list[dict[str, Any] | None] = [json.loads(answer) if answer is not None else None for answer in kept.get(keys)]
    missing = [number for number, answer in enumerate(found) if answer is None]
    worker.metrics.cached(hits=len(rows) - len(missing), misses=len(missing))
    if missing:
        fresh = worker.loaded.runtime.predict([rows[number] for number in missing])
        if len(fresh) != len(missing):
            return fresh  # the caller reports what is wrong with it
        kept.put({keys[number]: json.dumps(answer, allow_nan=False).encode() for number, answer in zip(missing, fresh, strict=True)})
        for number, answer in zip(missing, fresh, strict=True):
            found[number] = answer
    return [answer for answer in found if answer is not None]


async def _take_feedback(worker: _Worker, request: fastapi.Request) -> responses.Response:
    border.check_head(request.headers)
    body = await request_rows.read(request, worker.loaded.service.serving.max_body_bytes)
    given: list[feedback.Feedback] = await _parse(worker, request, body, worker.outcomes)
    worker.bounds.feedback(_user(worker, request), len(given))
    at = worker.clock()
    rows = []
    for number, sent in enumerate(given):
        one = _meant(worker, sent, number=number)
        rows.append(one.as_row(at=at, label=await _label_or_blame(worker, one, number)))
    worker.feedback_log.append(rows)
    return _json(202, {"accepted": len(rows)})


def _meant(worker: _Worker, given: feedback.Feedback, *, number: int) -> feedback.Feedback:
    """*given* with the id of the request that it refers to. Raises Refused (409) if the caller's id matches several.

    An id that this worker has not seen is kept: another worker may have answered, and readers of the log can match it.
    """
    known = () if worker.callers.knows(given.request_id) else worker.callers.get(given.request_id)
    if len(known) > 1:
        problem = {"row": number, "field": "request_id", "problem": "several requests used this x-request-id", "request_ids": known}
        message = f"row {number}: {len(known)} requests or more used {given.request_id!r}; send the request_id of the answer, one of those in problems"
        worker.metrics.unclear_feedback()
        raise Refused(409, message, problems=[problem])
    return given.model_copy(update={"request_id": known[0]}) if known else given


async def _label_or_blame(worker: _Worker, given: feedback.Feedback, number: int) -> float | None:
    """The label. Raises Refused, or MemoryError if memory ran out."""
    try:
        return _label(worker, given, number)
    except MemoryError as error:
        await _blame_row(worker, error)
    try:
        return _label(worker, given, number)
    except MemoryError as error:
        raise _no_label(worker, number, error) from error


def _label(worker: _Worker, given: feedback.Feedback, number: int) -> float | None:
    """The service's label for an outcome. Raises Refused (422) with the service's own message, or if it cannot interpret the outcome."""
    try:
        return feedback.check_label(worker.loaded.runtime.label(given.outcome))
    except ValueError as error:
        found = {"row": number, "problem": str(error)}
        raise Refused(422, f"row {number}: {error}; correct it", problems=[found], kind="field") from error
    except MemoryError:
        raise
    except BaseException as error:  # a team's code may raise anything
        raise _no_label(worker, number, error) from error


def _no_label(worker: _Worker, number: int, error: BaseException) -> Refused:
    _tell(worker, "the label of row %d of a feedback request cannot be computed: the row is refused", number, error)
    return request_rows.uncomputable(
        number, f"no label can be computed ({type(error).__name__} in the service's code); correct the row, or the code"
    )


async def _warm_up(worker: _Worker, on_failed: Callable[[], None]) -> None:
    """Answer the runtime's own rows once, the way a request would be, so that no user waits for lazy imports."""

    def answer() -> None:
        began = time.perf_counter()
        rows, outputs = _ask_warm_up(worker)
        worker.warm_up_s = round(time.perf_counter() - began, 3)
        worker.readable = request_rows.readable(worker.form, rows)
        # The log's writer takes seconds to load; without this, that would fall into the first second of live traffic.
        rehearsed = inference_log.Answered(
            request_id="warm-up", caller_id=None, at=worker.clock(), bundle=worker.loaded.bundle.id, arm=None, shadow=False,
            latency_us=0, rows=rows, outputs=outputs,
        )  # fmt: skip
        worker.predictions_log.rehearse(rehearsed.as_rows())

    try:
        await asyncio.get_running_loop().run_in_executor(worker.threads, answer)
    except MemoryError:
        _logger.exception("bundle %s ran out of memory in its warm-up; it cannot serve", worker.loaded.bundle.id)
        worker.out_of_memory()
    except Exception:  # a team's code may raise anything
        _logger.exception("the warm-up of bundle %s failed; it cannot serve", worker.loaded.bundle.id)
        on_failed()
    else:
        worker.metrics.ready()
        worker.ready = True


def _ask_warm_up(worker: _Worker) -> tuple[list[Any], list[dict[str, Any]]]:
    """The runtime's own rows and its answers to them, requested as copies. Raises what its code raises, or Failed."""
    rows = worker.rows.validate_json(json.dumps({"rows": worker.loaded.runtime.warm_up()})).rows
    return rows, uncomputable.check(_answer(worker, rows, shadow=True), rows=len(rows))


def _about(worker: _Worker) -> dict[str, Any]:
    loaded = worker.loaded
    return {
        "ready": worker.ready,
        "service": loaded.service.service,
        "bundle": loaded.bundle.id,
        "parts": {name: part.digest for name, part in loaded.bundle.parts.items()},
        "started": loaded.started,
        "in_flight": worker.counted.now.requests,
        "warm_up_s": worker.warm_up_s,
        "repeated_ids": worker.metrics.repeated_ids,
        "unclear_labels": worker.metrics.unclear,
        "timeout_s": loaded.service.traffic.timeout_s,
        "notes": list(loaded.notes),
    }


def _user(worker: _Worker, request: fastapi.Request) -> str | None:
    """The user named in the request."""
    traffic = worker.loaded.service.traffic
    return request.headers.get(traffic.user_header) or request.cookies.get(traffic.user_cookie) or None


def _arm(request: fastapi.Request) -> str | None:
    arm = request.headers.get(traffic_headers.ARM)
    return arm if arm in ("stable", "candidate", "control", "debug") else None


def _json(status: int, value: Any, *, headers: Mapping[str, str] | None = None) -> responses.Response:
    return responses.Response(json.dumps(value).encode(), status_code=status, media_type="application/json", headers=headers)
