"""What every layer must do, as pytest classes. An adapter's tests subclass `LayerSuite` and give the fixture `subject`:

    class TestMine(LayerSuite):
        @pytest.fixture
        def subject(self, tmp_path): ...  # yields a Subject around a fresh layer

What does not belong here: what only one kind of layer does (its own tests).
"""

# ruff: noqa: S101  # these are tests; pytest runs them wherever they are subclassed

from __future__ import annotations

import abc
import functools
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from lastgood.bundle.manifest import Bundle
from lastgood.layers import base

WITHIN_S = 20.0


class Subject(abc.ABC):
    """One fresh layer and the means to break the world around it.

    `layer` has never been applied. `bundles` are at least two real bundles of the service. `desired` returns a state in which those
    named by the aliases can serve.
    """

    layer: base.Layer
    bundles: tuple[Bundle, ...]

    @abc.abstractmethod
    def desired(self, revision: int, *, stable: Bundle | None, previous: Bundle | None = None) -> base.Desired:
        """A desired state of this service."""

    @abc.abstractmethod
    def reopen(self) -> base.Layer:
        """A second layer object on the same world, as another process would create it."""

    @abc.abstractmethod
    def take_down(self) -> None:
        """Make what the layer talks to unreachable."""

    @abc.abstractmethod
    def bring_up(self) -> None:
        """Undo `take_down`."""

    @abc.abstractmethod
    def tamper(self) -> None:
        """Change what the layer manages externally, so that it no longer agrees with what was applied."""

    def serves(self) -> str | None:
        """The bundle id that the world really uses, seen without the layer, if there is such a view; else from observe."""
        return None

    def settled(self, layer: base.Layer, desired: base.Desired) -> base.Observed:
        """Apply until the layer agrees. Fails if that does not happen within WITHIN_S seconds."""
        return settle(layer, desired)


def settle(layer: base.Layer, desired: base.Desired, *, within_s: float = WITHIN_S) -> base.Observed:
    """Apply *desired* as the loop does, until verify returns True; returns the final observation."""
    end = time.monotonic() + within_s
    while True:
        layer.apply(desired)
        observed = layer.observe()
        if layer.verify(desired, observed) is True:
            return observed
        assert time.monotonic() < end, f"{layer.name} did not agree with revision {desired.revision} within {within_s:g} s: {observed}"
        time.sleep(0.01)


def fails(call: Callable[[], object]) -> base.LayerError | None:
    """The LayerError that *call* raises, None if it returns; any other exception passes through and fails the test."""
    try:
        call()
    except base.LayerError as error:
        return error
    return None


def judged(layer: base.Layer, desired: base.Desired) -> bool | None:
    """The result of verify for what observe returns; None also if observe raises LayerError."""
    try:
        return layer.verify(desired, layer.observe())
    except base.LayerError:
        return None


