"""A release on its way as Dagster sees it, with a real ledger, real measurements and a real Dagster instance."""

import dataclasses
import sys
import time
import types
from pathlib import Path

import dagster as dg
import pytest

from dagster_lastgood import parts
from dagster_lastgood.sensors import pictures
from dagster_lastgood.sensors import rollout_mirror as sensor
from lastgood import release
from lastgood.analysis import follow
from lastgood.analysis import run as analysis_run
from lastgood.core.events import BakeEnded
from lastgood.gates import base
from lastgood.release import advance
from tests.pipelines import world
from tests.reports import story as stories

KEY = parts.release_key("flights")
ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


@dataclasses.dataclass(kw_only=True)
class Watched:
    """A home with a ledger, and the Dagster instance that is told of it, tick by tick."""

    home: Path
    ctx: release.Context
    instance: dg.DagsterInstance
    cursor: str | None = None
    services: tuple[str, ...] = ("flights", "helpdesk")

    def tick(self) -> dg.SensorResult | dg.SkipReason:
        """Evaluate the sensor and do with its answer what the daemon does."""
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor, resources={"settings": self.ctx.settings})
        result = sensor.rollout_mirror(self.services)(context)
        if isinstance(result, dg.SensorResult):
            for event in result.asset_events:
                self.instance.report_runless_asset_event(event)
            self.cursor = result.cursor
        return result

    def canary(self, label: str = "b", phases: str = "canary:5,canary:25") -> tuple[str, str]:
        """A new bundle in the first of *phases*; its id, and the name of the analysis of its canary."""
        digest = world.register(self.ctx, label, self.home / "scratch")
        return digest, f"{world.in_canary(self.ctx, digest, phases=phases)}/canary"

    def act(self) -> release.Committed | None:
        """What the controller does once it has measured."""
        state = self.ctx.ledger.state("flights")
        said = {gate: one.verdict for gate, one in follow.standing(self.ctx, state, now=time.time()).items()}
        ready = {state.stable, state.candidate} - {None}
        return advance.advance(self.ctx, "flights", ready=ready, verdicts=said, judged_at=state.revision, actor="controller")


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """A service with one proven bundle, nothing on its way, and a sensor that has read nothing yet."""
    monkeypatch.setattr(sensor, "EVIDENCE", follow.Evidence())
    home = tmp_path / "home"
    world.released(home, "a")
    with release.open_context(world.settings(home)) as ctx, dg.DagsterInstance.ephemeral() as instance:
        release.commit(ctx, ctx.ledger.state("flights"), BakeEnded(), release.Request(actor="test", reason="test"), verb="bake-ended")
        yield Watched(home=home, ctx=ctx, instance=instance)


def observation(result: dg.SensorResult) -> dict[str, object]:
    """The metadata of the one observation of a tick."""
    (found,) = [event for event in result.asset_events if isinstance(event, dg.AssetObservation)]
    return {name: value.value if isinstance(value, dg.MetadataValue) else value for name, value in found.metadata.items()}


def checks(result: dg.SensorResult) -> dict[str, dg.AssetCheckEvaluation]:
    """The check evaluations of a tick."""
    return {event.check_name: event for event in result.asset_events if isinstance(event, dg.AssetCheckEvaluation)}


def test_with_nothing_on_its_way_there_is_nothing_to_tell(watched):
    """The reason to skip says which bundle serves."""
    stable = watched.ctx.ledger.state("flights").stable
    assert watched.tick().skip_message == f"flights: {stable[7:19]} serves"


def test_a_missing_ledger_is_a_reason_to_skip(tmp_path):
    """Before the first bundle there is no ledger; the sensor says so and does not fail."""
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, resources={"settings": world.settings(tmp_path / "nowhere")})
        assert "the ledger cannot be read" in sensor.rollout_mirror(["flights", "helpdesk"])(context).skip_message


def test_a_service_that_was_never_released_is_a_reason_to_skip(tmp_path):
    """A ledger with no revision has nothing to observe."""
    home = tmp_path / "home"
    with release.open_context(world.settings(home)) as ctx, dg.DagsterInstance.ephemeral() as instance:
        assert Watched(home=home, ctx=ctx, instance=instance).tick().skip_message == "no service has been released yet"


