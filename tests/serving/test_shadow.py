"""What a mirrored copy must not do, and how a worker ends that runs out of memory."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from lastgood.service import schema
from lastgood.serving import feedback as feedback_
from lastgood.serving import runtime, uncomputable, worker
from tests.services import samples
from tests.serving.conftest import Home, Served, wait_ready
from tests.serving.test_app import FLIGHT, Odd, odd, post
from tests.serving.test_worker import Process, start

__all__ = ["start"]

COPY = {"x-lastgood-shadow": "1"}


class Asking(Odd):
    """A runtime that says whether it believes to be in shadow, from several threads at once."""

    concurrency = 4

    def __init__(self) -> None:
        self.believed: list[bool] = []
        self.meeting = threading.Barrier(2, timeout=20)

    def predict(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """Two requests are inside at the same time."""
        self.believed.append(runtime.in_shadow())
        if rows[0].do == "meet":
            self.meeting.wait()
        return [{"shadow": runtime.in_shadow()} for _ in rows]


def test_code_is_told_that_it_answers_a_copy(home: Home) -> None:
    """A copy and a live request at the same moment, in two threads: each knows what it is; so does the warm-up, which nobody gets."""
    asking = Asking()
    with TestClient(odd(home, asking), base_url="http://127.0.0.1") as client:
        wait_ready(client)
        assert asking.believed == [True]
        answers: dict[str, Any] = {}

        def ask(name: str, headers: dict[str, str]) -> None:
            answers[name] = client.post("/predict", json={"do": "meet"}, headers=headers).json()["predictions"][0]["shadow"]

        asked = (("copy", COPY), ("live", {"host": "127.0.0.1-shadow:8380"}))
        threads = [threading.Thread(target=ask, args=one) for one in asked]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == {"copy": True, "live": False}
        for _ in range(8):
            assert client.post("/predict", json={"do": "x"}).json()["predictions"] == [{"shadow": False}]


def test_outside_of_a_copy_nothing_is_in_shadow() -> None:
    """The mark ends with the block, also if the code in it fails."""

    def fails() -> None:
        with runtime.shadow(on=True):
            assert runtime.in_shadow()
            raise ValueError("x")

    assert not runtime.in_shadow()
    with pytest.raises(ValueError, match="x"):
        fails()
    assert not runtime.in_shadow()


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/feedback"), ("GET", "/readyz"), ("GET", "/metrics"), ("POST", "/nothing"), ("POST", "/predict/")]
)
def test_a_copy_of_anything_else_is_refused(method: str, path: str, served: Served) -> None:
    """A proxy that mirrors feedback would count every outcome twice: 403, and nothing is written."""
    before = served.feedback.stats()
    body = {"request_id": "x", "arr_delay_min": 1.0}
    answer = served.client.request(method, path, json=body if method == "POST" else None, headers=COPY)
    assert answer.status_code == 403
    assert "must not be mirrored" in answer.json()["error"]
    assert answer.headers["x-lastgood-bundle"] == served.loaded.bundle.id
    assert served.feedback.stats() == before
    assert feedback_.Feedback.model_validate(body)
    assert post(served, FLIGHT, x_lastgood_shadow="1").status_code == 200


class Hungry(Odd):
    """A runtime that asks for more memory than there is."""

    def predict(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """An allocation that no machine grants."""
        if rows[0].do == "much":
            bytearray(1 << 62)
        return [{"probability": 0.5} for _ in rows]


def test_a_warm_up_without_memory_is_told_as_that(home: Home) -> None:
    """It never gets ready, and that is a kill for want of memory, not a failed warm-up."""

    class Cold(Hungry):
        warm = ("much",)

    told: list[str] = []
    kwargs = {"on_out_of_memory": lambda: told.append("memory"), "on_failed_warm_up": lambda: told.append("warm-up")}
    with TestClient(odd(home, Cold(), **kwargs), raise_server_exceptions=False) as client:
        while not told:
            assert client.get("/readyz").status_code == 503
    assert told == ["memory"]


def config(folder: Path, code: str) -> Path:
    """The configuration of the flights service with *code* at the end of its runtime."""
    made = schema.freeze(samples.PROJECT / "services" / "flights", folder)
    with (made / "runtime.py").open("a") as file:
        file.write(code)
    return made


@pytest.mark.timeout(300)
def test_the_process_ends_with_a_status_of_its_own(home: Home, start: Any, tmp_path: Path) -> None:
    """One row that asks for too much is refused and the worker stays; memory that no row gets any more is 500, then it ends with 137 and has written its log."""
    made = home.bundle(
        replace={
            "config": config(
                tmp_path / "config",
                "\n\n_answer = Runtime.predict\n_LEFT = [True]\n\n\ndef _hungry(self, rows):\n"
                "    if rows[0].dest == 'YYY':\n        _LEFT.clear()\n"
                "    much = rows[0].dest == 'ZZZ' or not _LEFT\n"
                "    return bytearray(1 << 62) if much else _answer(self, rows)\n\n\nRuntime.predict = _hungry\n",
            )
        }
    )
    process: Process = start(made.id).wait_ready()
    assert process.ask("POST", "/predict", {**FLIGHT, "dest": "ZZZ"})[0] == 422
    assert process.ask("POST", "/predict", FLIGHT)[0] == 200
    time.sleep(uncomputable.PAUSE_S)  # what the warm-up rows said is believed so long
    with pytest.raises(json.JSONDecodeError, match="Expecting value"):  # Starlette's plain text for an error that nobody handles
        process.ask("POST", "/predict", {**FLIGHT, "dest": "YYY"})
    assert process.child.wait(timeout=60) == worker.OUT_OF_MEMORY == 137


@pytest.mark.timeout(300)
def test_a_bundle_that_does_not_fit_into_memory_ends_so_too(home: Home, start: Any, tmp_path: Path) -> None:
    """Out of memory while the code is loaded: not a damaged bundle, but 137."""
    made = home.bundle(replace={"config": config(tmp_path / "config", "\nbytearray(1 << 62)\n")})
    assert start(made.id).child.wait(timeout=100) == 137
