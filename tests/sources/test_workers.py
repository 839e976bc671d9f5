"""Kills for want of memory, from the infrastructure layer's facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lastgood.layers import base as layers
from lastgood.service import gates
from lastgood.sources import oom_kills as workers
from tests.layers.traffic.world import A, B
from tests.sources.looking import Looker

GATE = gates.OutOfMemory(metric="oom_kills")


class Facts(layers.Layer):
    """A layer that says what it is told to say."""

    name = "infrastructure"

    def __init__(self) -> None:
        self.facts: Mapping[str, Any] | None = {}
        self.looks = 0
        self.closed = False

    def observe(self) -> layers.Observed:
        self.looks += 1
        if self.facts is None:
            raise layers.LayerError("cannot read the notes; check the disk")
        return layers.Observed(revision=1, facts=self.facts)

    def apply(self, desired: layers.Desired) -> None:
        raise NotImplementedError

    def verify(self, desired: layers.Desired, observed: layers.Observed) -> bool | None:
        raise NotImplementedError

    def close(self) -> None:
        self.closed = True


def test_the_count_of_the_watched_bundle_is_told() -> None:
    """One look for each moment, however many gates; other bundles' kills are not its matter."""
    layer = Facts()
    layer.facts = {"workers": {A.id: {"oom_kills": 3}, B.id: {"oom_kills": 1}}}
    source = workers.WorkersSource(lambda: layer)
    one, other = Looker(source, GATE, B.id, A.id), Looker(source, GATE, A.id)
    assert (one.one(1.0).watched.value, other.one(1.0).watched.value) == (1, 3)
    assert one.one(2.0).watched.n == 1
    assert layer.looks == 2
    source.close()
    assert layer.closed


def test_an_unknown_bundle_has_nothing_to_tell() -> None:
    """Before its first worker is started, or with a layer that does not count, there is no zero to be pleased about."""
    layer = Facts()
    one = Looker(workers.WorkersSource(lambda: layer), GATE, B.id)
    for facts in ({}, {"workers": {A.id: {"oom_kills": 0}}}, {"workers": {B.id: {"ready": True}}}):
        layer.facts = facts
        assert one.look() == []


def test_a_layer_that_cannot_look_or_is_not_there_is_down() -> None:
    """Its own words are passed on."""
    layer = Facts()
    layer.facts = None
    assert Looker(workers.WorkersSource(lambda: layer), GATE, B.id).one().detail == "cannot read the notes; check the disk"
    seen = Looker(workers.WorkersSource(lambda: None), GATE, B.id).one()
    assert seen.down
    assert "no infrastructure layer" in seen.detail