def test_a_canary_is_observed_with_the_figures_of_its_gates(watched):
    """Where the release is, and of each gate what it has measured, as numbers that the UI plots."""
    digest, analysis = watched.canary()
    world.measure(watched.ctx, analysis, errors=world.requests(2, 300))
    told = observation(watched.tick())
    assert (told["lastgood/revision"], told["candidate"], told["phase"], told["weight_pct"], told["mirror_pct"]) == (
        5,
        digest,
        "canary",
        5.0,
        0.0,
    )
    assert told["errors/outcome"] == "inconclusive"
    assert (told["errors/n"], told["errors/estimate"], told["errors/reference"]) == (300, pytest.approx(2 / 300), pytest.approx(0.005))
    assert told["errors/evidence"] < 0 < told["errors/needs"]
    assert {row.data["gate"] for row in told["gates"].records} == set(follow.newest(watched.ctx, "flights", now=time.time()))


def test_gates_that_have_seen_nothing_are_observed_and_not_evaluated(watched):
    """They have neither passed nor failed; the observation says of each that it cannot tell."""
    watched.canary()
    result = watched.tick()
    assert checks(result) == {}
    told = observation(result)
    names = ("errors", "oom", "ejections", "split", "latency", "quality")
    assert {told[f"{name}/outcome"] for name in names} == {"inconclusive"}


def test_a_repeated_tick_tells_nothing_twice(watched):
    """Without a new revision or measurement the sensor skips, and says which gate the release waits for."""
    digest, analysis = watched.canary()
    world.measure(watched.ctx, analysis, errors=world.requests(2, 300))
    watched.tick()
    skipped = watched.tick()
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message.startswith(f"flights: canary 5 % of {digest[7:19]}, gate 'errors' cannot tell: error rate 0.67 %")
    assert "more requests" in skipped.skip_message


def test_a_new_measurement_is_one_observation_and_no_new_check(watched):
    """Checks are told when the answer changes, figures as they come."""
    _, analysis = watched.canary()
    watched.tick()
    for n in (1, 2):
        world.measure(watched.ctx, analysis, errors=world.requests(0, 10))
        result = watched.tick()
        assert observation(result)["errors/n"] == 10 * n
        assert checks(result) == {}


def test_a_gate_that_passes_passes_its_check(watched):
    """From cannot tell to pass, in the tick after the measurement that was enough."""
    _, analysis = watched.canary()
    watched.tick()
    world.measure(watched.ctx, analysis, errors=world.requests(15, 3000))
    found = checks(watched.tick())
    assert list(found) == ["errors"]
    assert found["errors"].passed
    assert "is excluded" in found["errors"].description
    assert found["errors"].metadata["cause"].value == "excluded"


def test_the_guardrail_that_took_a_release_back_is_seen_although_the_candidate_is_gone(watched):
    """Measured, failed and rolled back between two ticks: the check fails with an error, about the candidate."""
    digest, analysis = watched.canary()
    watched.tick()
    world.measure(watched.ctx, analysis, errors=world.requests(200, 1000))
    assert watched.act().revision.verb == "rollback"
    result = watched.tick()
    failed = checks(result)["errors"]
    assert (failed.passed, failed.severity) == (False, ERROR)
    assert failed.description.startswith("failed: error rate 20.0 % (200 of 1,000)")
    assert failed.metadata["lastgood/bundle"].value == digest
    told = observation(result)
    assert (told["errors/outcome"], told["phase"], told["candidate"], told["weight_pct"]) == ("fail", "idle", "none", 0.0)
    assert told["errors/evidence"] > told["errors/boundary"]


def test_after_a_step_back_the_checks_say_whether_it_helped(watched):
    """The same gates, now of the bundle that serves again; the failure stays in the check's history."""
    digest, analysis = watched.canary()
    stable = watched.ctx.ledger.state("flights").stable
    world.measure(watched.ctx, analysis, errors=world.requests(200, 1000))
    watched.act()
    watched.tick()
    since = watched.ctx.ledger.state("flights").verifying.since
    world.measure(watched.ctx, f"verify/{since:.3f}", errors=world.requests(1, 5000, beside=None))
    found = checks(watched.tick())
    assert found["errors"].passed
    assert found["errors"].metadata["lastgood/bundle"].value == stable
    history = watched.instance.event_log_storage.get_asset_check_execution_history(dg.AssetCheckKey(KEY, "errors"), limit=9)
    assert [(one.evaluation.passed, one.evaluation.metadata["lastgood/bundle"].value) for one in history] == [
        (True, stable),
        (False, digest),
    ]
    assert "while a rollback is measured" in watched.tick().skip_message


