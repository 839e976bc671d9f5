"""What a service gets that says nothing, and what is frozen into its bundles: later defaults do not reach back."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import yaml

from lastgood import errors
from lastgood.service import gates as service_gates
from lastgood.service import schema
from lastgood.service import strategy as strategies
from tests.service.test_schema import HEAD, parse

# --- defaults ----------------------------------------------------------------------------------------------


def test_a_service_that_says_nothing_gets_the_chain_of_its_tier() -> None:
    """Missing is not empty: an empty strategy is a cut-over at once."""
    assert parse().chain == strategies.DEFAULTS["real-time-api"]
    assert parse("release: {strategy: []}").chain == ()
    assert parse("release: {strategy: [{phase: approval}]}").chain == (strategies.Approval(phase="approval"),)


@pytest.mark.parametrize("tier", strategies.DEFAULTS)
def test_high_stakes_take_the_long_way_whatever_the_tier(tier: str) -> None:
    """Unless a strategy is named."""
    head = HEAD.replace("real-time-api", tier)
    assert parse(head=head).chain == strategies.DEFAULTS[tier]  # type: ignore[index]
    assert parse("release: {high_stakes: true}", head=head).chain == strategies.HIGH_STAKES
    assert parse("release: {high_stakes: true, strategy: []}", head=head).chain == ()


def test_the_gates_that_are_always_there() -> None:
    """Errors, kills, ejections and the split; one declared under the same name takes the place of a default one."""
    assert parse().gates == service_gates.DEFAULTS
    assert set(service_gates.DEFAULTS) == {"errors", "oom", "ejections", "split"}
    own = parse("gates:\n  errors: {metric: error_rate, margin: 0.1}\n  slow: {metric: latency_p99, max_ms: 5}\n").gates
    assert set(own) == {*service_gates.DEFAULTS, "slow"}
    assert own["errors"] == service_gates.ErrorRate(metric="error_rate", margin=0.1)


def test_the_defaults_of_the_gates_are_those_that_the_documentation_names() -> None:
    """Two points for five minutes; three windows for latency; twice killed; once ejected; half off the split."""
    found = {name: gate.model_dump() for name, gate in parse("gates:\n  slow: {metric: latency_p99, max_ms: 5}\n").gates.items()}
    common = {
        "kind": "guardrail", "resume": "itself", "window_s": 60.0, "persistence": 5, "window_min": 20, "min_samples": 200,
        "no_traffic": "wait", "source_down": "wait", "too_few": "wait", "patience_s": 900.0, "watch": "bake",
        "during": ("shadow", "canary"), "audit": False,
    }  # fmt: skip
    assert found == {
        "errors": {**common, "metric": "error_rate", "margin": 0.02, "max": None},
        "slow": {**common, "metric": "latency_p99", "max_ms": 5.0, "persistence": 3, "settle_s": 15.0},
        "oom": {**common, "metric": "oom_kills", "max_kills": 2, "min_samples": 1},
        "ejections": {**common, "metric": "ejections", "max_ejections": 1, "min_samples": 1, "watch": "rollout"},
        "split": {**common, "metric": "sample_ratio", "tolerance": 0.5, "kind": "signal", "resume": "person", "watch": "rollout"},
    }


def test_signals_are_what_documentation_calls_signals() -> None:
    """A score resumes by itself; a service behind this one waits for a person."""
    gates = parse(
        """
        release: {strategy: [{phase: shadow}]}
        gates:
          score: {metric: score, score: brier, margin: 0.1}
          down: {metric: downstream, url: "http://127.0.0.1"}
          same: {metric: agreement, min: 0.9}
          query: {metric: promql, query: up, max: 1}
        """
    ).gates
    assert {name: (gate.kind, gate.resume) for name, gate in gates.items() if name not in service_gates.DEFAULTS} == {
        "score": ("signal", "itself"),
        "down": ("signal", "person"),
        "same": ("guardrail", "itself"),
        "query": ("guardrail", "itself"),
    }


@pytest.mark.parametrize(
    ("score", "better", "lower"),
    [
        ("brier", None, True), ("log_loss", None, True), ("absolute_error", None, True), ("squared_error", None, True),
        ("accuracy", None, False), ("output.words", "lower", True), ("outcome.bought", "higher", False),
        ("accuracy", "lower", True), ("brier", "higher", False),
    ],
)  # fmt: skip
def test_the_direction_of_a_score_is_known_or_said(score: str, better: str | None, lower: bool) -> None:
    """What is said counts before what is known."""
    gate = service_gates.Score.model_validate({"metric": "score", "score": score, "margin": 0, "better": better})
    assert gate.lower_is_better is lower


# --- freezing ----------------------------------------------------------------------------------------------


def folder(root: Path, body: str = "", *, head: str = HEAD) -> Path:
    """A service folder with a runtime."""
    made = root / "flights"
    made.mkdir()
    (made / "service.yaml").write_text(head + textwrap.dedent(body), "utf-8")
    (made / "runtime.py").write_text("class Runtime: ...\n", "utf-8")
    return made


def frozen(path: Path) -> schema.Service:
    """What a bundle reads back from its config part."""
    return schema.parse((path / "service.yaml").read_text("utf-8"), where="bundle")


@pytest.mark.parametrize("tier", strategies.DEFAULTS)
def test_what_is_frozen_is_what_was_in_force(tier: str, tmp_path: Path) -> None:
    """The round trip gives the same service, with the chain of the tier written out."""
    made = folder(tmp_path, "gates:\n  slow: {metric: latency_p99, max_ms: 5}\n", head=HEAD.replace("real-time-api", tier))
    live, back = schema.load(made), frozen(schema.freeze(made, tmp_path / "out"))
    assert back.release.strategy == live.chain == strategies.DEFAULTS[tier]  # type: ignore[index]
    assert back == live.model_copy(update={"release": live.release.model_copy(update={"strategy": live.chain})})


def test_freezing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    """Comments and order do not count, and a frozen file frozen again is itself."""
    first = schema.freeze(folder(tmp_path, "description: é\n"), tmp_path / "one")
    (tmp_path / "flights" / "service.yaml").write_text("# a comment\ndescription: é\n" + HEAD, "utf-8")
    second = schema.freeze(tmp_path / "flights", tmp_path / "two")
    assert (first / "service.yaml").read_bytes() == (second / "service.yaml").read_bytes()
    (tmp_path / "flights" / "service.yaml").write_bytes((first / "service.yaml").read_bytes())
    third = schema.freeze(tmp_path / "flights", tmp_path / "three")
    assert (first / "service.yaml").read_bytes() == (third / "service.yaml").read_bytes()
    assert "é" in (first / "service.yaml").read_text("utf-8")


def test_a_later_default_does_not_reach_back(tmp_path: Path) -> None:
    """Every gate and every phase is written with every key, so nothing is left for a later release to fill in."""
    made = schema.freeze(folder(tmp_path), tmp_path / "out")
    written = yaml.safe_load((made / "service.yaml").read_text("utf-8"))
    for name, gate in service_gates.DEFAULTS.items():
        assert set(written["gates"][name]) == set(type(gate).model_fields)
    for phase, planned in zip(written["release"]["strategy"], strategies.DEFAULTS["real-time-api"], strict=True):
        assert set(phase) == set(type(planned).model_fields)
    assert set(written["release"]) == set(schema.Release.model_fields)
    assert set(written["release"]["recovery"]) == set(schema.Recovery.model_fields)


def test_a_later_default_changes_new_services_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain of a tier, and a default gate, change after the freeze: the frozen service keeps what it had."""
    made = schema.freeze(folder(tmp_path), tmp_path / "out")
    before = frozen(made)
    monkeypatch.setitem(strategies.DEFAULTS, "real-time-api", (strategies.Approval(phase="approval"),))
    monkeypatch.setitem(service_gates.DEFAULTS, "errors", service_gates.ErrorRate(metric="error_rate", margin=0.5))
    assert parse().chain == (strategies.Approval(phase="approval"),)
    assert parse().gates["errors"] == service_gates.ErrorRate(metric="error_rate", margin=0.5)
    assert frozen(made) == before
    assert frozen(made).gates["errors"] == service_gates.ErrorRate(metric="error_rate", margin=0.02)


