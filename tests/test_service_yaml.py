"""What a service.yaml may say: each contradiction is refused with its line, its key and a remedy; what is frozen stays as it was."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import yaml

from lastgood import conditions, errors
from lastgood import service as services
from lastgood import strategy as strategies

HEAD = """\
schema: lastgood.service/v1
service: flights
tier: real-time-api
owner: tests
traffic: {port: 8380}
"""


def parse(body: str = "", *, head: str = HEAD) -> services.Service:
    """The service that *head* and *body* describe."""
    return services.parse(head + textwrap.dedent(body), where="service.yaml")


def refusal(body: str, *, head: str = HEAD) -> str:
    """What is wrong with *body*, without the name of the file."""
    with pytest.raises(errors.UsageError) as caught:
        parse(body, head=head)
    start, said = str(caught.value).split(": ", 1)
    assert start == "service.yaml is wrong"
    return said


def here(body: str) -> int:
    """The line of the whole file that ends with the mark `# here`."""
    lines = (HEAD + textwrap.dedent(body)).splitlines()
    return 1 + next(number for number, line in enumerate(lines) if line.endswith("# here"))


# --- each contradiction, at its line -----------------------------------------------------------------------

GATES = {
    "an unknown metric": (
        """
        gates:
          fine: {metric: error_rate}
          quality:  # here
            metric: brier
        """,
        "gates.quality: metric 'brier' is not known; use one of 'error_rate', 'latency_p99', 'score', ",
    ),
    "no metric": (
        """
        gates:
          quality:  # here
            margin: 1
        """,
        "gates.quality: 'metric' is missing; add it",
    ),
    "a missing ceiling": (
        """
        gates:
          slow:  # here
            metric: latency_p99
        """,
        "gates.slow.max_ms: field required; add it",
    ),
    "a window of nothing": (
        """
        gates:
          slow:
            metric: latency_p99
            max_ms: 5
            window_s: 0  # here
        """,
        "gates.slow.window_s: input should be greater than 0; correct it",
    ),
    "a key without its unit": (
        """
        gates:
          slow:
            metric: latency_p99
            window: 60  # here
            max_ms: 5
        """,
        "gates.slow.window: extra inputs are not permitted; take it out or correct its name",
    ),
    "a policy of a gate that only observes": (
        """
        gates:
          a: {metric: error_rate}
          b:  # here
            metric: error_rate
            kind: observe
            too_few: ask
            no_traffic: roll_back
        """,
        "gates.b: gate 'b' only observes, but has the policy ask, roll_back; make it a guardrail or a signal",
    ),
    "another policy of a gate that only observes": (
        """
        gates:
          b: {metric: error_rate, kind: observe, source_down: ask}  # here
        """,
        "gates.b: gate 'b' only observes, but has the policy ask; make it",
    ),
    "a gate that is never looked at": (
        """
        gates:
          b: {metric: error_rate, during: [], watch: rollout}  # here
        """,
        "gates.b: gate 'b' is looked at in no phase; name one in 'during', or take it out",
    ),
    "a guardrail that waits for a person": (
        """
        gates:
          b: {metric: error_rate, resume: person}  # here
        """,
        "gates.b: gate 'b' is a guardrail, which holds nothing, but has 'resume: person'; make it a signal, or leave it out",
    ),
    "agreement without a mirror": (
        """
        gates:
          a: {metric: error_rate}
          b: {metric: agreement, min: 0.9}  # here
        """,
        "gates.b: gate 'b' compares mirrored answers, but no phase has mirror_pct; add a shadow phase, or take the gate out",
    ),
    "an agreement for ever": (
        """
        tier: rag
        gates:
          b: {metric: agreement, min: 0.9, watch: always}  # here
        """,
        "gates.b: gate 'b' needs a candidate, but has 'watch: always'; leave it out",
    ),
    "a split for ever": (
        """
        gates:
          split: {metric: sample_ratio, watch: always}  # here
        """,
        "gates.split: gate 'split' needs a candidate, but has 'watch: always'; leave it out",
    ),
    "ejections for ever": (
        """
        gates:
          out: {metric: ejections, watch: always}  # here
        """,
        "gates.out: gate 'out' needs a candidate, but has 'watch: always'; leave it out",
    ),
    "a downstream that never fails": (
        """
        gates:
          b: {metric: downstream, url: "http://127.0.0.1:9", persistence: 0}  # here
        """,
        "gates.b: gate 'b' has no test besides the persistence rule, so with 'persistence: 0' it never fails; set 1 or more",
    ),
    "a query that never fails": (
        """
        gates:
          b: {metric: promql, query: up, max: 1, persistence: 0}  # here
        """,
        "gates.b: gate 'b' has no test besides the persistence rule, so with 'persistence: 0' it never fails; set 1 or more",
    ),
    "an address of another kind": (
        """
        gates:
          b:
            metric: downstream
            url: ftp://127.0.0.1  # here
        """,
        "gates.b.url: string should match pattern '^https?://'; correct it",
    ),
}

PHASES = {
    "a weight over 100": (
        """
        release:
          strategy:
            - {phase: shadow}
            - phase: canary
              weight_pct: 120  # here
        """,
        "release.strategy.1.weight_pct: input should be less than 100; correct it",
    ),
    "a canary of everybody": (
        """
        release:
          strategy: [{phase: canary, weight_pct: 100}]  # here
        """,
        "release.strategy.0.weight_pct: input should be less than 100; correct it",
    ),
    "a canary of nobody": (
        """
        release:
          strategy: [{phase: canary, weight_pct: 0}]  # here
        """,
        "release.strategy.0.weight_pct: input should be greater than 0; correct it",
    ),
    "a canary without a weight": (
        """
        release:
          strategy:
            - phase: canary  # here
              min_s: 3
        """,
        "release.strategy.0.weight_pct: field required; add it",
    ),
    "a mirror over 100": (
        """
        release:
          strategy:
            - phase: shadow
              mirror_pct: 101  # here
        """,
        "release.strategy.0.mirror_pct: input should be less than or equal to 100; correct it",
    ),
    "an unknown phase": (
        """
        release:
          strategy:
            - {phase: shadow}
            - phase: blue  # here
        """,
        "release.strategy.1: phase 'blue' is not known; use one of 'shadow', 'canary', 'approval'",
    ),
    "a phase without a name": (
        """
        release:
          strategy:
            - min_s: 3  # here
        """,
        "release.strategy.0: 'phase' is missing; add it",
    ),
    "weights that do not grow": (
        """
        release:
          bake_s: 3
          strategy:  # here
            - {phase: canary, weight_pct: 5}
            - {phase: canary, weight_pct: 50}
            - {phase: canary, weight_pct: 25.5}
        """,
        "release.strategy: weight_pct must grow from canary to canary, not 5, 50, 25.5; sort or change them",
    ),
    "a weight twice": (
        """
        release:
          strategy:  # here
            - {phase: canary, weight_pct: 5}
            - {phase: canary, weight_pct: 5}
        """,
        "release.strategy: weight_pct must grow from canary to canary, not 5, 5; sort or change them",
    ),
    "phases out of order": (
        """
        release:
          strategy:  # here
            - {phase: canary, weight_pct: 5}
            - {phase: shadow}
        """,
        "release.strategy: phases come in the order shadow, canary, approval, not canary, shadow; sort them",
    ),
    "an approval before the canary": (
        """
        release:
          strategy: [{phase: approval}, {phase: canary, weight_pct: 5}]  # here
        """,
        "release.strategy: phases come in the order shadow, canary, approval, not approval, canary; sort them",
    ),
    "two approvals": (
        """
        release:
          strategy: [{phase: approval}, {phase: approval}]  # here
        """,
        "release.strategy: only the last phase can be an approval; name it once",
    ),
    "more than all the time there is": (
        """
        release:
          strategy: [{phase: shadow, min_s: 300, max_s: 200}]  # here
        """,
        "release.strategy: shadow: min_s 300 is longer than max_s 200; raise max_s",
    ),
    "a canary longer than its end": (
        """
        release:
          strategy: [{phase: shadow}, {phase: canary, weight_pct: 5, min_s: 300.5, max_s: 200}]  # here
        """,
        "release.strategy: canary: min_s 300.5 is longer than max_s 200; raise max_s",
    ),
}

THE_REST = {
    "an unknown key": ("colour: red  # here\n", "colour: extra inputs are not permitted; take it out or correct its name"),
    "an unknown part": (
        "parts: [model, soul]  # here\n",
        "parts: unknown parts ['soul']; a bundle has data, model, prompt, index, config, environment",
    ),
    "code from elsewhere": ("code: [runtime.py, ../x.py]  # here\n", "code: '../x.py' leaves the service folder; name files below it"),
    "code from the root": ("code: [/etc/x.py]  # here\n", "code: '/etc/x.py' leaves the service folder; name files below it"),
    "a batch of nothing": ("serving:\n  max_batch: 0  # here\n", "serving.max_batch: input should be greater than 0; correct it"),
    "gates that are none": ("gates: 3  # here\n", "gates: input should be a valid dictionary; correct it"),
    "an alpha that promises nothing": (
        "release:\n  alpha: 0.21  # here\n",
        "release.alpha: input should be less than or equal to 0.2; correct it",
    ),
    "a negative recovery": (
        "release:\n  recovery:\n    within_s: -1  # here\n",
        "release.recovery.within_s: input should be greater than or equal to 0; correct it",
    ),
}

WRONG = {**GATES, **PHASES, **THE_REST}


@pytest.mark.parametrize("name", WRONG)
def test_a_contradiction_is_refused_with_its_line_its_key_and_a_remedy(name: str) -> None:
    """Where it stands, what it is called, what is wrong, what to do."""
    body, says = WRONG[name]
    body = textwrap.dedent(body).removeprefix("\n")
    head = HEAD.replace("tier: real-time-api\n", "") if body.startswith("tier") else HEAD
    line = here(body) - (HEAD.count("\n") - head.count("\n"))
    assert refusal(body, head=head).startswith(f"line {line}, {says}")


TAGGED = {
    "a downstream without a source": (
        "gates:\n  b:  # here\n    metric: downstream\n",
        "a downstream gate needs either 'url' or 'query'; give exactly one of them",
    ),
    "a downstream with two sources": (
        "gates:\n  b:  # here\n    metric: downstream\n    url: http://127.0.0.1\n    query: up\n",
        "a downstream gate needs either 'url' or 'query'; give exactly one of them",
    ),
    "a query without a limit": (
        "gates:\n  b:  # here\n    metric: promql\n    query: up\n",
        "a promql gate needs 'margin' (against stable), 'max', or both; without one it could never fail",
    ),
    "a margin between nothing": (
        "gates:\n  b:  # here\n    metric: promql\n    query: up\n    margin: 2\n",
        "'margin' compares two arms, but the query names neither $bundle nor $arm; put one in, or use 'max'",
    ),
    "a score without a direction": (
        "gates:\n  b:\n    metric: score\n    score: outcome.bought  # here\n    margin: 1\n",
        "score 'outcome.bought' needs 'better: lower' or 'better: higher'; add it",
    ),
}


@pytest.mark.parametrize("name", TAGGED)
def test_a_gate_that_contradicts_itself_is_refused_at_its_line(name: str) -> None:
    """The gate is named, and what it lacks or has too much of."""
    body, says = TAGGED[name]
    said = refusal(body)
    assert said.startswith(f"line {here(body)}, gates.b")
    assert said.endswith(f": {says}")


@pytest.mark.xfail(strict=True, reason="yaml_lines._find takes the union's tag 'score' for the key 'score' of the same gate")
@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            "gates:\n  b:\n    metric: score\n    score: brier\n    margin: -1  # here\n",
            "gates.b.margin: input should be greater than or equal to 0",
        ),
        ("gates:\n  b:  # here\n    metric: score\n    score: brier\n", "gates.b.margin: field required; add it"),
    ],
)
def test_what_is_wrong_with_a_score_stands_at_its_own_key(body: str, says: str) -> None:
    """Its metric and one of its keys are both called score; the one that is wrong is `margin`."""
    assert refusal(body).startswith(f"line {here(body)}, {says}")


@pytest.mark.xfail(strict=True, reason="conditions._Gate allows NaN and infinity where a field has no upper limit: such a gate never fails")
@pytest.mark.parametrize(
    "gate",
    [
        "{metric: promql, query: up, max: .nan}",
        "{metric: promql, query: up, max: .inf}",
        "{metric: score, score: brier, margin: 0.1, limit: .nan}",
        "{metric: score, score: brier, margin: .inf}",
        "{metric: latency_p99, max_ms: .inf}",
        "{metric: downstream, url: 'http://127.0.0.1', max: .inf}",
    ],
)
def test_a_limit_that_is_no_number_is_refused(gate: str) -> None:
    """Nothing is above NaN or infinity, so such a gate could never fail."""
    assert "gates.b" in refusal(f"gates:\n  b: {gate}\n")


@pytest.mark.xfail(strict=True, reason="service._Group allows infinity: the cut-over then writes a time that canonical JSON cannot hold")
def test_a_bake_without_end_is_refused() -> None:
    """Its deadline could not be written into the ledger, so no release could be cut over."""
    assert "release.bake_s" in refusal("release: {bake_s: .inf}\n")


def test_every_problem_is_told_at_once() -> None:
    """Nobody wants to run a command once for each of them."""
    said = refusal("release: {alpha: 0.5}\nserving: {max_batch: 0}\n")
    assert "line 6, release.alpha: input should be less than or equal to 0.2; correct it" in said
    assert "line 7, serving.max_batch: input should be greater than 0; correct it" in said


def test_a_missing_key_of_the_file_is_told_at_its_beginning() -> None:
    """There is no better line for what is not there."""
    assert refusal("", head=HEAD.replace("owner: tests\n", "")) == "line 1, owner: field required; add it"


@pytest.mark.parametrize("text", ["", "[1, 2]", "just words"], ids=["empty", "list", "words"])
def test_a_file_that_is_no_mapping_is_refused(text: str) -> None:
    """Also one with nothing in it."""
    assert refusal("", head=text).startswith("line 1: input should be a valid dictionary")


def test_what_is_not_yaml_is_refused_with_its_line() -> None:
    """In the words of the YAML parser."""
    with pytest.raises(errors.UsageError, match=r"service.yaml is not valid YAML: [^$]*line 7, column 1[^$]*; correct that line"):
        parse("gates: [\n")


def test_a_service_name_that_no_folder_can_have_is_refused() -> None:
    """It becomes a folder, a header and a label."""
    said = refusal("", head=HEAD.replace("flights", "Flights"))
    assert said.startswith("'Flights' cannot name a service; use 2 to 40 lower-case letters")
    assert said.endswith("; correct the named key")


@pytest.mark.parametrize(
    "gate",
    [
        "{metric: downstream, url: 'http://127.0.0.1', kind: guardrail}",
        "{metric: sample_ratio, kind: guardrail}",
        "{metric: score, score: brier, margin: 1, resume: person}",
        "{metric: error_rate, during: [], watch: always}",
        "{metric: error_rate, during: [shadow], watch: rollout}",
        "{metric: error_rate, kind: observe}",
        "{metric: promql, query: up, max: 0}",
        "{metric: promql, query: 'up{bundle=\"$bundle\"}', margin: 0}",
        "{metric: promql, query: 'up{arm=\"$arm\"}', margin: 0, max: 3}",
        "{metric: downstream, query: up, persistence: 1}",
        "{metric: score, score: output.words, better: lower, margin: 0}",
        "{metric: error_rate, persistence: 0, watch: always}",
    ],
)
def test_what_only_looks_like_a_contradiction_is_taken(gate: str) -> None:
    """A default is no contradiction, and zero is a number."""
    assert "b" in parse(f"gates:\n  b: {gate}\n").gates


def test_agreement_is_taken_wherever_something_is_mirrored() -> None:
    """By a shadow, or behind a canary."""
    gate = "gates:\n  b: {metric: agreement, min: 0.9}\n"
    for phase in ("{phase: shadow}", "{phase: canary, weight_pct: 5, mirror_pct: 1}"):
        assert "b" in parse(f"release: {{strategy: [{phase}]}}\n{gate}").gates
    assert "no phase has mirror_pct" in refusal(f"release: {{strategy: [{{phase: canary, weight_pct: 5}}, {{phase: approval}}]}}\n{gate}")


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
    assert parse().gates == conditions.DEFAULTS
    assert set(conditions.DEFAULTS) == {"errors", "oom", "ejections", "split"}
    own = parse("gates:\n  errors: {metric: error_rate, margin: 0.1}\n  slow: {metric: latency_p99, max_ms: 5}\n").gates
    assert set(own) == {*conditions.DEFAULTS, "slow"}
    assert own["errors"] == conditions.ErrorRate(metric="error_rate", margin=0.1)


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
        "slow": {**common, "metric": "latency_p99", "max_ms": 5.0, "persistence": 3},
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
    assert {name: (gate.kind, gate.resume) for name, gate in gates.items() if name not in conditions.DEFAULTS} == {
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
    gate = conditions.Score.model_validate({"metric": "score", "score": score, "margin": 0, "better": better})
    assert gate.lower_is_better is lower


@pytest.mark.parametrize("score", ["Brier", "bought", "output.", "output.a-b", "outcome.1", "xoutput.a", "output.a.b"])
def test_a_score_that_nobody_knows_is_refused(score: str) -> None:
    """A name of ours, or a field of an answer or of a feedback."""
    assert "gates.b.score: string should match pattern" in refusal(
        f"gates:\n  b: {{metric: score, margin: 0, better: lower, score: {score}}}\n"
    )


# --- freezing ----------------------------------------------------------------------------------------------


def folder(root: Path, body: str = "", *, head: str = HEAD) -> Path:
    """A service folder with a runtime."""
    made = root / "flights"
    made.mkdir()
    (made / "service.yaml").write_text(head + textwrap.dedent(body), "utf-8")
    (made / "runtime.py").write_text("class Runtime: ...\n", "utf-8")
    return made


def frozen(path: Path) -> services.Service:
    """What a bundle reads back from its config part."""
    return services.parse((path / "service.yaml").read_text("utf-8"), where="bundle")


@pytest.mark.parametrize("tier", strategies.DEFAULTS)
def test_what_is_frozen_is_what_was_in_force(tier: str, tmp_path: Path) -> None:
    """The round trip gives the same service, with the chain of the tier written out."""
    made = folder(tmp_path, "gates:\n  slow: {metric: latency_p99, max_ms: 5}\n", head=HEAD.replace("real-time-api", tier))
    live, back = services.load(made), frozen(services.freeze(made, tmp_path / "out"))
    assert back.release.strategy == live.chain == strategies.DEFAULTS[tier]  # type: ignore[index]
    assert back == live.model_copy(update={"release": live.release.model_copy(update={"strategy": live.chain})})


def test_freezing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    """Comments and order do not count, and a frozen file frozen again is itself."""
    first = services.freeze(folder(tmp_path, "description: é\n"), tmp_path / "one")
    (tmp_path / "flights" / "service.yaml").write_text("# a comment\ndescription: é\n" + HEAD, "utf-8")
    second = services.freeze(tmp_path / "flights", tmp_path / "two")
    assert (first / "service.yaml").read_bytes() == (second / "service.yaml").read_bytes()
    (tmp_path / "flights" / "service.yaml").write_bytes((first / "service.yaml").read_bytes())
    third = services.freeze(tmp_path / "flights", tmp_path / "three")
    assert (first / "service.yaml").read_bytes() == (third / "service.yaml").read_bytes()
    assert "é" in (first / "service.yaml").read_text("utf-8")


def test_a_later_default_does_not_reach_back(tmp_path: Path) -> None:
    """Every gate and every phase is written with every key, so nothing is left for a later release to fill in."""
    made = services.freeze(folder(tmp_path), tmp_path / "out")
    written = yaml.safe_load((made / "service.yaml").read_text("utf-8"))
    for name, gate in conditions.DEFAULTS.items():
        assert set(written["gates"][name]) == set(type(gate).model_fields)
    for phase, planned in zip(written["release"]["strategy"], strategies.DEFAULTS["real-time-api"], strict=True):
        assert set(phase) == set(type(planned).model_fields)
    assert set(written["release"]) == set(services.Release.model_fields)
    assert set(written["release"]["recovery"]) == set(services.Recovery.model_fields)


def test_a_later_default_changes_new_services_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain of a tier, and a default gate, change after the freeze: the frozen service keeps what it had."""
    made = services.freeze(folder(tmp_path), tmp_path / "out")
    before = frozen(made)
    monkeypatch.setitem(strategies.DEFAULTS, "real-time-api", (strategies.Approval(phase="approval"),))
    monkeypatch.setitem(conditions.DEFAULTS, "errors", conditions.ErrorRate(metric="error_rate", margin=0.5))
    assert parse().chain == (strategies.Approval(phase="approval"),)
    assert parse().gates["errors"] == conditions.ErrorRate(metric="error_rate", margin=0.5)
    assert frozen(made) == before
    assert frozen(made).gates["errors"] == conditions.ErrorRate(metric="error_rate", margin=0.02)


