"""What a service.yaml may say: each contradiction is refused with its line, its key and a remedy."""

from __future__ import annotations

import textwrap

import pytest

from lastgood import errors
from lastgood.service import schema

HEAD = """\
schema: lastgood.service/v1
service: flights
tier: real-time-api
owner: tests
traffic: {port: 8380}
"""


def parse(body: str = "", *, head: str = HEAD) -> schema.Service:
    """The service that *head* and *body* describe."""
    return schema.parse(head + textwrap.dedent(body), where="service.yaml")


def refusal(body: str, *, head: str = HEAD) -> str:
    """What is wrong with *body*, without the name of the file."""
    with pytest.raises(errors.UsageError) as caught:
        parse(body, head=head)
    start, said = str(caught.value).split(": ", 1)
    assert start == "service.yaml is invalid"
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
        "gates.quality: metric 'brier' is unknown; use one of 'error_rate', 'latency_p99', 'score', ",
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
        "gates.slow.window: extra inputs are not permitted; remove it or correct its name",
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
        "gates.b: gate 'b' is not used in any phase; name one in 'during', or remove the gate",
    ),
    "a guardrail that waits for a person": (
        """
        gates:
          b: {metric: error_rate, resume: person}  # here
        """,
        "gates.b: gate 'b' is a guardrail, which holds no release, but has 'resume: person'; make it a signal, or remove 'resume'",
    ),
    "agreement without a mirror": (
        """
        gates:
          a: {metric: error_rate}
          b: {metric: agreement, min: 0.9}  # here
        """,
        "gates.b: gate 'b' compares mirrored answers, but no phase has mirror_pct; add a shadow phase, or remove the gate",
    ),
    "an agreement for ever": (
        """
        tier: rag
        gates:
          b: {metric: agreement, min: 0.9, watch: always}  # here
        """,
        "gates.b: gate 'b' needs a candidate, but has 'watch: always'; remove 'watch'",
    ),
    "a split for ever": (
        """
        gates:
          split: {metric: sample_ratio, watch: always}  # here
        """,
        "gates.split: gate 'split' needs a candidate, but has 'watch: always'; remove 'watch'",
    ),
    "ejections for ever": (
        """
        gates:
          out: {metric: ejections, watch: always}  # here
        """,
        "gates.out: gate 'out' needs a candidate, but has 'watch: always'; remove 'watch'",
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
    "a query that cannot tell the control arm": (
        """
        release: {control_arm: true}
        gates:
          queue: {metric: promql, query: "depth{bundle='$bundle'}", margin: 1}  # here
        """,
        "gates.queue: gate 'queue' cannot tell the control arm from the rest of stable; put $arm into its query",
    ),
    "a control arm without a canary": (
        """
        release:
          control_arm: true  # here
          strategy: [{phase: shadow}]
        """,
        "release.control_arm: release.control_arm compares two shares of the users, but no phase is a canary; add one, or remove release.control_arm",
    ),
    "a control arm and copies": (
        """
        release:
          strategy: [{phase: canary, weight_pct: 5, mirror_pct: 10}]
          control_arm: true  # here
        """,
        (
            "release.control_arm: release.control_arm compares answers to different users, mirror_pct in a canary compares answers to the same rows; "
            "remove one of them"
        ),
    ),
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
        "release.strategy.1: phase 'blue' is unknown; use one of 'shadow', 'canary', 'approval'",
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
        "release.strategy: weight_pct must increase from canary to canary, not 5, 50, 25.5; sort or change them",
    ),
    "a weight twice": (
        """
        release:
          strategy:  # here
            - {phase: canary, weight_pct: 5}
            - {phase: canary, weight_pct: 5}
        """,
        "release.strategy: weight_pct must increase from canary to canary, not 5, 5; sort or change them",
    ),
    "phases out of order": (
        """
        release:
          strategy:  # here
            - {phase: canary, weight_pct: 5}
            - {phase: shadow}
        """,
        "release.strategy: phases must be in the order shadow, canary, approval, not canary, shadow; sort them",
    ),
    "an approval before the canary": (
        """
        release:
          strategy: [{phase: approval}, {phase: canary, weight_pct: 5}]  # here
        """,
        "release.strategy: phases must be in the order shadow, canary, approval, not approval, canary; sort them",
    ),
    "two approvals": (
        """
        release:
          strategy: [{phase: approval}, {phase: approval}]  # here
        """,
        "release.strategy: only the last phase can be an approval; name it once, at the end",
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
    "an unknown key": ("colour: red  # here\n", "colour: extra inputs are not permitted; remove it or correct its name"),
    "an unknown part": (
        "parts: [model, soul]  # here\n",
        "parts: unknown parts ['soul']; a bundle has data, model, prompt, index, config, environment",
    ),
    "code from elsewhere": ("code: [runtime.py, ../x.py]  # here\n", "code: '../x.py' is outside the service folder; name files inside it"),
    "code from the root": ("code: [/etc/x.py]  # here\n", "code: '/etc/x.py' is outside the service folder; name files inside it"),
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
        "'margin' compares two arms, but the query contains neither $bundle nor $arm; add one, or use 'max'",
    ),
    "a score without a direction": (
        "gates:\n  b:  # here\n    metric: score\n    score: outcome.bought\n    margin: 1\n",
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
    assert said.startswith("'Flights' is not a valid service name; use 2 to 40 lower-case letters")
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


@pytest.mark.parametrize("score", ["Brier", "bought", "output.", "output.a-b", "outcome.1", "xoutput.a", "output.a.b"])
def test_a_score_that_nobody_knows_is_refused(score: str) -> None:
    """A name of ours, or a field of an answer or of a feedback."""
    assert "gates.b.score: string should match pattern" in refusal(
        f"gates:\n  b: {{metric: score, margin: 0, better: lower, score: {score}}}\n"
    )
