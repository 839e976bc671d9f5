"""The worker's HTTP face: strict input, answers that name their bundle, and nothing that one request can break."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pydantic
import pytest
from fastapi.testclient import TestClient
from hypothesis import strategies as st

from lastgood.serving import app, inference_log, runtime, worker
from tests.serving.conftest import Home, Served, wait_ready

FLIGHT = {
    "carrier": "UA", "origin": "EWR", "dest": "IAH", "scheduled_departure": "2013-03-01T05:15:00-05:00", "distance": 1400.0,
    "plane_year": 1999, "seats": 149, "temp": 39.0, "humid": 64.4, "wind_speed": 12.7, "precip": 0.0, "pressure": 1011.9, "visib": 10.0,
}  # fmt: skip
EVER = {"since": 0.0, "until": 4e9}


def post(served: Served, body: Any, *, path: str = "/predict", **headers: str) -> Any:
    """The response to *body*, sent as it is if it is bytes."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return served.client.post(path, content=raw, headers={name.replace("_", "-"): value for name, value in headers.items()})


def logged(served: Served, request_id: str) -> list[dict[str, Any]]:
    """The log's rows of one request, by its own id or the caller's."""
    served.flush()
    table = inference_log.read_predictions(served.folder, **EVER)
    return [row for row in table.to_pylist() if request_id in (row["request_id"], row["caller_id"])]


def test_one_flight_and_several_get_the_same_form_of_answer(served: Served) -> None:
    """A single object and a batch both get a list; the batch's rows are answered in order."""
    one = post(served, FLIGHT)
    other = {**FLIGHT, "dest": "ATL", "scheduled_departure": "2013-03-01T18:00:00-05:00"}
    several = post(served, {"rows": [FLIGHT, other, FLIGHT]})
    assert (one.status_code, several.status_code) == (200, 200)
    first, second, third = several.json()["predictions"]
    assert one.json()["predictions"] == [first] == [third]
    assert first != second
    assert set(first) == {"probability", "late"}


def test_every_answer_names_bundle_model_and_configuration(served: Served) -> None:
    """The digests in the body are those of the bundle in the header, so a mixed answer could be seen."""
    answer = post(served, FLIGHT)
    parts = served.loaded.bundle.parts
    assert answer.headers["x-lastgood-bundle"] == served.loaded.bundle.id == answer.json()["bundle"]
    assert (answer.json()["model"], answer.json()["config"]) == (parts["model"].digest, parts["config"].digest)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/healthz", 200), ("GET", "/readyz", 200), ("GET", "/metrics", 200), ("GET", "/openapi.json", 200), ("GET", "/none", 404),
     ("DELETE", "/predict", 405), ("POST", "/predict", 422), ("GET", "/docs", 404)],
)  # fmt: skip
def test_failures_name_the_bundle_too(method: str, path: str, status: int, served: Served) -> None:
    """Also an answer that is none carries the bundle and a request id."""
    answer = served.client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["x-lastgood-bundle"] == served.loaded.bundle.id
    assert answer.headers["x-request-id"]


def test_the_callers_id_is_echoed_and_a_request_has_one_of_its_own(served: Served) -> None:
    """A usable id of the caller's comes back, a hostile or missing one is replaced; the request's own comes from the proxy, or is made."""
    answer = post(served, FLIGHT, x_request_id="abc-1", x_lastgood_request_id="proxy-1")
    assert (answer.headers["x-request-id"], answer.headers["x-lastgood-request-id"]) == ("abc-1", "proxy-1")
    assert answer.json()["request_id"] == "proxy-1"
    made = [post(served, FLIGHT, x_request_id=bad) for bad in ("x" * 129, "a b", "tab\tid")] + [post(served, FLIGHT)]
    own = {answer.headers["x-lastgood-request-id"] for answer in made}
    assert own == {answer.headers["x-request-id"] for answer in made} == {answer.json()["request_id"] for answer in made}
    assert len(own) == 4
    assert all(len(request_id) == 36 for request_id in own)