def test_high_stakes_are_frozen_as_their_chain(tmp_path: Path) -> None:
    """What was in force is written out, so the word alone decides nothing later."""
    made = schema.freeze(folder(tmp_path, "release: {high_stakes: true}"), tmp_path / "out")
    assert frozen(made).release.strategy == strategies.HIGH_STAKES


OLD = """\
code: [runtime.py]
description: ''
evaluation: {ceilings: {}, floors: {}}
options: {}
owner: tests
parts: [model, config, environment]
release: {bake_s: 600.0}
runtime: runtime:Runtime
schema: lastgood.service/v1
service: flights
serving: {log_flush_s: 1.0, log_keep_days: 30.0, log_segment_rows: 50000, max_batch: 1000, max_body_bytes: 1048576, ready_timeout_s: 60.0}
tier: real-time-api
traffic: {idempotent: true, per_try_timeout_s: 1.0, port: 8380, timeout_s: 5.0, user_cookie: session, user_header: x-user-id}
"""
"""As the release before gates and strategies wrote it."""


def test_a_file_frozen_before_there_were_gates_still_reads() -> None:
    """An old bundle can be rolled back to: it gets the gates and the chain that every service has."""
    found = schema.parse(OLD, where="bundle")
    assert found.release == schema.Release(bake_s=600.0)
    assert (found.chain, found.gates) == (strategies.DEFAULTS["real-time-api"], service_gates.DEFAULTS)