def test_high_stakes_are_frozen_as_their_chain(tmp_path: Path) -> None:
    """What was in force is written out, so the word alone decides nothing later."""
    made = services.freeze(folder(tmp_path, "release: {high_stakes: true}"), tmp_path / "out")
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
    found = services.parse(OLD, where="bundle")
    assert found.release == services.Release(bake_s=600.0)
    assert (found.chain, found.gates) == (strategies.DEFAULTS["real-time-api"], conditions.DEFAULTS)


def test_options_and_overlays_are_frozen_in_place_of_the_file_s(tmp_path: Path) -> None:
    """Options are laid over one by one, other keys as a whole; what an overlay makes wrong is refused."""
    made = folder(tmp_path, "options: {a: 1, b: 2}\nrelease: {bake_s: 5, alpha: 0.1}\n")
    out = services.freeze(
        made,
        tmp_path / "out",
        options={"b": 3},
        overlay={"release": {"bake_s": 7}, "gates": {"slow": {"metric": "latency_p99", "max_ms": 5}}},
    )
    found = frozen(out)
    assert found.options == {"a": 1, "b": 3}
    assert (found.release.bake_s, found.release.alpha) == (7.0, 0.01)
    assert set(found.gates) == {*conditions.DEFAULTS, "slow"}
    with pytest.raises(errors.UsageError, match=r"service.yaml with release, gates replaced is wrong: line \d+, release.colour"):
        services.freeze(made, tmp_path / "no", overlay={"release": {"colour": 1}, "gates": {}})


