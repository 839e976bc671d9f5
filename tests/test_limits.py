"""Every number that service.yaml or lastgood.toml may hold, at its largest: it is what happens, and no constant beside it is the truth.

A new setting without an entry in PROOFS fails here. An entry proves the setting at its largest value, or names the test that does.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import math
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest

from lastgood import errors
from lastgood import settings as settings_
from lastgood.analysis import run as analysis_run
from lastgood.cli import common
from lastgood.core.state import State
from lastgood.drift import watch as drift_watch
from lastgood.hosts import readiness
from lastgood.layers import answer_store, base
from lastgood.layers.infrastructure.local import drain
from lastgood.layers.infrastructure.local import worker_state as notes
from lastgood.layers.traffic.envoy import config as envoy_config
from lastgood.service import drift as drift_rules
from lastgood.service import gates, schema, strategy, timeouts
from lastgood.serving import admission, segments
from lastgood.settings import Settings
from lastgood.sources import label_join as blocks

ROOT = Path(__file__).parents[1]
NOW = 1_800_000_000.0
A, B = ("sha256:" + letter * 64 for letter in "ab")


# --- which settings there are ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Setting:
    """One number of a file: where it stands, the model that has it, and its bounds."""

    path: str
    model: type[pydantic.BaseModel]
    name: str
    largest: float | None


def _models(annotation: Any) -> Iterator[type[pydantic.BaseModel]]:
    """The models inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models(inner)


def _is_number(annotation: Any) -> bool:
    if annotation in (int, float):
        return True
    return any(_is_number(inner) for inner in typing.get_args(annotation) if inner is not str)


def _settings(model: type[pydantic.BaseModel], prefix: str) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        inner = list(_models(field.annotation))
        for found in inner:
            tag = next((one.annotation for key, one in found.model_fields.items() if key in ("metric", "phase")), None)
            kind = f".{typing.get_args(tag)[0]}" if tag is not None else ""
            yield from _settings(found, f"{prefix}{name}{kind}.")
        if not inner and _is_number(field.annotation):
            limits = [getattr(one, "le", getattr(one, "lt", None)) for one in field.metadata]
            yield Setting(f"{prefix}{name}", model, name, next((float(limit) for limit in limits if limit is not None), None))


FOUND = {one.path: one for one in (*_settings(schema.Service, "service:"), *_settings(Settings, "toml:"))}

OPEN = {
    "service:evaluation.floors": "compared with figures of an evaluation, nothing else",
    "service:evaluation.ceilings": "compared with figures of an evaluation, nothing else",
    "service:gates.score.margin": "in units of the score, which may be anything",
    "service:gates.score.limit": "in units of the score, which may be anything",
    "service:gates.agreement.tolerance": "a difference of two numbers, which may be anything",
    "service:gates.downstream.max": "in units of the query, which may be anything",
    "service:gates.promql.margin": "in units of the query, which may be anything",
    "service:gates.promql.max": "in units of the query, which may be anything",
    "service:drift.decide.margin": "in units of the score, which may be anything",
    "service:drift.decide.looks_s": "bounded by what the log keeps",
    "service:drift.min_effect": "a distance, compared and nothing else",
    "service:drift.quiet": "hours of the day, each of them 0 to 23",
}
"""Numbers that need no largest value: nothing waits for them, makes room for them or counts to them."""


# --- what proves them --------------------------------------------------------------------------------------


def configured(**groups: Any) -> schema.Service:
    """A service with some groups of its settings changed."""
    value = {"schema": schema.SCHEMA, "service": "demo", "tier": "real-time-api", "owner": "tests", "traffic": {"port": 8080}}
    return schema.Service.model_validate({**value, **groups})


def largest(path: str) -> Any:
    """The largest value that the file may hold there."""
    found = FOUND[path]
    assert found.largest is not None
    return int(found.largest) if found.model.model_fields[found.name].annotation is int else found.largest