def test_a_signal_that_fails_warns(watched):
    """It holds the release and rolls nothing back, so it is no error."""
    _, analysis = watched.canary()
    half = base.Observation(at=time.time(), watched=base.Tally(n=1000), beside=base.Tally(n=1000), share=0.05)
    world.measure(watched.ctx, analysis, split=half)
    found = checks(watched.tick())["split"]
    assert (found.passed, found.severity, found.metadata["outcome"].value) == (False, WARN, "fail")


def test_a_release_that_ended_well_is_told_to_its_end(watched):
    """Baking, then idle: one last observation, and then nothing more."""
    world.released(watched.home, "b")
    assert observation(watched.tick())["phase"] == "baking"
    release.commit(
        watched.ctx,
        watched.ctx.ledger.state("flights"),
        BakeEnded(),
        release.Request(actor="test", reason="good"),
        verb="bake-ended",
    )
    assert observation(watched.tick())["phase"] == "idle"
    assert isinstance(watched.tick(), dg.SkipReason)


def test_a_daemon_that_died_before_it_kept_the_cursor_tells_nothing_twice(watched):
    """Events are stored before the cursor; the newest observation says what is told already."""
    _, analysis = watched.canary()
    world.measure(watched.ctx, analysis, errors=world.requests(2, 300))
    before = watched.cursor
    watched.tick()
    watched.cursor = before
    assert isinstance(watched.tick(), dg.SkipReason)


def test_an_observation_made_by_hand_does_not_confuse_the_sensor(watched):
    """Somebody who reports an observation over REST leaves one without a position."""
    watched.canary()
    watched.instance.report_runless_asset_event(dg.AssetObservation(KEY))
    assert observation(watched.tick())["phase"] == "canary"


def test_another_ledger_in_the_same_place_is_told_from_its_start(watched, tmp_path):
    """A position in a ledger that is gone hides nothing of the new one, also where the numbers are the same."""
    _, analysis = watched.canary()
    world.measure(watched.ctx, analysis, errors=world.requests(2, 300))
    watched.tick()
    world.released(tmp_path / "new", "x")
    with release.open_context(world.settings(tmp_path / "new")) as ctx:
        release.commit(ctx, ctx.ledger.state("flights"), BakeEnded(), release.Request(actor="test", reason="test"), verb="bake-ended")
        other = dataclasses.replace(watched, home=tmp_path / "new", ctx=ctx)
        digest, analysis = other.canary("y")
        world.measure(ctx, analysis, errors=world.requests(0, 10))
        told = observation(other.tick())
    assert (told["candidate"], told["errors/n"]) == (digest, 10)


def test_the_longer_a_phase_lasts_the_wider_apart_are_its_figures(watched, monkeypatch):
    """A week of canary must not fill Dagster's database with a point every five seconds; a changed answer never waits."""
    _, analysis = watched.canary()
    began = time.time()
    clock = types.SimpleNamespace(now=lambda: began + 10_000)
    monkeypatch.setattr(sensor, "clock", clock)
    watched.tick()
    told = []
    for after in range(5, 205, 5):
        clock.now = lambda after=after: began + 10_000 + after
        world.measure(watched.ctx, analysis, errors=world.requests(0, 1))
        told.append(isinstance(watched.tick(), dg.SensorResult))
    assert told.count(True) == 1
    assert told[20]
    world.measure(watched.ctx, analysis, errors=world.requests(0, 3000))
    assert checks(watched.tick())["errors"].passed


def test_more_measurements_than_one_tick_takes_in_are_read_over_several(watched, monkeypatch):
    """Until all are read the sensor says so and tells no figure; then it says what the controller says."""
    monkeypatch.setattr(sensor, "EVIDENCE", follow.Evidence(batch=3))
    _, analysis = watched.canary()
    for _ in range(7):
        world.measure(watched.ctx, analysis, errors=world.requests(1, 100))
    messages = [watched.tick().skip_message for _ in range(2)]
    assert [message.split(", ")[-1] for message in messages] == [
        f"still reading 3 measurements of {analysis}",
        f"still reading 6 measurements of {analysis}",
    ]
    assert observation(watched.tick())["errors/n"] == 700


def test_what_is_kept_between_ticks_comes_to_the_same_as_reading_all(watched):
    """The verdicts that a long-lived process has are those of a fresh one, field by field."""
    _, analysis = watched.canary()
    kept, now = follow.Evidence(), time.time() + 60
    for n in range(5):
        world.measure(watched.ctx, analysis, errors=world.requests(n, 100), latency=world.requests(0, 100))
        state = watched.ctx.ledger.state("flights")
        assert kept.look(watched.ctx, state, now=now).answers == follow.standing(watched.ctx, state, now=now)