def test_feedback_under_an_id_that_several_requests_had_is_refused_with_theirs(served: Served) -> None:
    """Three rows under one trace id: none of them gets the label, the sender is told which they are, and one of those is taken."""
    own = [post(served, FLIGHT, x_request_id="one-trace").json()["request_id"] for _ in range(3)]
    refused = post(served, {"request_id": "one-trace", "late": True}, path="/feedback")
    assert refused.status_code == 409
    assert refused.json()["problems"][0]["request_ids"] == own
    assert "send the request_id of the answer" in refused.json()["error"]
    batch = {"rows": [{"request_id": own[0], "late": True}, {"request_id": "one-trace", "late": True}]}
    assert post(served, batch, path="/feedback").status_code == 409
    assert post(served, {"request_id": own[1], "late": True}, path="/feedback").status_code == 202
    served.flush()
    told = [row["request_id"] for row in inference_log.read_feedback(served.folder).to_pylist()]
    assert (told.count(own[0]), told.count(own[1]), told.count("one-trace")) == (0, 1, 0)
    text = served.client.get("/metrics").text
    assert "lastgood_repeated_caller_ids_total" in text
    assert "lastgood_unclear_feedback_total 2.0" in text
    about = served.client.get("/readyz").json()
    assert (about["repeated_ids"], about["unclear_labels"]) == (2, 2), "so that `status` can say it"


def test_through_the_proxy_only_holders_of_the_token_learn_the_parts(served: Served) -> None:
    """Whoever comes through the proxy is told the bundle; with the token's mark the parts, and what the worker says of itself."""
    public, told = {"x_lastgood_revision": "7"}, {"x_lastgood_revision": "7", "x_lastgood_disclose": "all"}
    assert set(post(served, FLIGHT, **public).json()) == {"request_id", "bundle", "predictions"}
    assert {"model", "config"} < set(post(served, FLIGHT, **told).json())
    for path in ("/metrics", "/readyz"):
        headers = {name.replace("_", "-"): value for name, value in public.items()}
        refused = served.client.get(path, headers=headers)
        assert refused.status_code == 404
        assert "debug token" in refused.json()["error"]
        assert served.client.get(path, headers={**headers, "x-lastgood-disclose": "all"}).status_code == 200
        assert served.client.get(path).status_code == 200  # the owner, past the proxy


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"carrier": None}, "carrier"),
        ({"carrier": ""}, "carrier"),
        ({"carrier": "ua"}, "carrier"),
        ({"carrier": 7}, "carrier"),
        ({"distance": True}, "distance"),
        ({"distance": "1400"}, "distance"),
        ({"distance": None}, "distance"),
        ({"distance": math.nan}, "distance"),
        ({"temp": math.inf}, "temp"),
        ({"temp": -math.inf}, "temp"),
        ({"temp": False}, "temp"),
        ({"temp": 1e300}, "temp"),
        ({"seats": 149.5}, "seats"),
        ({"seats": True}, "seats"),
        ({"seats": 10**30}, "seats"),
        ({"plane_year": [1999]}, "plane_year"),
        ({"scheduled_departure": "2013-03-01T05:15:00"}, "scheduled_departure"),
        ({"scheduled_departure": "yesterday"}, "scheduled_departure"),
        ({"scheduled_departure": 1362132900}, "scheduled_departure"),
        ({"scheduled_departure": "0001-01-01T00:00:00+14:00"}, "scheduled_departure"),
        ({"scheduled_departure": "9999-12-31T23:59:59-12:00"}, "scheduled_departure"),
        ({"arr_delay": 12.0}, "arr_delay"),
    ],
)
def test_a_bad_field_is_refused_by_name(change: Mapping[str, Any], field: str, served: Served) -> None:
    """Wrong type, unknown name, not finite, out of range: 422 naming row and field, alone and in a batch; nothing is logged."""
    bad = {**FLIGHT, **change}
    alone = post(served, bad, x_request_id="refused")
    batch = post(served, {"rows": [FLIGHT, FLIGHT, bad]}, x_request_id="refused")
    assert (alone.status_code, batch.status_code) == (422, 422)
    assert {(problem["row"], problem["field"]) for problem in alone.json()["problems"]} == {(0, field)}
    assert {(problem["row"], problem["field"]) for problem in batch.json()["problems"]} == {(2, field)}
    assert f"row 2, field {field!r}" in batch.json()["error"]
    assert logged(served, "refused") == []