def longest_request(path: str) -> None:
    """Proxy and worker give a request the longest time, and whoever ends the worker waits longer."""
    value = largest(path)
    service = configured(traffic={"port": 8080, "timeout_s": value, "per_try_timeout_s": value, "idempotent": True})
    desired = base.Desired(service=service, revision=1, stable=A, weights={A: 100.0})
    plan = envoy_config.plan(desired, ready={A: (base.Endpoint("127.0.0.1", 1),)}, now={}, token="t")
    for rule in plan.routes["resources"][0]["virtual_hosts"][0]["routes"]:
        if "route" in rule:
            assert rule["route"]["timeout"] == f"{value:g}s"
            assert float(rule["route"]["idle_timeout"].rstrip("s")) > value
    assert rule["route"]["retry_policy"]["per_try_timeout"] == f"{value:g}s"
    assert value <= timeouts.LONGEST_S
    assert drain.patience_s(value) > value
    assert drain.patience_s(None, None) > value, "an unknown worker is given the longest time"


def largest_body(path: str) -> None:
    """The proxy keeps the whole of the largest body, or it could neither ask again nor copy it."""
    service = configured(serving={"max_body_bytes": largest(path)})
    desired = base.Desired(service=service, revision=1, stable=A, weights={A: 100.0})
    plan = envoy_config.plan(desired, ready={A: (base.Endpoint("127.0.0.1", 1),)}, now={}, token="")
    assert {rule["request_body_buffer_limit"] for rule in plan.routes["resources"][0]["virtual_hosts"][0]["routes"]} == {largest(path)}


def slow_log(path: str) -> None:
    """Who reads the logs waits for the one that is written most slowly."""
    flush_s = largest(path)
    service = configured(serving={"log_flush_s": flush_s}, gates={"good": {"metric": "score", "score": "brier", "margin": 0.1, "limit": 1}})
    state = State(service="demo", revision=3, stable=A, phase="idle")
    for question in analysis_run.questions(state, service, proposed_at=NOW, now=NOW):
        assert question.flush_s == flush_s
    open_ = blocks.OpenBlocks(begin=0.0, length_s=60.0, labels=False, flush_s=flush_s)
    open_.answer(("one", 0), "live", 30.0, 0.5)
    assert open_.closed(now=60 + flush_s) == -1
    assert open_.closed(now=60 + flush_s + blocks.SETTLE_S) == 0


def kept_log(path: str, tmp_path: Path) -> None:
    """A log is kept as long as the largest number of days says."""
    log = segments.SegmentLog(
        tmp_path / "log", name="a", to_table=lambda rows: None, flush_s=1, segment_rows=1, keep_days=largest(path), clock=lambda: NOW
    )
    log.close()


def feedback_bound(path: str) -> None:
    """One user's largest amount of feedback is taken, and one row more is refused."""
    bounds = admission.UserBounds(requests=1, feedback=largest(path), clock=lambda: NOW)
    bounds.feedback("one", largest(path))
    with pytest.raises(admission.TooMany):
        bounds.feedback("one", 1)


def requests_bound(path: str) -> None:
    """So many requests of one user fit into the queue of those that wait."""
    assert largest(path) <= admission.WAITING


def cached_for(path: str) -> None:
    """An answer is kept as long as the largest time says, and no longer."""
    now = [NOW]
    kept = answer_store.Memory(ttl_s=largest(path), entries=10, clock=lambda: now[0])
    kept.put({b"k": b"v"})
    now[0] += largest(path) - 1
    assert kept.get([b"k"]) == [b"v"]
    now[0] += 2
    assert kept.get([b"k"]) == [None]


def shown(path: str) -> None:
    """A moment so far away can be said, kept and read."""
    assert common.moment(NOW + largest(path)).endswith("Z")
    assert math.isfinite(NOW + largest(path))