class LayerSuite:
    """The contract of `lastgood.layers.base.Layer`."""

    def test_before_the_first_apply_it_does_not_claim_to_agree(self, subject: Subject) -> None:
        """A layer that was never applied does not agree with a revision that serves a bundle."""
        first, *_ = subject.bundles
        observed = subject.layer.observe()
        assert subject.layer.verify(subject.desired(1, stable=first), observed) is not True

    def test_it_agrees_after_apply_and_names_the_revision(self, subject: Subject) -> None:
        """After apply, observe shows the revision and verify returns True."""
        first, *_ = subject.bundles
        observed = subject.settled(subject.layer, subject.desired(1, stable=first))
        assert observed.revision == 1
        assert subject.serves() in (None, first.id)

    def test_applying_twice_is_applying_once(self, subject: Subject) -> None:
        """A second apply of the same state makes no observable change."""
        first, second, *_ = subject.bundles
        wanted = subject.desired(2, stable=second, previous=first)
        once = subject.settled(subject.layer, wanted)
        subject.layer.apply(wanted)
        twice = subject.layer.observe()
        assert subject.layer.verify(wanted, twice) is True
        assert stable_facts(once.facts) == stable_facts(twice.facts)

    def test_it_follows_a_newer_revision_and_back_to_an_older_bundle(self, subject: Subject) -> None:
        """A release and then a rollback: the old bundle returns under a new revision."""
        first, second, *_ = subject.bundles
        for revision, stable in ((1, first), (2, second), (3, first)):
            observed = subject.settled(subject.layer, subject.desired(revision, stable=stable))
            assert observed.revision == revision
            assert subject.serves() in (None, stable.id)

    def test_an_older_revision_never_comes_back(self, subject: Subject) -> None:
        """I5: applying a stale state does nothing, and the stale state does not verify."""
        first, second, *_ = subject.bundles
        newer, stale = subject.desired(5, stable=second), subject.desired(4, stable=first)
        subject.settled(subject.layer, newer)
        for layer in (subject.layer, subject.reopen()):
            layer.apply(stale)
            observed = layer.observe()
            assert observed.revision == 5
            assert layer.verify(newer, observed) is True
            assert layer.verify(stale, observed) is not True
        assert subject.serves() in (None, second.id)

    def test_missed_revisions_do_no_harm(self, subject: Subject) -> None:
        """The newest state alone is enough; nothing depends on having seen those in between."""
        first, second, *_ = subject.bundles
        subject.settled(subject.layer, subject.desired(1, stable=first))
        observed = subject.settled(subject.reopen(), subject.desired(9, stable=second, previous=first))
        assert observed.revision == 9
        assert subject.serves() in (None, second.id)

    def test_another_state_does_not_verify(self, subject: Subject) -> None:
        """Verify distinguishes the desired state from another one of the same or the next revision."""
        first, second, *_ = subject.bundles
        observed = subject.settled(subject.layer, subject.desired(3, stable=first))
        assert subject.layer.verify(subject.desired(3, stable=second), observed) is False
        assert subject.layer.verify(subject.desired(4, stable=first), observed) is False

    def test_not_knowing_is_not_agreeing(self, subject: Subject) -> None:
        """Verify is three-valued: an observation without a revision is None, neither True nor False."""
        first, *_ = subject.bundles
        wanted = subject.desired(1, stable=first)
        subject.settled(subject.layer, wanted)
        assert subject.layer.verify(wanted, base.Observed(revision=None)) is None

    def test_a_layer_that_is_down_says_so(self, subject: Subject) -> None:
        """Down: apply raises LayerError, and nothing that observe still returns verifies as True."""
        first, second, *_ = subject.bundles
        wanted = subject.desired(1, stable=first)
        subject.settled(subject.layer, wanted)
        subject.take_down()
        for layer in (subject.layer, subject.reopen()):
            error = fails(functools.partial(layer.apply, subject.desired(2, stable=second)))
            assert error is not None
            assert error.retryable
            assert judged(layer, wanted) is not True

    def test_it_recovers_by_itself(self, subject: Subject) -> None:
        """After an outage the next apply is enough, whatever was missed meanwhile."""
        first, second, *_ = subject.bundles
        subject.settled(subject.layer, subject.desired(1, stable=first))
        subject.take_down()
        assert fails(lambda: subject.layer.apply(subject.desired(2, stable=second))) is not None
        subject.bring_up()
        observed = subject.settled(subject.layer, subject.desired(3, stable=second, previous=first))
        assert observed.revision == 3
        assert subject.serves() in (None, second.id)

    def test_a_change_by_hand_is_seen_and_put_back(self, subject: Subject) -> None:
        """Level-triggered: applying the same revision again repairs external changes."""
        first, second, *_ = subject.bundles
        wanted = subject.desired(2, stable=second, previous=first)
        subject.settled(subject.layer, wanted)
        subject.tamper()
        assert subject.layer.verify(wanted, subject.layer.observe()) is not True
        subject.settled(subject.layer, wanted)
        assert subject.serves() in (None, second.id)

    def test_nothing_may_serve(self, subject: Subject) -> None:
        """A service without a stable bundle is a state like any other."""
        first, *_ = subject.bundles
        subject.settled(subject.layer, subject.desired(1, stable=first))
        observed = subject.settled(subject.layer, subject.desired(2, stable=None))
        assert observed.revision == 2

    def test_close_leaves_the_world_running(self, subject: Subject) -> None:
        """Closing only closes connections; another process sees the same world, and close may be called twice."""
        first, *_ = subject.bundles
        wanted = subject.desired(1, stable=first)
        subject.settled(subject.layer, wanted)
        subject.layer.close()
        subject.layer.close()
        other = subject.reopen()
        assert other.verify(wanted, other.observe()) is True
        assert subject.serves() in (None, first.id)

    def test_facts_are_plain_json(self, subject: Subject) -> None:
        """The facts from observe go into JSON files and answers unchanged."""
        first, *_ = subject.bundles
        observed = subject.settled(subject.layer, subject.desired(1, stable=first))
        json.dumps(dict(observed.facts))


class ProcessesSuite(LayerSuite):
    """The contract of `lastgood.layers.base.Processes` on top: where ready workers answer."""

    def test_endpoints_are_those_of_the_warm_bundles(self, subject: Subject) -> None:
        """Stable and previous have workers, at different addresses; bundles that are not named have none."""
        first, second, *_ = subject.bundles
        assert isinstance(subject.layer, base.Processes)
        subject.settled(subject.layer, subject.desired(1, stable=second, previous=first))
        found = subject.layer.endpoints()
        assert {digest for digest, where in found.items() if where} == {first.id, second.id}
        assert not set(found[first.id]) & set(found[second.id])
        subject.settled(subject.layer, subject.desired(2, stable=first))
        assert {digest for digest, where in subject.layer.endpoints().items() if where} == {first.id}

    def test_a_warm_worker_is_not_restarted(self, subject: Subject) -> None:
        """Previous becomes stable again on the very worker that was kept warm; else a rollback would wait for a load."""
        first, second, *_ = subject.bundles
        assert isinstance(subject.layer, base.Processes)
        subject.settled(subject.layer, subject.desired(1, stable=second, previous=first))
        before = subject.layer.endpoints()[first.id]
        subject.settled(subject.layer, subject.desired(2, stable=first))
        assert subject.layer.endpoints()[first.id] == before


def stable_facts(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """Facts without those that change by themselves: keys that end in `_s`, `_ms`, `_at` or `_bytes`."""
    return {key: value for key, value in facts.items() if not key.endswith(("_s", "_ms", "_at", "_bytes"))}