def test_freezing_needs_the_code_and_an_empty_place(tmp_path: Path) -> None:
    """Nothing half frozen is left unnoticed."""
    made = folder(tmp_path, "code: [runtime.py, lib/extra.py]\n")
    with pytest.raises(errors.NotFound, match=r"service 'flights' names code file 'lib/extra.py', which .* does not have; correct 'code'"):
        services.freeze(made, tmp_path / "one")
    (made / "lib").mkdir()
    (made / "lib" / "extra.py").write_text("x = 1\n")
    out = services.freeze(made, tmp_path / "deep" / "two")
    assert (out / "lib" / "extra.py").read_text() == "x = 1\n"
    with pytest.raises(errors.UsageError, match="is not empty; freeze a configuration into a new folder"):
        services.freeze(made, out)


def test_loading_says_what_is_wrong_with_the_folder(tmp_path: Path) -> None:
    """A missing file names the services that are there; a name of another service and foreign bytes are refused."""
    made = folder(tmp_path)
    with pytest.raises(errors.NotFound, match=r"no service 'ships': .* is missing; services here: flights$"):
        services.load(tmp_path / "ships")
    with pytest.raises(errors.NotFound, match="services here: none"):
        services.load(tmp_path / "deep" / "ships")
    made.rename(tmp_path / "planes")
    with pytest.raises(errors.UsageError, match="names service 'flights'; rename the folder or the service so that they agree"):
        services.load(tmp_path / "planes")
    (tmp_path / "planes" / "service.yaml").write_bytes(b"owner: \xff\n")
    with pytest.raises(errors.UsageError, match="is not UTF-8: .*; save it as UTF-8"):
        services.load(tmp_path / "planes")