def counted(path: str) -> None:
    """So large a number of requests is one that a count can reach, and a database keep."""
    assert 1 <= largest(path) < 2**53


def share(path: str) -> None:
    """A share of one."""
    assert 0 < largest(path) <= 100


def held(path: str) -> None:
    """So many rows of a log or answers in memory are some gigabytes at most, at a few hundred bytes each."""
    assert largest(path) * 300 <= 4 * 1024**3


def gate(path: str) -> None:
    """A gate with its largest number is built, and says that it is not known yet."""
    _, metric, name = path.removeprefix("service:").split(".")
    needs = {"latency_p99": {"max_ms": 1.0}, "score": {"score": "brier", "margin": 0.1}, "agreement": {"min": 0.5}}
    needs |= {"downstream": {"url": "http://a"}, "promql": {"query": "q", "max": 1.0}}
    value = {"metric": metric, **needs.get(metric, {}), name: largest(path)}
    if FOUND[path].model.model_fields[name].metadata and any(hasattr(one, "lt") for one in FOUND[path].model.model_fields[name].metadata):
        value[name] = math.nextafter(largest(path), 0)
    strategy_ = [{"phase": "shadow"}] if metric == "agreement" else [{"phase": "canary", "weight_pct": 5}]
    service = configured(gates={"tried": value}, release={"strategy": strategy_})
    assert getattr(service.gates["tried"], name) == value[name]


def window(path: str) -> None:
    """Windows of drift that are so long, or are read so late, have ends that can be said."""
    name = path.rpartition(".")[2]
    inside = {"decide": {name: largest(path)}} if ".decide." in path else {name: largest(path)}
    rules = drift_rules.Drift.model_validate(inside)
    watched = drift_watch.DriftWatch(service="demo", bundle=A, since=NOW, revision=1, rules=rules)
    assert NOW < watched.begin(1) < NOW + 400 * 86_400


def paused(path: str) -> None:
    """A pause between attempts never gets longer than the largest, however many failed."""
    note = notes.Note()
    for _ in range(60):
        note.failed("x", now=NOW, longest_s=largest(path), jitter=0.999)
    assert NOW < note.not_before <= NOW + largest(path)


def lease_outlives(path: str) -> None:
    """A lease is longer than the longest pause between two looks, or the file is refused with the remedy."""
    name = path.rpartition(".")[2]
    value = largest(path)
    with pytest.raises(pydantic.ValidationError, match="raise it to") if name == "watch_s" else _nothing():
        settings_.ControllerSettings(**{name: value, **({"lease_s": 2 * value} if name == "measure_s" else {})})
    settings_.ControllerSettings(
        **{name: value, **({} if name == "lease_s" else {"lease_s": largest("toml:controller.lease_s")}), **_shorter(name)}
    )


def _shorter(name: str) -> dict[str, float]:
    return {"watch_s": 2400.0} if name == "watch_s" else {}


class _nothing:  # noqa: N801  # reads as a context manager
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def heartbeat(path: str) -> None:
    """What a host last said of its workers counts for several of the longest signs of life, whatever their pace."""
    value = largest(path)
    configured_ = Settings(project=Path("/p"), home=Path("/h"), controller=settings_.ControllerSettings(heartbeat_s=value))
    assert readiness.MISSED * configured_.controller.heartbeat_s >= 2 * value


def accepted(path: str) -> None:
    """The largest value is one that the settings accept and whoever uses it takes as it is: nothing beside it waits a time of its own."""
    group, name = path.removeprefix("toml:").split(".")
    model = FOUND[path].model
    assert getattr(model(**{name: largest(path)}), name) == largest(path)
    assert group in Settings.model_fields


INFRA = "tests/layers/infrastructure/test_drain.py::test_a_worker_may_take_the_longest_time_to_get_ready"
BATCH = "tests/serving/test_largest.py::test_the_largest_request_is_answered_and_the_worker_stays_healthy"

