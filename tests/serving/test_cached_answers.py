"""Answers from the cache, through the application: equal rows, copies, faults, and what stands in between."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import pydantic
import pytest
from fastapi.testclient import TestClient

from lastgood.bundle import manifest
from lastgood.layers import answer_store
from lastgood.service import schema
from lastgood.serving import app, feedback, inference_log, runtime, segments, uncomputable


class Row(pydantic.BaseModel):
    """One row."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    x: int


class Counting(runtime.Runtime):
    """Says how many rows it has been asked so far."""

    Request: ClassVar[type[pydantic.BaseModel]] = Row

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.short = False

    @classmethod
    def load(cls, parts: Any, options: Any) -> Counting:
        """Nothing is loaded."""
        return cls()

    def predict(self, rows: Any) -> list[dict[str, Any]]:
        """One number for each row, another one each time."""
        self.asked += [row.x for row in rows]
        return [{"said": row.x, "asked": len(self.asked)} for row in rows[: 0 if self.short else None]]

    def warm_up(self) -> list[dict[str, Any]]:
        """One row that no test asks for."""
        return [{"x": -1}]


@dataclasses.dataclass
class World:
    """A worker behind a client."""

    client: TestClient
    runtime: Counting

    def ask(self, *numbers: int, copy: bool = False) -> list[dict[str, Any]]:
        """The predictions for these rows."""
        said = self.client.post(
            "/predict", json={"rows": [{"x": number} for number in numbers]}, headers={"x-lastgood-shadow": "1"} if copy else {}
        )
        assert said.status_code == 200, said.text
        assert said.headers["cache-control"] == "no-store"
        found: list[dict[str, Any]] = said.json()["predictions"]
        return found


def start(folder: Path, kept: answer_store.Cache | None) -> World:
    """A worker of a bundle, with this cache."""
    part = manifest.Part(name="model", digest=manifest.sha256(b"a"), size=1, media_type="x/y", uri="store:x")
    described = {"schema": schema.SCHEMA, "service": "demo", "tier": "rag", "owner": "nobody", "traffic": {"port": 18085}}
    made = Counting()
    loaded = app.Loaded(
        bundle=manifest.bundle_of("demo", part), service=schema.Service.model_validate(described), runtime=made, started="now"
    )
    limits: dict[str, Any] = {"name": "x", "flush_s": 60, "segment_rows": 100, "keep_days": 1}
    logs = {
        "predictions_log": segments.SegmentLog(folder / "p", to_table=inference_log.table_maker(Row), **limits),
        "feedback_log": segments.SegmentLog(folder / "f", to_table=feedback.to_table, **limits),
    }
    return World(client=TestClient(app.create(loaded, **logs, answers=kept)), runtime=made)


def ready(world: World) -> None:
    """Wait for the warm-up."""
    while world.client.get("/readyz").status_code != 200:
        pass
    world.runtime.asked.clear()


def test_an_equal_row_gets_the_answer_of_before(tmp_path: Path) -> None:
    """The runtime is asked for the others alone, and answers come in the order of the rows."""
    world = start(tmp_path, answer_store.Memory(ttl_s=60, entries=10))
    with world.client:
        ready(world)
        first = world.ask(1, 2)
        assert world.ask(2, 3, 1) == [first[1], {"said": 3, "asked": 3}, first[0]]
        assert world.runtime.asked == [1, 2, 3]
        text = world.client.get("/metrics").text
        assert 'lastgood_cached_rows_total{hit="true"} 2.0' in text
        assert 'lastgood_cached_rows_total{hit="false"} 3.0' in text


def test_a_copy_is_measured_and_neither_reads_nor_fills(tmp_path: Path) -> None:
    """A mirrored request goes to the runtime, and leaves nothing for users."""
    world = start(tmp_path, answer_store.Memory(ttl_s=60, entries=10))
    with world.client:
        ready(world)
        world.ask(1)
        world.ask(1, copy=True)
        world.ask(2, copy=True)
        world.ask(2)
        assert world.runtime.asked == [1, 1, 2, 2]


def test_without_a_cache_every_row_is_asked(tmp_path: Path) -> None:
    """As before there was one."""
    world = start(tmp_path, None)
    with world.client:
        ready(world)
        world.ask(1)
        world.ask(1)
        assert world.runtime.asked == [1, 1]


def test_a_runtime_that_leaves_out_an_answer_is_still_found_out(tmp_path: Path) -> None:
    """And nothing of that is kept."""
    world = start(tmp_path, answer_store.Memory(ttl_s=60, entries=10))
    with world.client:
        ready(world)
        world.ask(1)
        world.runtime.short = True
        with pytest.raises(uncomputable.Failed, match="answers for 2 rows"):
            world.ask(1, 2)
        world.runtime.short = False
        assert world.ask(1, 2)[0]["asked"] == 1