def test_a_tick_that_meets_the_one_before_it_leaves_it_alone(watched):
    """Dagster gives up on a slow tick after a minute while its body runs on."""
    watched.canary()
    with sensor.READING:
        assert "still reading" in watched.tick().skip_message
    assert isinstance(watched.tick(), dg.SensorResult)


def test_a_candidate_whose_configuration_is_lost_is_named_and_fails_no_tick(watched):
    """Its gates cannot be read from the store; what is wrong stands in the reason to skip."""
    digest, _ = watched.canary()
    part = watched.ctx.ledger.bundle(digest).parts["config"]
    folder = watched.ctx.store.path(part.digest)
    folder.chmod(0o755)
    (folder / "service.yaml").chmod(0o644)
    (folder / "service.yaml").write_text("service: [", "utf-8")
    world.reconcile_forgets()
    assert "build the bundle again" in watched.tick().skip_message


def test_nothing_is_written_to_the_ledger(watched):
    """The sensor only looks on."""
    _, analysis = watched.canary()
    world.measure(watched.ctx, analysis, errors=world.requests(2, 300))
    before = watched.ctx.ledger.newest("flights"), list(watched.ctx.ledger.recorded("flights", analysis))
    watched.tick()
    assert (watched.ctx.ledger.newest("flights"), list(watched.ctx.ledger.recorded("flights", analysis))) == before


# --- pictures ----------------------------------------------------------------------------------------------


def taken_back(watched: Watched, label: str = "b") -> int:
    """A canary that failed and was taken back; the revision that proposed it."""
    _, analysis = watched.canary(label)
    world.measure(watched.ctx, analysis, errors=world.requests(200, 1000))
    assert watched.act().revision.verb == "rollback"
    return int(analysis.split("/")[0])


def test_when_a_release_has_ended_its_pictures_come_with_the_observation_once(watched):
    """PNG images inside the event, small enough for Dagster's database."""
    taken_back(watched)
    shown = observation(watched.tick())["pictures"]
    assert shown.count("data:image/png;base64,") >= 2
    assert "![traffic]" in shown
    assert len(shown) < 300_000
    watched.canary("c")
    assert "pictures" not in observation(watched.tick())


def test_without_the_extra_for_pictures_everything_else_is_told(watched, monkeypatch):
    """A worker image without matplotlib still shows figures and checks, and says what is missing."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    number = taken_back(watched)
    result = watched.tick()
    assert checks(result)["errors"].severity == ERROR
    told = observation(result)["pictures"]
    assert told.startswith("left out: ModuleNotFoundError")
    assert told.endswith(f"run 'lastgood report flights --rollout {number}'")


def test_pictures_that_would_take_longer_than_a_tick_may_are_left_out(watched, monkeypatch):
    """A tick that Dagster gives up would be repeated for ever."""
    monkeypatch.setattr(pictures, "MOST", 3)
    _, analysis = watched.canary()
    for _ in range(4):
        world.measure(watched.ctx, analysis, errors=world.requests(60, 300))
    watched.act()
    assert "left out: more than 3 measurements" in observation(watched.tick())["pictures"]


def test_pictures_that_did_take_longer_are_not_tried_again(watched):
    """The tick after one that was given up tells the rest."""
    number = taken_back(watched)
    pictures.rollout_pictures(watched.ctx, "flights", number)
    assert "left out: drawing them took too long" in observation(watched.tick())["pictures"]


def test_what_always_watches_a_proven_bundle_is_told_once_it_can_be(tmp_path, monkeypatch):
    """On an idle service a trigger's answer comes with its evidence; at the turn of a day, while there is none yet, the last one stands."""
    monkeypatch.setattr(sensor, "EVIDENCE", follow.Evidence())
    always = "gates:\n  errors: {metric: error_rate, window_s: 10, min_samples: 100, watch: always, max: 0.1}\n"
    with stories.begun(tmp_path, gates=always) as story, dg.DagsterInstance.ephemeral() as instance:
        story.now = time.time() - 300
        story.first()
        watched = Watched(home=tmp_path, ctx=story.ctx, instance=instance, services=(stories.SERVICE,))
        assert "errors" not in _checked(watched)
        story.go_on(seconds=60)
        assert _checked(watched)["errors"].passed
        monkeypatch.setattr(analysis_run, "WATCH_S", 1e9)  # another stretch, without any evidence
        assert "errors" not in _checked(watched)


def _checked(watched: Watched) -> dict[str, dg.AssetCheckEvaluation]:
    result = watched.tick()
    return checks(result) if isinstance(result, dg.SensorResult) else {}