PROOFS: dict[str, Callable[..., None] | str] = {
    "service:traffic.port": shown,
    "service:traffic.timeout_s": longest_request,
    "service:traffic.per_try_timeout_s": longest_request,
    "service:serving.ready_timeout_s": INFRA,
    "service:serving.max_body_bytes": largest_body,
    "service:serving.max_batch": BATCH,
    "service:serving.user_requests": requests_bound,
    "service:serving.user_feedback_per_min": feedback_bound,
    "service:serving.log_flush_s": slow_log,
    "service:serving.log_segment_rows": held,
    "service:serving.log_keep_days": kept_log,
    "service:serving.cache_s": cached_for,
    "service:serving.cache_rows": held,
    "service:release.bake_s": shown,
    "service:release.alpha": share,
    "service:release.rollback_window": counted,
    "service:release.recovery.within_s": shown,
    "service:release.recovery.min_samples": counted,
    **{path: gate for path in FOUND if path.startswith("service:gates.") and path not in OPEN},
    **{path: shown for path in FOUND if path.startswith("service:release.strategy.") and path.endswith("_s")},
    **{path: share for path in FOUND if path.startswith("service:release.strategy.") and path.endswith("_pct")},
    "service:drift.window_s": window,
    "service:drift.settle_s": window,
    "service:drift.decide.cluster_s": window,
    "service:drift.decide.label_delay_s": window,
    "service:drift.min_rows": counted,
    "service:drift.max_rows": held,
    "service:drift.persistence": counted,
    "service:drift.alpha": share,
    "service:drift.missing": share,
    "service:drift.broken": share,
    "service:drift.decide.alpha": share,
    "service:drift.decide.min_rows": counted,
    "toml:ledger.busy_timeout_s": accepted,
    "toml:ledger.ballast_bytes": accepted,
    "toml:controller.poll_s": accepted,
    "toml:controller.resync_s": accepted,
    "toml:controller.layer_timeout_s": accepted,
    "toml:controller.backoff_max_s": paused,
    "toml:controller.heartbeat_s": heartbeat,
    "toml:controller.measure_s": lease_outlives,
    "toml:controller.watch_s": lease_outlives,
    "toml:controller.lease_s": lease_outlives,
    "toml:controller.keep_measurements_days": shown,
    "toml:paging.timeout_s": "tests/paging/test_delivery.py::test_a_slow_channel_keeps_its_lease_while_it_is_waited_for",
    "toml:index.keep_days": shown,
    "toml:index.keep_stable": counted,
    "toml:drift.tick_s": accepted,
    "toml:drift.report_hours": shown,
}


# --- the sweep ---------------------------------------------------------------------------------------------


def test_every_setting_has_an_entry() -> None:
    """A new number in service.yaml or lastgood.toml says here what it does at its largest value."""
    assert set(FOUND) - set(PROOFS) - set(OPEN) == set(), "prove the setting at its largest value"
    assert (set(PROOFS) | set(OPEN)) - set(FOUND) == set(), "entries of settings that are gone"


@pytest.mark.parametrize("path", sorted(set(FOUND) - set(OPEN)))
def test_every_setting_has_a_largest_value(path: str) -> None:
    """What has none accepts a time or a size that nothing can keep; beyond it the error names the line and the limit."""
    if FOUND[path].name == "min_s":
        return  # no longer than max_s, which has one
    assert FOUND[path].largest is not None, "give the field a largest value (le=…)"
    more = int(FOUND[path].largest) + 1 if isinstance(largest(path), int) else FOUND[path].largest + 1.0
    with pytest.raises(pydantic.ValidationError, match="less than"):
        FOUND[path].model.__pydantic_validator__.validate_assignment(FOUND[path].model.model_construct(), FOUND[path].name, more)