@pytest.mark.parametrize("field", sorted(FLIGHT))
def test_a_missing_field_is_refused_by_name(field: str, served: Served) -> None:
    """Also a field that may be null must be there: silence and "not known" are different things."""
    answer = post(served, {name: value for name, value in FLIGHT.items() if name != field})
    assert answer.status_code == 422
    assert [problem["field"] for problem in answer.json()["problems"]] == [field]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b"7", b'"rows"', b"\xff\xfe", b"{}", b'{"rows": []}', b'{"rows": {}}', b'{"rows": null}', b'{"rows": [1]}',
     b'{"rows": [{}], "more": 1}', b"[" * 100_000, json.dumps([FLIGHT]).encode(), b"\x00", b'{"rows":[' * 500],
)  # fmt: skip
def test_a_body_of_another_form_is_refused(body: bytes, served: Served) -> None:
    """Not JSON, not an object, no rows: 422 with a message, never a failure of ours."""
    answer = post(served, body)
    assert answer.status_code == 422
    assert answer.json()["error"]


def test_a_refusal_does_not_repeat_what_was_sent(served: Served) -> None:
    """Values may be personal, so messages name the field and not its content."""
    answer = post(served, {**FLIGHT, "carrier": "SECRET-VALUE-OF-A-USER"})
    assert answer.status_code == 422
    assert "SECRET" not in answer.text


def test_many_problems_are_cut_short(served: Served) -> None:
    """A batch full of errors gets an answer of bounded length."""
    answer = post(served, {"rows": [{"x" * 500: 1} for _ in range(900)]})
    assert answer.status_code == 422
    assert len(answer.content) < 10_000


