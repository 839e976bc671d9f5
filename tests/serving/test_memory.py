"""A row that asks for more memory than there is is refused as one that nobody can compute; only where memory has run out does the worker end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pydantic
import pytest
from fastapi.testclient import TestClient

from lastgood.serving import uncomputable
from tests.serving.conftest import Home, wait_ready
from tests.serving.test_app import Odd, odd

MUCH = 10**12


class Hungry(Odd):
    """Allocates as much as a row says, in each place where a team's code sees it."""

    class Request(pydantic.BaseModel):
        """Numbers of values to make room for."""

        do: str = "answer"
        room: int = 0
        checked_room: int = 0

        @pydantic.field_validator("checked_room")
        @classmethod
        def _checked(cls, value: int) -> int:
            return len([0] * value)

    left = True
    once = False

    def predict(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """An answer for each, if there is memory left."""
        if self.once:
            self.once = False
            raise MemoryError
        return [{"probability": 0.5, "room": len([0] * (row.room if self.left else MUCH))} for row in rows]

    def label(self, outcome: Mapping[str, Any]) -> float | None:
        """The length of a list."""
        return float(len([0] * outcome["room"]))


class Worker:
    """The worker of a hungry bundle, and how often it was told to end."""

    def __init__(self, home: Home) -> None:
        self.runtime = Hungry()
        self.ended: list[bool] = []
        self.client = TestClient(odd(home, self.runtime, on_out_of_memory=lambda: self.ended.append(True)), raise_server_exceptions=False)

    def refused(self, body: Any, row: int, path: str = "/predict") -> None:
        """The row is refused as one that cannot be computed, and nothing else happens."""
        answer = self.client.post(path, json=body)
        assert (answer.status_code, answer.headers.get("x-lastgood-problem")) == (422, "uncomputable"), answer.text
        assert [problem["row"] for problem in answer.json()["problems"]] == [row]
        assert "; correct the row, or the code" in answer.json()["error"]
        assert self.client.post("/predict", json={"do": "answer"}).status_code == 200
        assert self.ended == []


@pytest.fixture
def hungry(home: Home) -> Iterator[Worker]:
    """One that is ready."""
    made = Worker(home)
    with made.client:
        wait_ready(made.client)
        yield made


def test_a_row_that_asks_for_too_much_is_refused_alone(hungry: Worker) -> None:
    """By itself and in a batch, when it is computed and when it is checked, and as feedback; again and again."""
    for _ in range(3):
        hungry.refused({"room": MUCH}, 0)
        hungry.refused({"rows": [{}, {}, {"room": MUCH}, {}]}, 2)
        hungry.refused({"checked_room": MUCH}, 0)
        hungry.refused({"rows": [{}, {"checked_room": MUCH}]}, 1)
        hungry.refused({"rows": [{"request_id": "a", "room": 1}, {"request_id": "b", "room": MUCH}]}, 1, "/feedback")
    assert 'lastgood_refused_rows_total{kind="uncomputable"} 15.0' in hungry.client.get("/metrics").text


def test_where_memory_has_run_out_for_all_the_worker_ends(hungry: Worker) -> None:
    """Its own warm-up rows get none either: 500 for the request, and the process is told to begin afresh."""
    hungry.runtime.left = False
    answer = hungry.client.post("/predict", json={})
    assert answer.status_code == 500
    assert answer.headers["x-lastgood-bundle"]
    assert "x-lastgood-problem" not in answer.headers
    assert hungry.ended == [True]


@pytest.mark.parametrize(("path", "body"), [("/predict", {"checked_room": MUCH}), ("/feedback", {"request_id": "a", "room": MUCH})])
def test_so_it_does_if_a_row_is_not_yet_computed(hungry: Worker, path: str, body: dict[str, Any]) -> None:
    """When it is checked, or a label is made."""
    hungry.runtime.left = False
    assert hungry.client.post(path, json=body).status_code == 500
    assert hungry.ended == [True]


def test_memory_that_was_short_for_a_moment_ends_nobody(hungry: Worker) -> None:
    """The row can be computed a moment later, so nobody is to blame, and the process has memory: 500, once."""
    hungry.runtime.once = True
    answer = hungry.client.post("/predict", json={})
    assert (answer.status_code, "x-lastgood-problem" in answer.headers) == (500, False)
    assert hungry.client.post("/predict", json={}).status_code == 200
    assert hungry.ended == []


def test_a_bundle_that_is_broken_in_another_way_does_not_end_for_memory(hungry: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its warm-up rows fail, but not for want of memory: that is a failure, and no kill."""
    monkeypatch.setattr(Hungry, "warm", ("raise",))
    monkeypatch.setattr(Hungry, "warm_up", lambda _: [{"do": 5}])
    assert hungry.client.post("/predict", json={"room": MUCH}).status_code == 500
    assert hungry.ended == []


def test_wellness_knows_why_it_is_not_well() -> None:
    """For want of memory, or otherwise; and that it is well again."""
    outcomes: list[BaseException | None] = [MemoryError(), ValueError(), None]
    now = [0.0]

    def ask() -> None:
        found = outcomes.pop(0)
        if found is not None:
            raise found

    wellness = uncomputable.Wellness(ask, clock=lambda: now[0])
    told = []
    for _ in range(3):
        told.append((wellness.well(), wellness.out_of_memory))
        now[0] += uncomputable.PAUSE_S + 1
    assert told == [(False, True), (False, False), (True, False)]