@pytest.mark.parametrize("path", sorted(PROOFS))
def test_the_largest_value_is_what_happens(path: str, tmp_path: Path) -> None:
    """Each setting at its largest value, by its proof."""
    proof = PROOFS[path]
    if isinstance(proof, str):
        file, _, name = proof.partition("::")
        assert name in {node.name for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8"))) if isinstance(node, ast.FunctionDef)}
    elif FOUND[path].name == "min_s":
        with pytest.raises(ValueError, match="min_s"):
            strategy.parse([{"phase": "canary", "weight_pct": 5, "min_s": 91 * 86_400, "max_s": 90 * 86_400}])
    elif proof is kept_log:
        kept_log(path, tmp_path)
    else:
        proof(path)


def test_a_frozen_file_with_more_than_the_largest_counts_as_the_largest() -> None:
    """An older bundle is not lost by a largest value that came after it; a file that a team writes is refused with the line."""
    text = "\n".join((
        f"schema: {schema.SCHEMA}", "service: demo", "tier: rag", "owner: a", "traffic: {port: 80}",
        "serving: {max_body_bytes: 100000000000}", "release: {bake_s: 1.0e12}",
        "gates: {errors: {metric: error_rate, window_min: 10000000000}}",
    ))  # fmt: skip
    found = schema.parse_frozen(text, where="a bundle")
    assert found.serving.max_body_bytes == largest("service:serving.max_body_bytes")
    assert found.release.bake_s == largest("service:release.bake_s")
    assert found.gates["errors"].window_min == gates.MOST
    with pytest.raises(errors.UsageError, match=r"line 6, serving.max_body_bytes: input should be less than or equal to"):
        schema.parse(text, where="service.yaml")
    with pytest.raises(errors.UsageError, match=r"traffic\.port"):
        schema.parse_frozen(text.replace("port: 80", "port: none"), where="a bundle")


@pytest.mark.parametrize("tier", sorted(timeouts.DEFAULTS))
def test_what_a_file_names_wins_over_its_tier(tier: str) -> None:
    """A tier fills in what is missing, and nothing else; a frozen file has everything and keeps its meaning in every tier."""
    defaults = configured(tier=tier).traffic
    assert (defaults.timeout_s, defaults.idempotent) == dataclasses.astuple(timeouts.DEFAULTS[tier])  # type: ignore[index]
    assert timeouts.try_s(defaults) == defaults.per_try_timeout_s
    old = {"port": 8080, "timeout_s": 5.0, "per_try_timeout_s": 1.0, "idempotent": True}
    assert configured(tier=tier, traffic=old).traffic.model_dump(include=set(old)) == old
    some = configured(tier=tier, traffic={"port": 8080, "timeout_s": 50.0}).traffic
    assert timeouts.try_s(some) == (30.0 if some.idempotent else 50.0)
    frozen = functools.reduce(lambda value, _: configured(tier=tier, traffic=value.traffic.model_dump()), range(2), configured(tier=tier))
    assert frozen.traffic == defaults


def test_limits_that_contradict_each_other_are_said() -> None:
    """A try that is told and has no effect, a model that may take longer than its request, a warm-up longer than a try; with the remedy."""
    traffic = configured(tier="rag", traffic={"port": 1, "per_try_timeout_s": 15}).traffic
    assert "idempotent: true" in timeouts.notes(traffic)[0]
    pin = {"provider": "openai", "model": "m", "params": {"budget_s": 200.0}}
    assert "timeout_s above it" in timeouts.notes(configured(tier="rag").traffic, pins=[pin])[0]
    assert timeouts.notes(configured(tier="multi-step-agent").traffic, pins=[pin, {**pin, "provider": "extractive"}]) == []
    online = configured().traffic
    assert timeouts.slow(2.9, online, of="its own settings") is None
    assert timeouts.slow(None, online, of="its own settings") is None
    said = timeouts.slow(3.5, online, of="its own settings")
    assert said is not None
    assert "3.5 s, longer than the 3 s of a try" in said
    assert "raise per_try_timeout_s" in said