def test_too_large_a_body_is_refused_whether_or_not_it_says_so(served: Served) -> None:
    """413 by the declared length, by the length that arrives, and for a length that is no number of this world."""
    limit = served.loaded.service.serving.max_body_bytes
    assert post(served, b" " * (limit + 1)).status_code == 413
    chunked = served.client.post("/predict", content=(b" " * 65_536 for _ in range(limit // 65_536 + 1)))
    assert chunked.status_code == 413
    assert post(served, json.dumps(FLIGHT).encode() + b" " * (limit - 1000)).status_code == 200


def test_too_many_rows_are_refused(served: Served) -> None:
    """The batch limit itself is answered, one more is not."""
    limit = served.loaded.service.serving.max_batch
    small = {**FLIGHT, "scheduled_departure": "2013-03-01T05:15:00Z"}
    assert len(post(served, {"rows": [small] * limit}).json()["predictions"]) == limit
    answer = post(served, {"rows": [small] * (limit + 1)})
    assert answer.status_code == 422
    assert str(limit) in answer.json()["error"]


def test_an_answer_is_logged_with_what_was_asked(served: Served) -> None:
    """Each row is logged with its features by type, probability, arm and bundle."""
    answer = post(served, {"rows": [FLIGHT, {**FLIGHT, "temp": None}]}, x_request_id="logged", x_lastgood_arm="candidate")
    first, second = logged(served, "logged")
    assert (first["row"], second["row"]) == (0, 1)
    assert [first["probability"], second["probability"]] == [one["probability"] for one in answer.json()["predictions"]]
    assert json.loads(first["output"]) == answer.json()["predictions"][0]
    assert (first["feature_temp"], second["feature_temp"]) == (39.0, None)
    assert (first["feature_carrier"], first["feature_seats"]) == ("UA", 149)
    assert first["feature_scheduled_departure"].isoformat() == "2013-03-01T10:15:00+00:00"
    assert (first["arm"], first["shadow"], first["bundle"]) == ("candidate", False, served.loaded.bundle.id)
    assert first["latency_us"] > 0


@pytest.mark.parametrize("host", ["flights-shadow", "127.0.0.1-shadow:8380", "127.0.0.1:8380"])
def test_a_mirrored_request_is_marked(host: str, served: Served) -> None:
    """The proxy's header tells copies from live requests, in the log too; a name that the caller chose tells nothing."""
    assert post(served, FLIGHT, x_request_id=f"live-{host}", host=host).status_code == 200
    assert post(served, FLIGHT, x_request_id=f"copy-{host}", host=host, x_lastgood_shadow="1").status_code == 200
    assert [row["shadow"] for row in logged(served, f"live-{host}")] == [False]
    assert [row["shadow"] for row in logged(served, f"copy-{host}")] == [True]


def test_feedback_meets_its_prediction(served: Served) -> None:
    """A label joins the row it names; sent again or corrected, the last one holds; early labels and unknown ids do no harm."""
    assert post(served, {"request_id": "early", "late": True}, path="/feedback").status_code == 202
    post(served, {"rows": [FLIGHT, FLIGHT]}, x_request_id="joined")
    post(served, FLIGHT, x_request_id="early")
    for outcome in ({"late": True}, {"late": True}, {"late": False}, {"rebooked": 1, "note": "moved"}):
        assert post(served, {"request_id": "joined", "row": 1, **outcome}, path="/feedback").status_code == 202
    assert post(served, {"request_id": "never-asked", "arr_delay_min": 20}, path="/feedback").status_code == 202
    served.flush()
    table = inference_log.labelled(served.folder, **EVER)
    found = {
        (row["caller_id"], row["row"]): row["label"] for row in table.to_pylist() if row["caller_id"] in ("joined", "early", "never-asked")
    }
    assert found == {("joined", 1): 0.0, ("early", 0): 1.0}


def test_feedback_comes_in_batches_too(served: Served) -> None:
    """Several outcomes in one body are all taken, or none if one is wrong."""
    good = {"rows": [{"request_id": "batch", "row": number, "late": False} for number in range(3)]}
    assert post(served, good, path="/feedback").json() == {"accepted": 3}
    bad = {"rows": [{"request_id": "none", "late": False}, {"request_id": "none", "late": "maybe"}]}
    answer = post(served, bad, path="/feedback")
    assert answer.status_code == 422
    assert "row 1" in answer.json()["error"]
    served.flush()
    told = inference_log.read_feedback(served.folder).to_pylist()
    assert [row["row"] for row in told if row["request_id"] == "batch"] == [0, 1, 2]
    assert not [row for row in told if row["request_id"] == "none"]


@pytest.mark.parametrize(
    "body",
    [{}, {"request_id": "a"}, {"request_id": "", "late": True}, {"request_id": "a b", "late": True}, {"request_id": 7, "late": True},
     {"request_id": "a", "row": -1, "late": True}, {"request_id": "a", "row": True, "late": True}, {"request_id": "a", "late": [True]},
     {"request_id": "a", "gain": math.nan}, {"request_id": "a", "gain": math.inf}, {"request_id": "a", "note": "x" * 1001},
     {"request_id": "a", "nested": {"a": 1}}, {"request_id": "a", **{f"k{n}": n for n in range(51)}}, {"request_id": "a", "late": 1},
     {"late": True}],
)  # fmt: skip
def test_wrong_feedback_is_refused(body: Mapping[str, Any], served: Served) -> None:
    """Feedback without an id, without an outcome, or with values that are no scalars gets 422."""
    assert post(served, body, path="/feedback").status_code == 422


def test_quality_is_told_by_bundle_and_side(served: Served) -> None:
    """Brier score and AUC of the labelled rows agree with their definitions."""
    for number, late in enumerate([True, False, False, True, False]):
        row = {
            **FLIGHT,
            "scheduled_departure": f"2013-03-01T{8 + 3 * number:02d}:00:00Z",
            "dest": ["IAH", "ATL", "BOS", "MIA", "ORD"][number],
        }
        post(served, row, x_request_id=f"quality-{number}")
        post(served, {"request_id": f"quality-{number}", "late": late}, path="/feedback")
    served.flush()
    table = inference_log.labelled(served.folder, **EVER)
    mine = [text is not None and text.startswith("quality-") for text in table["caller_id"].to_pylist()]
    rows = table.filter(mine)
    (found,) = inference_log.quality(rows)
    pairs = [(row["probability"], row["label"]) for row in rows.to_pylist()]
    ones, zeros = [p for p, y in pairs if y], [p for p, y in pairs if not y]
    wins = sum((one > zero) + (one == zero) / 2 for one in ones for zero in zeros)
    assert (found["n"], found["bundle"], found["shadow"]) == (5, served.loaded.bundle.id, False)
    assert found["brier"] == pytest.approx(sum((p - y) ** 2 for p, y in pairs) / 5)
    assert found["auc"] == pytest.approx(wins / (len(ones) * len(zeros)))


def test_metrics_count_with_few_labels(served: Served) -> None:
    """Requests, predictions and the log's own counts are there; unknown paths do not add label values."""
    for path in ("/a", "/b", "/c"):
        served.client.get(path)
    post(served, FLIGHT, path="/predict")
    text = served.client.get("/metrics").text
    assert f'lastgood_build_info{{bundle="{served.loaded.bundle.id[7:19]}",service="flights",version="' in text
    assert 'lastgood_requests_total{code="404",route="other"}' in text
    assert '"/a"' not in text
    assert 'lastgood_log_rows_lost_total{log="predictions"} 0.0' in text
    assert 'lastgood_request_seconds_bucket{le="0.005",route="/predict"}' in text
    assert "lastgood_ready 1.0" in text


def test_the_description_is_complete(served: Served) -> None:
    """/openapi.json describes both bodies, and every reference in it resolves."""
    description = served.client.get("/openapi.json").json()
    schemas = description["components"]["schemas"]
    assert set(schemas["Flight"]["required"]) == set(FLIGHT)
    assert schemas["Flight"]["additionalProperties"] is False
    references = [part.split('"')[0] for part in json.dumps(description).split('"$ref": "')[1:]]
    assert references
    assert all(ref.removeprefix("#/components/schemas/") in schemas for ref in references)


class Odd(runtime.Runtime):
    """A runtime that does what it is asked to, however wrong."""

    class Request(pydantic.BaseModel):
        """One row says what to do."""

        model_config = pydantic.ConfigDict(extra="forbid")
        do: str

    warm = ("answer",)

    @classmethod
    def load(cls, parts: Mapping[str, Path], options: Mapping[str, Any]) -> Odd:
        """Nothing to load."""
        return cls()

    def predict(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """Raise, or answer something that is no JSON, or one answer too few."""
        answers = {"answer": 0.5, "nan": math.nan, "object": object()}
        return [{"probability": answers[row.do]} for row in rows if row.do != "few"]

    def warm_up(self) -> list[dict[str, Any]]:
        """What to do first."""
        return [{"do": what} for what in self.warm]


def odd(home: Home, instance: Odd, *, serving: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
    """The application of a real bundle whose runtime is *instance*, with these settings of `serving` changed."""
    found = home.load(home.bundle())
    service = found.service.model_copy(update={"serving": found.service.serving.model_copy(update=serving or {})})
    loaded = app.Loaded(bundle=found.bundle, service=service, runtime=instance, started="now")
    predictions, feedback = worker.logs(home.settings, loaded)
    return app.create(loaded, predictions_log=predictions, feedback_log=feedback, **kwargs)


@pytest.mark.parametrize("what", ["raise", "nan", "object", "few"])
def test_a_row_that_a_runtime_fails_on_is_refused_and_the_worker_lives(what: str, home: Home) -> None:
    """An exception, NaN, an object or a missing answer, while the warm-up is answered: that request is refused, counted, and names the bundle."""
    with TestClient(odd(home, Odd()), raise_server_exceptions=False) as client:
        wait_ready(client)
        failed = client.post("/predict", json={"do": what})
        assert (failed.status_code, failed.headers["x-lastgood-problem"]) == (422, "uncomputable")
        assert failed.headers["x-lastgood-bundle"]
        assert client.post("/predict", json={"do": "answer"}).json()["predictions"] == [{"probability": 0.5}]
        assert 'lastgood_requests_total{code="422",route="/predict"} 1.0' in client.get("/metrics").text


def test_a_worker_that_cannot_warm_up_never_gets_ready(home: Home) -> None:
    """If the warm-up fails the worker says so, stays not ready, and answers no prediction."""

    class Cold(Odd):
        warm = ("raise",)

    gave_up = []
    with TestClient(odd(home, Cold(), on_failed_warm_up=lambda: gave_up.append(True)), raise_server_exceptions=False) as client:
        while not gave_up:
            assert client.get("/readyz").status_code == 503
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert client.post("/predict", json={"do": "answer"}).status_code == 503
        assert client.get("/healthz").status_code == 200


def test_before_the_warm_up_nothing_is_answered(home: Home) -> None:
    """An application whose lifespan has not begun refuses predictions with 503, which a proxy tries elsewhere."""
    client = TestClient(odd(home, Odd()), raise_server_exceptions=False)
    assert client.get("/readyz").status_code == 503
    assert client.post("/predict", json={"do": "answer"}).status_code == 503


def test_a_disk_that_refuses_does_not_fail_a_prediction(home: Home) -> None:
    """With the log's folder blocked, requests are answered, the trouble is in /metrics, and the rows are counted as lost."""
    folder = home.settings.inference("flights")
    folder.parent.mkdir(parents=True)
    folder.write_text("a file where the folder should be")
    found = home.load(home.bundle())
    predictions, feedback = worker.logs(home.settings, found)
    with TestClient(app.create(found, predictions_log=predictions, feedback_log=feedback), raise_server_exceptions=False) as client:
        wait_ready(client)
        for _ in range(20):
            assert client.post("/predict", json=FLIGHT).status_code == 200
        predictions.flush()
        assert 'lastgood_log_rows_waiting{log="predictions"} 20.0' in client.get("/metrics").text
    assert predictions.stats().lost == 20


def test_two_bundles_keep_their_own_code_and_options(home: Home) -> None:
    """Loaded side by side, each answers by its own configuration: the same flight, two clocks, two probabilities."""
    local, utc = (home.load(home.bundle(options={"departure_clock": clock})) for clock in ("local", "utc"))
    assert type(local.runtime) is not type(utc.runtime)
    evening = {**FLIGHT, "scheduled_departure": "2013-03-01T20:15:00-05:00"}
    answers = [loaded.runtime.predict([loaded.runtime.Request.model_validate_json(json.dumps(evening))]) for loaded in (local, utc)]
    assert answers[0] != answers[1]
    assert local.identity()["model"] == utc.identity()["model"]
    assert local.identity()["config"] != utc.identity()["config"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
FIELD = st.sampled_from(sorted(FLIGHT))


@hypothesis.given(
    changes=st.dictionaries(FIELD | st.text(max_size=8), JSON, max_size=4), drop=st.sets(FIELD, max_size=2), rows=st.integers(0, 3)
)
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_any_json_gets_an_answer_or_a_refusal(changes: dict[str, Any], drop: set[str], rows: int, served: Served) -> None:
    """Whatever values, extra names and gaps a flight has: 200 with probabilities, or 422 with a message; never 500."""
    flight = {name: value for name, value in {**FLIGHT, **changes}.items() if name not in drop}
    answer = post(served, flight if rows == 0 else {"rows": [FLIGHT] * (rows - 1) + [flight]})
    assert answer.status_code in (200, 422), answer.text
    if answer.status_code == 200:
        assert all(0 <= one["probability"] <= 1 for one in answer.json()["predictions"])
    else:
        assert answer.json()["error"]


@hypothesis.given(body=st.binary(max_size=200), path=st.sampled_from(["/predict", "/feedback"]))
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_any_bytes_get_a_refusal(body: bytes, path: str, served: Served) -> None:
    """Arbitrary bytes are refused with 422 on both routes."""
    assert post(served, body, path=path).status_code == 422


@hypothesis.given(
    changes=st.dictionaries(st.sampled_from(["request_id", "row", "late", "arr_delay_min"]) | st.text(max_size=8), JSON, max_size=5)
)
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_any_feedback_gets_an_answer_or_a_refusal(changes: dict[str, Any], served: Served) -> None:
    """Feedback of any content is taken or refused, and what was taken can be written."""
    answer = post(served, {"request_id": "fuzz", "late": True, **changes}, path="/feedback")
    assert answer.status_code in (202, 422), answer.text
    served.flush()
    assert served.feedback.stats().lost == 0


def test_a_client_that_leaves_in_the_middle_breaks_nothing(served: Served) -> None:
    """A request whose sender disconnects before its body is whole leaves no log row and no broken worker."""

    messages = [{"type": "http.request", "body": b'{"carrier"', "more_body": True}, {"type": "http.disconnect"}]

    async def leave() -> None:
        async def receive() -> dict[str, Any]:
            return messages.pop(0)

        async def send(_: Any) -> None:
            pass

        scope = {"type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict", "query_string": b"", "headers": [],
                 "http_version": "1.1", "scheme": "http", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "root_path": "",
                 "asgi": {"version": "3.0"}}  # fmt: skip
        await served.client.app(scope, receive, send)

    asyncio.run(leave())
    assert messages == []
    assert post(served, FLIGHT).status_code == 200
