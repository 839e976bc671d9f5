"""Whatever a stranger sends: the answer is 200 or 4xx, the others' rows are in the log, and whoever reads the log can go on."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pydantic
import pytest
from fastapi.testclient import TestClient
from hypothesis import strategies as st

from lastgood.drift import bundle_comparison as drift_compare
from lastgood.drift import bundle_reference as drift_reference
from lastgood.drift import comparison, verdict
from lastgood.drift import watch as drift_watch
from lastgood.drift import window as drift_window
from lastgood.service import drift as drift_rules
from lastgood.service import gates
from lastgood.serving import app, border, inference_log, runtime, segments, worker
from lastgood.sources import inference
from tests.serving import hostile
from tests.serving.conftest import Home, wait_ready
from tests.sources.looking import Looker

EVER = {"since": 0.0, "until": 4e9}
NEAR = {"f": 0.25, "i": 4}
RULES = drift_rules.Drift.model_validate({"decide": {"min_rows": 2, "cluster_s": 1}})


@dataclasses.dataclass(kw_only=True)
class Border:
    """A service behind its real application and its logs on disk, with a clock that goes on by a second for each request."""

    client: TestClient
    loaded: app.Loaded
    logs: tuple[segments.SegmentLog, segments.SegmentLog]
    home: Home
    at: list[float] = dataclasses.field(default_factory=lambda: [1_700_000_000.0])
    sent: int = 0

    def post(self, body: str | bytes, path: str = "/predict", **headers: str) -> Any:
        """The response to *body* as it stands."""
        raw = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(path, content=raw, headers={"content-type": "application/json", **named})

    def neighbour(self) -> None:
        """Somebody else's request and what came of it."""
        self.at[0] += 1
        self.sent += 1
        assert self.post(json.dumps(NEAR), x_request_id=f"near-{self.sent}").status_code == 200
        told = {"request_id": f"near-{self.sent}", "clicks": 1, "shown": 2}
        assert self.post(json.dumps(told), "/feedback").status_code == 202

    def flush(self) -> None:
        """Everything is on disk, and nothing was lost."""
        for log in self.logs:
            log.flush()
            assert (log.stats().lost, log.stats().waiting, log.stats().failures) == (0, 0, 0)


def at_border(
    home: Home, instance: runtime.Runtime, **kwargs: Any
) -> tuple[Any, app.Loaded, tuple[segments.SegmentLog, segments.SegmentLog]]:
    """The application of a bundle whose runtime is *instance*, its description, and its logs."""
    found = home.load(home.bundle())
    loaded = app.Loaded(bundle=found.bundle, service=found.service, runtime=instance, started="now")
    logs = worker.logs(home.settings, loaded)
    return app.create(loaded, predictions_log=logs[0], feedback_log=logs[1], **kwargs), loaded, logs


