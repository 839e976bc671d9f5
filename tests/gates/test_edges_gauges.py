"""Figures and events before the first look: nothing is known yet, and nothing is held against anybody."""

from __future__ import annotations

import pytest

from lastgood.gates import gauges
from lastgood.gates.base import Observation, Tally
from lastgood.gates.evaluator import Reading, Setup
from lastgood.service import gates
from tests.gates.paths import START

QUERY = gates.Query(metric="promql", query="queue{arm='$arm'}", margin=5.0, persistence=2)


def test_a_figure_that_nobody_has_asked_for_yet_has_no_reference() -> None:
    """Neither its own nor stable's; the rule has no row."""
    made = gauges.Gauge(QUERY, Setup(mode="compare", alpha=0.0, since=START), limit=None, margin=5.0)
    assert made.read() == Reading(story="no value of promql yet", harm="a window over the threshold", persistence=2)
    assert (made.fails(), made.both()) == (None, False)


@pytest.mark.parametrize("limit", [1, 2])
def test_events_that_nobody_has_looked_for_yet_are_none(limit: int) -> None:
    """Also where a single one fails the gate; one look is what a pass takes."""
    made = gauges.Events(gates.Ejections(metric="ejections", max_ejections=limit), limit=limit, noun="ejections")
    story, harm = f"ejections: 0 in 0 measurements, fails at {limit}", f"{limit} ejections"
    assert made.read() == Reading(story=story, harm=harm, estimate=0.0, reference=float(limit), needs=1)
    assert made.fails() is None


def test_a_look_without_a_count_is_a_look_that_found_nothing() -> None:
    """Whether it counts itself or not."""
    made = gauges.Events(gates.OutOfMemory(metric="oom_kills", min_samples=5), limit=2, noun="kills")
    for watched in (Tally(n=1, value=1.0), Tally(), Tally(n=2)):
        made.take(Observation(at=START, watched=watched), step=0)
    assert (made.read().story, made.read().needs) == ("kills: 0 in 4 measurements, fails at 2", 1)