def test_options_and_overlays_are_frozen_in_place_of_the_file_s(tmp_path: Path) -> None:
    """Options are laid over one by one, other keys as a whole; what an overlay makes wrong is refused."""
    made = folder(tmp_path, "options: {a: 1, b: 2}\nrelease: {bake_s: 5, alpha: 0.1}\n")
    out = schema.freeze(
        made,
        tmp_path / "out",
        options={"b": 3},
        overlay={"release": {"bake_s": 7}, "gates": {"slow": {"metric": "latency_p99", "max_ms": 5}}},
    )
    found = frozen(out)
    assert found.options == {"a": 1, "b": 3}
    assert (found.release.bake_s, found.release.alpha) == (7.0, 0.01)
    assert set(found.gates) == {*service_gates.DEFAULTS, "slow"}
    with pytest.raises(errors.UsageError, match=r"service.yaml with release, gates replaced is invalid: line \d+, release.colour"):
        schema.freeze(made, tmp_path / "no", overlay={"release": {"colour": 1}, "gates": {}})


def test_freezing_needs_the_code_and_an_empty_place(tmp_path: Path) -> None:
    """Nothing half frozen is left unnoticed."""
    made = folder(tmp_path, "code: [runtime.py, lib/extra.py]\n")
    with pytest.raises(errors.NotFound, match=r"service 'flights' names code file 'lib/extra.py', which .* does not have; correct 'code'"):
        schema.freeze(made, tmp_path / "one")
    (made / "lib").mkdir()
    (made / "lib" / "extra.py").write_text("x = 1\n")
    out = schema.freeze(made, tmp_path / "deep" / "two")
    assert (out / "lib" / "extra.py").read_text() == "x = 1\n"
    with pytest.raises(errors.UsageError, match="is not empty; freeze a configuration into a new folder"):
        schema.freeze(made, out)


def test_loading_says_what_is_wrong_with_the_folder(tmp_path: Path) -> None:
    """A missing file names the services that are there; a name of another service and foreign bytes are refused."""
    made = folder(tmp_path)
    with pytest.raises(errors.NotFound, match=r"no service 'ships': .* is missing; services here: flights$"):
        schema.load(tmp_path / "ships")
    with pytest.raises(errors.NotFound, match="services here: none"):
        schema.load(tmp_path / "deep" / "ships")
    made.rename(tmp_path / "planes")
    with pytest.raises(errors.UsageError, match="names service 'flights'; rename the folder or the service so that they agree"):
        schema.load(tmp_path / "planes")
    (tmp_path / "planes" / "service.yaml").write_bytes(b"owner: \xff\n")
    with pytest.raises(errors.UsageError, match=r"is not UTF-8: .*; save it as UTF-8"):
        schema.load(tmp_path / "planes")


def test_an_overlay_takes_the_place_of_whole_keys(tmp_path: Path) -> None:
    """What it does not name stays as the file says; options are laid over the service's own, key by key."""
    made = folder(tmp_path, "release: {bake_s: 7}\noptions: {a: 1, b: 2}\ngates:\n  slow: {metric: latency_p99, max_ms: 5}\n")
    overlay = {"release": {"strategy": [{"phase": "approval"}]}}
    back = frozen(schema.freeze(made, tmp_path / "out", options={"b": 3, "c": "é"}, overlay=overlay))
    assert back.release == schema.Release(strategy=(strategies.Approval(phase="approval"),))
    assert back.options == {"a": 1, "b": 3, "c": "é"}
    assert set(back.gates) == {*service_gates.DEFAULTS, "slow"}


def test_an_overlay_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    """It says that the file alone is not to blame."""
    made = folder(tmp_path)
    with pytest.raises(errors.UsageError, match=r"service.yaml with release, gates replaced is invalid: line \d+, release"):
        schema.freeze(made, tmp_path / "out", overlay={"release": {"bake_s": -1}, "gates": {}})


def test_code_in_folders_is_frozen_with_its_folders(tmp_path: Path) -> None:
    """As deep as it is named."""
    made = folder(tmp_path, "code: [runtime.py, a/b/part.py]\n")
    (made / "a" / "b").mkdir(parents=True)
    (made / "a" / "b" / "part.py").write_text("x = 1\n", "utf-8")
    assert (schema.freeze(made, tmp_path / "out") / "a" / "b" / "part.py").read_text("utf-8") == "x = 1\n"


def test_a_missing_service_is_said_with_those_that_are_there(tmp_path: Path) -> None:
    """And a file that is wrong is named."""
    with pytest.raises(errors.NotFound, match="services here: none"):
        schema.load(tmp_path / "nobody")
    made = folder(tmp_path, "tier_: x\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "service.yaml").write_text(HEAD.replace("flights", "other"), "utf-8")
    with pytest.raises(errors.NotFound, match="services here: flights, other"):
        schema.load(tmp_path / "nobody")
    with pytest.raises(errors.UsageError) as caught:
        schema.load(made)
    assert str(caught.value).startswith(f"{made / 'service.yaml'} is invalid: line ")
