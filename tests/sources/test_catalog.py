"""Which source is asked for which gate, and that none of them can hurt the loop."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lastgood.gates.base import Observation, Tally
from lastgood.service import gates
from lastgood.settings import Settings
from lastgood.sources import base, catalog
from tests.layers.traffic.world import A, B

GATES: list[tuple[str, dict[str, Any]]] = [
    ("envoy", {"metric": "error_rate"}),
    ("envoy", {"metric": "latency_p99", "max_ms": 100}),
    ("envoy", {"metric": "sample_ratio"}),
    ("envoy", {"metric": "ejections"}),
    ("inference", {"metric": "score", "score": "brier", "margin": 0.1}),
    ("inference", {"metric": "agreement", "min": 0.9}),
    ("workers", {"metric": "oom_kills"}),
    ("probe", {"metric": "downstream", "url": "http://127.0.0.1:1/"}),
    ("prometheus", {"metric": "downstream", "query": "up"}),
    ("prometheus", {"metric": "promql", "query": "up", "max": 1}),
]
KINDS = {"error_rate": gates.ErrorRate, "latency_p99": gates.LatencyP99, "sample_ratio": gates.SampleRatio,
         "ejections": gates.Ejections, "score": gates.Score, "agreement": gates.Agreement,
         "oom_kills": gates.OutOfMemory, "downstream": gates.Downstream, "promql": gates.Query}  # fmt: skip


def asked(value: dict[str, Any]) -> base.MeasurementRequest:
    """A question for the gate that *value* describes."""
    return base.MeasurementRequest(gate=KINDS[value["metric"]].model_validate(value), watched=B.id, beside=A.id)


class Fake(base.Source):
    """Answers with its own name, or breaks."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.fault: Exception | None = None
        self.closed = False

    def read(self, asked: base.MeasurementRequest, *, now: float, cursor: base.Cursor | None) -> base.SourceReading:
        if self.fault:
            raise self.fault
        return base.SourceReading(observations=[Observation(at=now, watched=Tally(n=1), detail=self.name)], cursor={"seen": now})

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An empty home."""
    return Settings(project=tmp_path, home=tmp_path / "home")


@pytest.mark.parametrize(("kind", "value"), GATES)
def test_every_gate_has_a_source(settings: Settings, kind: str, value: dict[str, Any]) -> None:
    """The right one is asked; it and the others are closed together."""
    fakes = {name: Fake(name) for name in ("envoy", "inference", "workers", "probe", "prometheus")}
    sources = catalog.Sources(settings, "echo", more=dict(fakes))
    assert sources.read("g", asked(value), now=1.0, cursor=None).observations[0].detail == kind
    sources.close()
    assert all(fake.closed for fake in fakes.values())


@pytest.mark.parametrize(("kind", "value"), GATES)
def test_the_real_ones_answer_on_an_empty_home(settings: Settings, kind: str, value: dict[str, Any]) -> None:
    """Nothing was ever started here: each source says so, or has nothing to tell, and none raises or reports a fault."""
    sources = catalog.Sources(settings, "echo")
    answer = sources.read("g", asked(value), now=1.0, cursor=None)
    for seen in answer.observations:
        assert "fault" not in seen.detail
        assert seen.down or kind == "probe"
    assert dict(sources.read("g", asked(value), now=2.0, cursor=answer.cursor).cursor) == dict(answer.cursor)
    sources.close()


def test_a_fault_of_a_source_is_down_and_told_once(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """An exception that nobody thought of costs one gate its answer: the cursor stays, the log says it once, not every second."""
    fake = Fake("envoy")
    fake.fault = ZeroDivisionError("oops")
    sources = catalog.Sources(settings, "echo", more={"envoy": fake})
    with caplog.at_level(logging.ERROR):
        for now in (1.0, 2.0):
            answer = sources.read("errors", asked({"metric": "error_rate"}), now=now, cursor={"old": 1})
            assert answer.observations[0].down
            assert "ZeroDivisionError('oops')" in answer.observations[0].detail
            assert answer.cursor == {"old": 1}
    assert [record.message for record in caplog.records] == ["echo: the source of gate 'errors' failed unexpectedly"]
    fake.fault = None
    assert not sources.read("errors", asked({"metric": "error_rate"}), now=3.0, cursor=None).observations[0].down


def test_the_catalog_loads_nothing_heavy() -> None:
    """The controller imports it at its start; a source's libraries are loaded when it is asked first."""
    code = (
        "import sys; from lastgood.sources import catalog; "
        "print([name for name in ('pyarrow', 'numpy', 'http.client', 'lastgood.serving.segments', "
        "'lastgood.layers.traffic.envoy.stats') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