@pytest.fixture(params=[hostile.Runtime, hostile.StrictRuntime])
def served(home: Home, request: pytest.FixtureRequest) -> Iterator[Border]:
    """The hostile service, lax and strict."""
    at = [1_700_000_000.0]
    application, loaded, logs = at_border(home, request.param(), clock=lambda: at[0])
    with TestClient(application, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        wait_ready(client)
        yield Border(client=client, loaded=loaded, logs=logs, home=home, at=at)


def source(served: Border, gate: dict[str, Any], *, beside: str | None = None) -> list[Any]:
    """All that a gate sees of the log; it is never down."""
    made = gates.Score if gate["metric"] == "score" else gates.Agreement
    looker = Looker(inference.InferenceSource(served.home.settings, "flights"), made.model_validate(gate), served.loaded.bundle.id, beside)
    looker.look(1_700_000_000.0)
    seen = looker.look(served.at[0] + 3e6)
    assert not [one for one in seen if one.down], seen
    return seen


def every_reader_works(served: Border) -> None:
    """Gates, drift windows, reading rows back, comparing two bundles: none raises, none is down, none misses a neighbour."""
    folder = served.home.settings.inference("flights")
    bundle = served.loaded.bundle.id
    for score in ("brier", "log_loss", "outcome.clicks", "outcome.note", "output.figure", "output.sum"):
        better = {"better": "lower"} if "." in score else {}
        seen = source(served, {"metric": "score", "score": score, "margin": 0.1, "block_s": 1e6, **better})
        if score in ("brier", "outcome.clicks", "output.figure"):
            (one,) = seen
            assert one.watched is not None
            assert one.watched.n >= served.sent
            assert math.isfinite(one.watched.total)
            assert "could not be read" not in one.detail
    source(served, {"metric": "agreement", "min": 0.9}, beside=bundle)
    fields = [*served.loaded.runtime.Request.model_fields, "probability", "label"]
    window = drift_window.read(folder, bundle=bundle, since=0.0, until=4e9, columns=fields)
    assert window.table is not None
    assert window.trouble == ()
    verdict.of_window(window.sample, window.sample, None, RULES)
    rows = inference_log.requests(window.table, served.loaded.runtime.Request)
    assert None not in rows, "a row was accepted that cannot be read back"
    near = [row for row in rows if row is not None and row.model_dump(exclude_unset=False) == type(row)(**NEAR).model_dump()]
    assert len(near) >= served.sent
    drift_reference.features(served.loaded, rows)
    what = drift_watch.DriftWatch(service="flights", bundle=bundle, since=0.0, revision=1, rules=RULES)
    both = {bundle: served.loaded}
    compared = drift_compare.on_labels(both, window.table, what, other=bundle, alpha=0.05)
    assert isinstance(compared, comparison.Comparison), compared
    assert compared.rows >= served.sent
    by_time = dataclasses.replace(what, rules=RULES.model_copy(update={"time": "aware"}))
    kept = window.table.filter(window.table["feature_aware"].is_valid())
    assert len(drift_compare._moments(kept, by_time.rules.time)) == kept.num_rows
    joined = inference_log.labelled(folder, **EVER)
    assert joined.num_rows >= served.sent
    inference_log.quality(joined)


@pytest.mark.timeout(600)
def test_nothing_that_a_stranger_sends_breaks_anything_for_anybody(served: Border) -> None:
    """Hostile values in every field, alone and in a batch, and as feedback: 200 or 4xx, the neighbours' rows are all there, every reader works.

    A batch is answered whole or not at all, and who is to blame is named.
    """

    @hypothesis.given(pairs=hostile.PAIRS, outcomes=hostile.OUTCOMES, batch=st.booleans())
    @hypothesis.settings(max_examples=200, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
    def attack(pairs: list[tuple[str, str]], outcomes: list[tuple[str, str]], batch: bool) -> None:
        served.at[0] += 1
        row = hostile.text(pairs)
        answer = served.post(f'{{"rows": [{json.dumps(NEAR)}, {row}, {json.dumps(NEAR)}]}}' if batch else row)
        assert answer.status_code == 200 or 400 <= answer.status_code < 500, (row, answer.text)
        if answer.status_code != 200:
            assert answer.json()["error"]
            assert {problem["row"] for problem in answer.json().get("problems", ())} <= {1 if batch else 0, None}, (row, answer.text)
        told = hostile.text([("request_id", '"strange"'), *outcomes])
        answer = served.post(told, "/feedback")
        assert answer.status_code == 202 or 400 <= answer.status_code < 500, (told, answer.text)

    served.neighbour()
    attack()
    served.neighbour()
    # Each of the known ones too, in each field: chance may leave some out.
    for text in hostile.TEXTS:
        served.at[0] += 1
        for field in hostile.FIELDS:
            answer = served.post(hostile.text([(field, text)]))
            assert answer.status_code == 200 or 400 <= answer.status_code < 500, (field, text[:80], answer.text)
        for field in ("label", "clicks", "note"):
            answer = served.post(hostile.text([("request_id", '"strange"'), (field, text), ("shown", "0")]), "/feedback")
            assert answer.status_code == 202 or 400 <= answer.status_code < 500, (field, text[:80], answer.text)
        served.neighbour()
    served.flush()
    every_reader_works(served)


NOWHERE = [
    ("NaN", "number"), ("1e999", "number"), ("[[-Infinity]]", "number"), (str(2**63), "number"), ("9" * 5000, "number"),
    ('{"a": 1, "a": 1}', "duplicate"), ('"\\ud800"', "text"), ('{"\\u0000": 1}', "text"), ("[" * 100 + "]" * 100, "nesting"),
]  # fmt: skip
"""What no field may hold, and as what it is counted."""


def test_what_no_field_may_hold_is_refused_before_the_model_sees_it(served: Border) -> None:
    """Also where the model would take it, and nowhere is the value repeated; the row is named, and it is counted by kind."""
    fields = ["f", "i", "s", "many", "exact", "inner", "anything", "Aliased", "nosuch"]
    for text, kind in NOWHERE:
        for field in fields:
            answer = served.post(f'{{"rows": [{{}}, {{"{field}": {text}}}]}}')
            assert (answer.status_code, answer.json()["problems"][0]["row"]) == (422, 1), (kind, field)
            assert answer.json()["problems"][0]["field"].startswith(field)
            assert "999999" not in answer.text
    metrics = served.client.get("/metrics").text
    for kind in {kind for _, kind in NOWHERE}:
        count = len(fields) * sum(one == kind for _, one in NOWHERE)
        assert f'lastgood_refused_rows_total{{kind="{kind}"}} {count:.1f}' in metrics


MADE = [
    ("f", '"nan"'), ("f", '"1e999"'), ("f", '" -Infinity"'), ("many", '[1, "inf"]'), ("numbered", '{"nan": 1}'), ("numbered", '{"1": "nan"}'),
    ("inner", '{"n": "\\u006ean"}'), ("inners", '[{"n": 1}, {"n": "inf"}]'), ("Aliased", '"nan"'), ("i", '"9223372036854775808"'),
    ("table", '{"a": "9223372036854775808"}'), ("exact", '"1e999999"'), ("exact", '"NaN"'), ("some", '["nan"]'),
    ("moment", '"9999-12-31T23:59:59-12:00"'), ("aware", '"0001-01-01T00:00:00+14:00"'),
]  # fmt: skip
"""What a model that is not strict would make a number or a time of that nobody can reckon with."""


@pytest.mark.parametrize("served", [hostile.Runtime], indirect=True)
def test_what_a_model_would_make_of_text_is_refused_too(served: Border) -> None:
    """Numbers that are none, written as text, at any depth and under an alias, and times that the log could not give back."""
    for field, text in MADE:
        assert served.post(hostile.text([(field, text)])).status_code == 422, (field, text)
        assert served.post(hostile.text([(field, "null")])).status_code == 200, field


@pytest.mark.parametrize("served", [hostile.Runtime], indirect=True)
def test_what_is_kept_is_read_back_as_it_was(served: Border) -> None:
    """A value of each type, with the offset that it had, or without one; and the edges of what is taken."""
    sent = [
        {"moment": "2020-01-01T00:00:00"}, {"moment": "2020-01-01T00:00:00+05:30"}, {"aware": "9999-12-31T23:59:59.999999Z"}, {"moment": "0001-01-01T00:00:00"},
        {"naive": "9999-12-31T00:00:00"}, {"day": "0001-01-01"}, {"clock": "23:59:59.5"}, {"span": "-P3DT4H"}, {"exact": "1.50"}, {"key": "00000000-0000-0000-0000-000000000001"},
        {"colour": "blue"}, {"word": "b"}, {"many": [1, 2.5]}, {"table": {"a": 2**63 - 1}}, {"pair": [1, "x"]}, {"some": [1.5]}, {"inner": {"n": 1, "tags": [3]}},
        {"either": "7"}, {"raw": "é"}, {"secret": "AAECAwT/"}, {"anything": {"a": [None, True]}}, {"Aliased": 2.0}, {"s": '"red"'}, {"i": -(2**63)}, {"checked": 5},
    ]  # fmt: skip
    for number, row in enumerate(sent):
        answer = served.post(json.dumps(row), x_request_id=f"r{number}")
        assert answer.status_code == 200, (row, answer.text)
        served.at[0] += 1
    served.flush()
    table = inference_log.read_predictions(served.home.settings.inference("flights"), **EVER)
    asked = [hostile.Row.model_validate_json(json.dumps(row)) for row in sent]
    found = inference_log.requests(table, hostile.Row)
    assert [(one, one.moment and one.moment.tzinfo is None) for one in found[:-1] if one] == [
        (one, one.moment and one.moment.tzinfo is None) for one in asked[:-1]
    ]


def test_rows_that_no_code_can_compute_are_the_senders_affair(served: Border) -> None:
    """The row is named, the others of the batch would have been answered, and the code is not asked without end."""
    asked: list[int] = []
    instance, original = served.loaded.runtime, type(served.loaded.runtime).predict
    instance.predict = lambda rows: (asked.append(len(rows)), original(instance, rows))[1]  # type: ignore[method-assign]
    bad = {"s": "object"}
    rows = [NEAR] * 700 + [bad] + [NEAR] * 299
    answer = served.post(json.dumps({"rows": rows}))
    assert (answer.status_code, answer.headers["x-lastgood-problem"]) == (422, "uncomputable")
    assert [problem["row"] for problem in answer.json()["problems"]] == [700]
    assert sum(asked) < 3 * len(rows), "looked for by halves"
    asked.clear()
    for _ in range(50):
        assert served.post(json.dumps(bad)).headers["x-lastgood-problem"] == "uncomputable"
    assert asked.count(2) <= 2 + 50 // 3, "the two warm-up rows are asked at a bounded rate"
    assert 'lastgood_refused_rows_total{kind="uncomputable"} 51.0' in served.client.get("/metrics").text
    assert served.post(json.dumps(NEAR)).status_code == 200


class Broken(hostile.Runtime):
    """Answers until it is broken, by its own doing."""

    broken = ""
    calls = 0

    def predict(self, rows: Any) -> list[dict[str, Any]]:
        """All or every second call fails."""
        self.calls += 1
        if self.broken == "always" or (self.broken == "now and then" and self.calls % 2):
            raise RuntimeError("not the sender's fault")
        return super().predict(rows)


@pytest.mark.parametrize("how", ["always", "now and then"])
def test_a_bundle_that_is_broken_is_no_affair_of_the_senders(how: str, home: Home) -> None:
    """Whether it cannot even answer its own warm-up rows, or answers the same row a moment later: 500, without the mark."""
    instance = Broken()
    application, _, _ = at_border(home, instance)
    with TestClient(application, raise_server_exceptions=False) as client:
        wait_ready(client)
        instance.broken, instance.calls = how, 0
        answer = client.post("/predict", json=NEAR)
        assert answer.status_code == 500
        assert "x-lastgood-problem" not in answer.headers


class Unreadable(pydantic.BaseModel):
    """A model that does not take what it gives: its rows were never readable, and it is served as it always was."""

    span: list[float]

    @pydantic.field_validator("span", mode="before")
    @classmethod
    def _once(cls, value: Any) -> Any:
        if len(value) != 2:
            raise ValueError("a pair")
        return [value[0], value[1], 0.0]


def test_a_service_whose_rows_were_never_readable_is_served_on(home: Home) -> None:
    """What its own warm-up rows cannot do is not asked of any row."""

    class Odd(hostile.Runtime):
        Request = Unreadable

        def predict(self, rows: Any) -> list[dict[str, Any]]:
            return [{"probability": 0.5} for _ in rows]

        def warm_up(self) -> list[dict[str, Any]]:
            return [{"span": [1, 2]}]

    application, _, _ = at_border(home, Odd())
    with TestClient(application, raise_server_exceptions=False) as client:
        wait_ready(client)
        assert client.post("/predict", json={"span": [3, 4]}).status_code == 200


OTHER_KINDS: list[tuple[dict[str, str], bytes, int, str]] = [
    ({"content-encoding": "gzip"}, gzip.compress(b"{}"), 415, "content-encoding"),
    ({"content-encoding": "br"}, b"{}", 415, "content-encoding"),
    ({"content-encoding": "gzip, identity"}, b"{}", 415, "content-encoding"),
    ({"content-type": "application/json; charset=utf-16"}, "{}".encode("utf-16"), 415, "UTF-8"),
    ({"content-type": 'application/json;charset="latin1"'}, b"{}", 415, "UTF-8"),
    ({"content-type": "application/x-www-form-urlencoded"}, b"f=1&i=2", 415, "application/json"),
    ({"content-type": "multipart/form-data; boundary=x"}, b"--x\r\n\r\n1\r\n--x--", 415, "application/json"),
    ({"content-type": "application/octet-stream"}, b"\x93\x01", 415, "application/json"),
    ({"content-type": "application/json"}, b"", 422, "empty"),
    ({"content-type": "text/plain"}, b" \n", 422, "empty"),
    ({"content-type": "application/json"}, gzip.compress(b"{}"), 422, "compressed"),
    ({"accept": "text/event-stream"}, b"{}", 406, "application/json"),
    ({"accept": "text/event-stream, text/html;q=0.5"}, b"{}", 406, "application/json"),
    ({"accept": "text/event-stream, application/json;q=0"}, b"{}", 406, "application/json"),
]


@pytest.mark.parametrize("served", [hostile.Runtime], indirect=True)
def test_a_body_or_an_answer_of_another_kind_is_refused_with_the_remedy(served: Border) -> None:
    """Compressed, another charset, a form, nothing at all, a stream as an answer; on both routes."""
    for headers, body, status, remedy in OTHER_KINDS:
        for path in ("/predict", "/feedback"):
            answer = served.client.post(path, content=body, headers=headers)
            assert (answer.status_code, remedy in answer.json()["error"]) == (status, True), (headers, answer.text)
            assert (answer.headers.get("accept-encoding") == "identity") == ("content-encoding" in headers)


@pytest.mark.parametrize("served", [hostile.Runtime], indirect=True)
def test_what_was_always_taken_is_taken(served: Border) -> None:
    """JSON is JSON, whatever it is called: what `curl -d` says it sends is a form."""
    for headers in (
        {}, {"content-type": "application/json"}, {"content-type": "application/json; charset=UTF-8"}, {"content-type": "application/vnd.x+json"},
        {"content-type": "application/x-www-form-urlencoded"}, {"content-encoding": "identity"}, {"accept": "text/event-stream, */*"},
        {"accept": "application/json, text/event-stream"}, {"accept": "text/html"}, {"accept": ""},
    ):  # fmt: skip
        assert served.client.post("/predict", content=json.dumps(NEAR).encode(), headers=headers).status_code == 200, headers


def test_the_head_is_looked_at_before_the_body_is_read(served: Border) -> None:
    """A bomb is refused without being unpacked: whatever is in it, it costs its own length at most."""
    bomb = gzip.compress(b" " * 20_000_000)
    answer = served.client.post("/predict", content=bomb, headers={"content-encoding": "gzip"})
    assert answer.status_code == 415


def test_every_kind_of_refusal_is_known_to_the_metrics() -> None:
    """A kind that is not in the list would be a label that nobody knows."""
    source_text = "".join(Path(module.__file__ or "").read_text("utf-8") for module in (app, border))
    used = {part.partition('"')[0] for part in source_text.split('kind="')[1:]} | {"number", "duplicate", "text", "nesting"}
    assert used <= set(border.KINDS)
