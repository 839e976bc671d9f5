"""Scores and agreement from the inference log and feedback, against a plain computation over the same rows."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lastgood.gates.base import Observation, Tally
from lastgood.service import gates
from lastgood.serving import inference_log, segments
from lastgood.sources import inference
from tests.layers.traffic.world import A, B, C
from tests.sources.logs import BEGIN, SERVICE, Logs
from tests.sources.looking import Looker

STABLE, NEW = A.id, B.id


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    """Empty logs."""
    return Logs(tmp_path)


def gate(score: str = "brier", **more: Any) -> gates.Score:
    """A score gate with blocks of ten seconds."""
    better = {"better": "higher"} if "." in score else {}
    return gates.Score.model_validate({"metric": "score", "score": score, "margin": 0.01, "block_s": 10.0, **better, **more})


def looker(logs: Logs, which: gates.AnyGate, *, beside: str | None = STABLE, watched: str = NEW, **more: Any) -> Looker:
    """A gate's place at a new source, after a first look at BEGIN."""
    made = Looker(inference.InferenceSource(logs.settings, SERVICE), which, watched, beside, since=BEGIN - 1000, **more)
    assert made.look(BEGIN) == []
    return made


def look(one: Looker, at: float) -> list[Observation]:
    """A look; *at* counts from BEGIN."""
    return one.look(BEGIN + at)


def total(seen: list[Observation], arm: str = "watched") -> Tally:
    """The sum of all observations of an arm."""
    found = [tally for tally in (getattr(one, arm) for one in seen) if tally is not None]
    return Tally(n=sum(t.n for t in found), bad=sum(t.bad for t in found), total=math.fsum(t.total for t in found))


@pytest.mark.parametrize(
    ("score", "formula"),
    [
        ("brier", lambda p, y: (p - y) ** 2),
        ("squared_error", lambda p, y: (p - y) ** 2),
        ("absolute_error", lambda p, y: abs(p - y)),
        ("accuracy", lambda p, y: float((p >= 0.5) == (y == 1))),
        ("log_loss", lambda p, y: -math.log(max(p if y == 1 else 1 - p, 1e-15))),
    ],
)
def test_scores_of_two_arms_are_those_of_a_plain_computation(logs: Logs, score: str, formula: Callable[[float, float], float]) -> None:
    """Live requests split over two bundles, batches and all: each block's n and sum are what pandas gets from the same rows."""
    chance = random.Random(7)
    one = looker(logs, gate(score))
    rows = []
    for number in range(120):
        at, bundle = number / 2, chance.choice([STABLE, NEW])
        outputs = [chance.choice([0.0, 1.0, chance.random()]) for _ in range(chance.randint(1, 3))]
        logs.answered(f"r{number}", bundle, at, *outputs, flush=False)
        for row, p in enumerate(outputs):
            if chance.random() < 0.8:
                y = float(chance.random() < 0.4)
                logs.happened(f"r{number}", at + 1, y, row=row, flush=False)
                rows.append({"block": int(at // 10), "bundle": bundle, "score": formula(p, y)})
    logs.flush()
    seen = look(one, 200)
    frame = pd.DataFrame(rows)
    assert [observation.at for observation in seen] == [BEGIN + 10 * (block + 1) for block in sorted(frame["block"].unique())]
    for observation, (_, block) in zip(seen, frame.groupby("block"), strict=True):
        for tally, bundle in ((observation.watched, NEW), (observation.beside, STABLE)):
            scores = block[block["bundle"] == bundle]["score"]
            assert tally is not None
            assert tally.n == len(scores)
            assert tally.total == pytest.approx(scores.sum())
    assert look(one, 201) == []


def test_copies_are_paired_with_what_users_got(logs: Logs) -> None:
    """In shadow only rows count that both bundles answered and that have a label; n is equal on both sides."""
    one = looker(logs, gate(), mirrored=True)
    for number in range(20):
        logs.answered(f"r{number}", STABLE, number / 10, 0.5)
        if number % 2:
            logs.answered(f"r{number}", NEW, number / 10 + 0.01, 0.9, shadow=True)
        if number % 5:
            logs.happened(f"r{number}", 3, 1.0)
    logs.answered("only-new", NEW, 1.0, 0.9, shadow=True)
    logs.happened("only-new", 3, 1.0)
    (seen,) = look(one, 30)
    pairs = sum(1 for number in range(20) if number % 2 and number % 5)
    assert seen.watched.n == pairs
    assert seen.watched.total == pytest.approx(0.01 * pairs)
    assert seen.beside is not None
    assert (seen.beside.n, seen.beside.total) == (pairs, pytest.approx(0.25 * pairs))


def test_a_canary_that_is_mirrored_uses_the_pairs(logs: Logs) -> None:
    """Live and mirrored rows of the candidate in one block: the pairs count, the live rows do not."""
    one = looker(logs, gate(), share=0.5, copied=True)
    for number in range(10):
        live = NEW if number % 2 else STABLE
        logs.answered(f"r{number}", live, number / 10, 0.3, arm="candidate" if number % 2 else "stable")
        if live == STABLE:
            logs.answered(f"r{number}", NEW, number / 10, 0.8, shadow=True)
        logs.happened(f"r{number}", 2, 1.0)
    (seen,) = look(one, 30)
    assert seen.watched == Tally(n=5, total=pytest.approx(5 * 0.04))
    assert seen.beside == Tally(n=5, total=pytest.approx(5 * 0.49))
    assert seen.share == 0.5


def test_rows_that_look_like_copies_make_no_pairs_where_none_are_sent(logs: Logs) -> None:
    """A canary without a mirror counts its users, whatever single rows claim to be: nobody makes a gate blind by one forged copy."""
    one = looker(logs, gate(), share=0.5)
    for number in range(10):
        live = NEW if number % 2 else STABLE
        logs.answered(f"r{number}", live, number / 10, 0.3, arm="candidate" if number % 2 else "stable")
        if live == STABLE:
            logs.answered(f"r{number}", NEW, number / 10, 0.8, shadow=True)
        logs.happened(f"r{number}", 2, 1.0)
    (seen,) = look(one, 30)
    assert seen.watched == Tally(n=5, total=pytest.approx(5 * 0.49))
    assert seen.beside == Tally(n=5, total=pytest.approx(5 * 0.49))


def test_a_label_under_the_callers_id_counts_where_that_names_one_request(logs: Logs) -> None:
    """Before and after the answer was read; under an id that two requests had it labels neither, and is told."""
    one = looker(logs, gate(), share=0.5)
    look(one, 0)
    logs.happened("early", 0.1, 1.0)
    look(one, 0.2)
    logs.answered("r0", NEW, 0.3, 0.8, caller_id="early")
    logs.answered("r1", NEW, 0.4, 0.8, caller_id="mine")
    for number in (2, 3):
        logs.answered(f"r{number}", NEW, 0.5, 0.8, caller_id="trace")
    logs.happened("mine", 2, 1.0)
    logs.happened("trace", 2, 0.0)
    (seen,) = look(one, 30)
    assert seen.watched == Tally(n=2, total=pytest.approx(2 * 0.04))
    assert "1 labels match several requests" in seen.detail


def test_the_requests_own_id_goes_before_what_callers_wrote(logs: Logs) -> None:
    """Whoever sends another one's id as its own x-request-id does not get that one's label."""
    one = looker(logs, gate(), share=0.5)
    look(one, 0)
    logs.answered("r0", NEW, 0.3, 0.8)
    logs.answered("r1", NEW, 0.4, 0.1, caller_id="r0")
    logs.happened("r0", 2, 1.0)
    (seen,) = look(one, 30)
    assert seen.watched == Tally(n=1, total=pytest.approx(0.04))


def test_what_came_of_an_answer_is_that_of_whoever_gave_it(logs: Logs) -> None:
    """Copies were answered too, by nobody's leave: pairing them would hold each outcome against itself."""
    one = looker(logs, gate("outcome.bought", better="higher", margin=0.01), share=0.5)
    for number in range(10):
        live = NEW if number % 2 else STABLE
        logs.answered(f"r{number}", live, number / 10, 0.3, arm="candidate" if number % 2 else "stable")
        if live == STABLE:
            logs.answered(f"r{number}", NEW, number / 10, 0.8, shadow=True)
        logs.happened(f"r{number}", 2, None, bought=int(live == STABLE))
    (seen,) = look(one, 30)
    assert (seen.watched, seen.beside) == (Tally(n=5), Tally(n=5, total=5.0))


def test_a_bundle_alone_has_nothing_beside_it(logs: Logs) -> None:
    """After the cut-over the rows of others are not its matter."""
    one = looker(logs, gate(), watched=STABLE, beside=None)
    logs.answered("r1", STABLE, 1, 0.5)
    logs.answered("r2", NEW, 1, 0.5)
    logs.answered("r3", STABLE, 1, 0.5, shadow=True)
    for name in ("r1", "r2", "r3"):
        logs.happened(name, 2, 0.0)
    (seen,) = look(one, 30)
    assert (seen.watched.n, seen.beside) == (1, None)


def test_debug_requests_and_strangers_do_not_count(logs: Logs) -> None:
    """Who chose a bundle by token is no user, and a third bundle's rows are no evidence about these two."""
    one = looker(logs, gate())
    logs.answered("debug", NEW, 1, 0.5, arm="debug")
    logs.answered("other", C.id, 1, 0.5)
    logs.answered("user", NEW, 1, 0.5, arm="candidate")
    for name in ("debug", "other", "user"):
        logs.happened(name, 2, 0.0)
    assert total(look(one, 30)).n == 1


def test_what_was_answered_before_the_first_look_does_not_count(logs: Logs) -> None:
    """A release under way begins with its own evidence."""
    logs.answered("before", NEW, -5, 0.5)
    one = looker(logs, gate())
    logs.happened("before", 1, 1.0)
    logs.answered("after", NEW, 1, 0.5)
    logs.happened("after", 2, 1.0)
    assert total(look(one, 30)).n == 1


def test_twice_answered_and_twice_told_counts_once(logs: Logs) -> None:
    """A client repeats a request and a label: the newest of each holds, whatever the order on disk."""
    one = looker(logs, gate())
    logs.answered("r", NEW, 2, 0.9)
    logs.answered("r", NEW, 1, 0.1)
    logs.happened("r", 4, 1.0)
    logs.happened("r", 3, 0.0)
    (seen,) = look(one, 30)
    assert (seen.watched.n, seen.watched.total) == (1, pytest.approx(0.01))


def test_a_label_that_comes_before_its_answer_is_on_disk_is_not_lost(logs: Logs) -> None:
    """The two logs are flushed at different moments."""
    one = looker(logs, gate())
    logs.answered("r", NEW, 1, 0.9, flush=False)
    logs.happened("r", 1.2, 1.0)
    assert look(one, 2) == []
    logs.flush()
    assert total(look(one, 30)).n == 1


def test_a_block_waits_for_labels_that_are_still_coming(logs: Logs) -> None:
    """As long as a label came within a block's length the block stays open; it is handed out once, with all of them."""
    one = looker(logs, gate())
    for number in range(6):
        logs.answered(f"r{number}", NEW, 1, 0.5)
    for number in range(6):
        logs.happened(f"r{number}", 12 + 8 * number, 1.0)
        assert look(one, 13 + 8 * number) == []
    assert look(one, 61) == []
    assert total(look(one, 62.5)).n == 6


def test_a_later_block_that_is_mostly_labelled_closes_those_before_it(logs: Logs) -> None:
    """Labels come in the order of the answers: the next block tells that this one will get no more."""
    one = looker(logs, gate(block_s=100.0))
    for number in range(4):
        logs.answered(f"a{number}", NEW, 50, 0.5)
        logs.answered(f"b{number}", NEW, 150, 0.5)
    logs.happened("a0", 210, 1.0)
    logs.happened("b0", 210, 1.0)
    logs.happened("b1", 210, 1.0)
    assert look(one, 211) == []
    logs.happened("b2", 211, 1.0)
    (seen,) = look(one, 212)
    assert (seen.at, seen.watched.n) == (BEGIN + 100, 1)
    assert total(look(one, 312)).n == 3


def test_late_labels_are_counted_and_left_out(logs: Logs) -> None:
    """A straggler of a block that was handed out would make one stretch of time two observations; it is told instead."""
    one = looker(logs, gate())
    for number in range(3):
        logs.answered(f"r{number}", NEW, 1, 0.5)
    logs.happened("r0", 2, 1.0)
    assert total(look(one, 30)).n == 1
    logs.happened("r1", 40, 1.0)
    logs.answered("next", NEW, 41, 0.5)
    logs.happened("next", 42, 1.0)
    (seen,) = look(one, 90)
    assert seen.watched.n == 1
    assert "1 labels arrived after their block was closed" in seen.detail
    again = Looker(inference.InferenceSource(logs.settings, SERVICE), one.asked.gate, NEW, STABLE, since=BEGIN - 1000)
    again.cursor = one.cursor
    logs.answered("last", NEW, 91, 0.5)
    logs.happened("last", 92, 1.0)
    (seen,) = again.look(BEGIN + 150)
    assert (seen.watched.n, seen.detail) == (1, "1 labels arrived after their block was closed, or belong to no answer of these bundles")


def test_a_restart_changes_nothing(logs: Logs) -> None:
    """One controller all the way, and another one that is killed after every third look: the same observations."""
    chance = random.Random(3)
    steady, killed = looker(logs, gate()), looker(logs, gate())
    seen: dict[str, list[Observation]] = {"steady": [], "killed": []}
    waiting: list[tuple[float, str]] = []
    for tick in range(0, 300, 2):
        for number in range(3):
            name = f"r{tick}-{number}"
            logs.answered(name, chance.choice([STABLE, NEW]), tick + chance.random(), chance.random(), flush=False)
            waiting.append((tick + chance.expovariate(1 / 8), name))
        for due, name in [item for item in waiting if item[0] <= tick]:
            waiting.remove((due, name))
            logs.happened(name, due, float(chance.random() < 0.5), flush=False)
        logs.flush()
        if tick % 60 == 58:
            logs.merge()
        seen["steady"] += look(steady, tick + 2)
        if tick % 6 == 0:
            killed.source = inference.InferenceSource(logs.settings, SERVICE)
        seen["killed"] += look(killed, tick + 2)
    assert len(seen["steady"]) > 20
    assert [one.to_json() for one in seen["killed"]] == [one.to_json() for one in seen["steady"]]


def test_a_record_that_was_not_kept_is_asked_for_again(logs: Logs) -> None:
    """The ledger refused a measurement: with the old cursor the same block comes once more."""
    one = looker(logs, gate())
    logs.answered("r", NEW, 1, 0.5)
    logs.happened("r", 2, 1.0)
    cursor = one.cursor
    first = look(one, 30)
    one.cursor = cursor
    assert look(one, 31) == first
    assert look(one, 32) == []


def test_two_gates_alike_both_get_their_blocks(logs: Logs) -> None:
    """Two names for one definition share what is in memory and lose nothing to each other."""
    one = looker(logs, gate())
    other = Looker(one.source, one.asked.gate, NEW, STABLE, since=BEGIN - 1000)
    other.look(BEGIN)
    for block in range(5):
        logs.answered(f"r{block}", NEW, block * 10 + 1, 0.5)
        logs.happened(f"r{block}", block * 10 + 2, 1.0)
        now = block * 10 + 20
        assert [o.to_json() for o in look(one, now)] == [o.to_json() for o in look(other, now)] != []


def test_fields_of_answers_and_of_feedback_are_scores_too(logs: Logs) -> None:
    """output.FIELD needs no feedback; outcome.FIELD takes numbers and truth values, from whichever feedback has them last."""
    answer, outcome = looker(logs, gate("output.tokens")), looker(logs, gate("outcome.solved"))
    logs.answered("a", NEW, 1, {"tokens": 12}, {"tokens": "many"}, {"tokens": 8})
    logs.answered("b", STABLE, 1, {"tokens": 5})
    logs.happened("a", 2, None, row=0, solved=True)
    logs.happened("a", 2, None, row=2, solved=False)
    logs.happened("a", 3, None, row=2, price=9)
    logs.happened("b", 2, None, solved=1)
    (seen,) = look(answer, 16)
    assert (seen.watched, seen.beside) == (Tally(n=2, total=20.0), Tally(n=1, total=5.0))
    (seen,) = look(outcome, 30)
    assert (seen.watched, seen.beside) == (Tally(n=2, total=1.0), Tally(n=1, total=1.0))


def test_answers_without_a_probability_have_no_score(logs: Logs) -> None:
    """A row that cannot be scored counts on neither side of a pair."""
    one = looker(logs, gate(), mirrored=True)
    for name, probability in (("r1", 0.5), ("r2", None)):
        logs.answered(name, STABLE, 1, 0.5)
        logs.answered(name, NEW, 1, {"probability": probability}, shadow=True)
        logs.happened(name, 2, 1.0)
    assert total(look(one, 30)).n == 1


AGREEMENT = gates.Agreement(metric="agreement", min=0.9, tolerance=0.1)


def test_agreement_compares_answers_to_the_same_request(logs: Logs) -> None:
    """Probabilities within the tolerance, other answers if they are equal; no label is needed, rows of one side do not count."""
    one = looker(logs, AGREEMENT, mirrored=True)
    cases: list[tuple[Any, Any, bool]] = [
        (0.8, 0.7, True),
        (0.8, 0.69, False),
        ({"text": "a", "n": [1]}, {"n": [1], "text": "a"}, True),
        ({"text": "a"}, {"text": "b"}, False),
        ({"text": "a"}, 0.5, False),
    ]
    for number, (mine, theirs, _) in enumerate(cases):
        logs.answered(f"r{number}", STABLE, 1, theirs)
        logs.answered(f"r{number}", NEW, 1.02, mine, shadow=True)
    logs.answered("alone", STABLE, 1, 0.5)
    logs.answered("live", NEW, 1, 0.5)
    assert look(one, 3) == []
    (seen,) = look(one, 8)
    assert (seen.watched.n, seen.watched.bad) == (len(cases), sum(not alike for *_, alike in cases))
    assert seen.beside is None
    assert look(one, 9) == []


def test_agreement_counts_each_pair_once_over_many_looks_and_restarts(logs: Logs) -> None:
    """Pairs come all the time, some on the edge of two looks, and the controller is killed now and then."""
    chance = random.Random(5)
    one = looker(logs, AGREEMENT, mirrored=True)
    expected = found = 0
    for tick in range(60):
        for number in range(10):
            name, at, alike = f"r{tick}-{number}", tick + chance.random(), chance.random() < 0.8
            logs.answered(name, STABLE, at, 0.5, flush=False)
            logs.answered(name, NEW, at + 0.05, 0.5 if alike else 0.9, shadow=True, flush=False)
            expected += not alike
        logs.flush()
        if tick % 20 == 9:
            logs.merge()
            one.source = inference.InferenceSource(logs.settings, SERVICE)
        found += total(look(one, tick + 1)).bad
    seen = total(look(one, 100))
    assert found + seen.bad == expected


def test_a_look_opens_no_file_twice(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three gates, many looks: each segment is opened once for all, so a look does not get dearer with time."""
    opened: list[str] = []
    load = segments.load_segment
    monkeypatch.setattr(segments, "load_segment", lambda path, **asked: (opened.append(path.name), load(path, **asked))[1])
    source = inference.InferenceSource(logs.settings, SERVICE)
    lookers = [Looker(source, which, NEW, STABLE, mirrored=True, since=BEGIN) for which in (gate(), gate("log_loss"), AGREEMENT)]
    for one in lookers:
        one.look(BEGIN)
    per_look = []
    for tick in range(70):
        logs.answered(f"r{tick}", STABLE, tick, 0.5)
        logs.answered(f"r{tick}", NEW, tick, 0.6, shadow=True)
        logs.happened(f"r{tick}", tick, 1.0)
        before = len(opened)
        for one in lookers:
            one.look(BEGIN + tick + 1)
        per_look.append(len(opened) - before)
        if tick % 20 == 19:
            logs.merge()
    assert set(per_look) == {3}


def test_memory_is_bounded_and_the_rest_is_a_fair_sample(logs: Logs) -> None:
    """Labels stay away for long: past the limit rows are thinned out by request, pairs stay pairs, and it is told."""
    source = inference.InferenceSource(logs.settings, SERVICE, capacity=200)
    one = Looker(source, gate(block_s=1000.0), NEW, STABLE, mirrored=True)
    one.look(BEGIN)
    for number in range(1000):
        logs.answered(f"r{number}", STABLE, number / 2, 0.5, flush=False)
        logs.answered(f"r{number}", NEW, number / 2, 0.9, shadow=True, flush=False)
    logs.flush()
    assert look(one, 600) == []
    (held,) = source._open.values()
    assert len(held.blocks._place) <= 200
    for number in range(1000):
        logs.happened(f"r{number}", 700, 1.0, flush=False)
    logs.flush()
    (seen,) = look(one, 3000)
    assert 60 <= seen.watched.n <= 200
    assert seen.beside is not None
    assert seen.watched.n == seen.beside.n
    assert seen.watched.total == pytest.approx(0.01 * seen.watched.n)
    assert "one request in 8 counts" in seen.detail


def test_a_log_that_is_not_there_yet_is_not_down(logs: Logs) -> None:
    """Nobody has asked anything yet."""
    one = looker(logs, gate())
    assert look(one, 100) == []


def test_a_damaged_log_is_down_and_goes_on_when_it_is_mended(logs: Logs) -> None:
    """The segment is named; what was read and what comes later is not lost."""
    one = looker(logs, gate())
    logs.answered("r1", NEW, 1, 0.5)
    logs.happened("r1", 2, 1.0)
    folder = logs.settings.inference(SERVICE) / inference_log.PREDICTIONS
    damaged = next(folder.glob("dt=*")) / "z.00000001-00000001.parquet"
    damaged.write_bytes(b"PAR1")
    (seen,) = look(one, 30)
    assert seen.down
    assert damaged.name in seen.detail
    damaged.unlink()
    (seen,) = look(one, 31)
    assert (seen.down, seen.watched.n) == (False, 1)


def test_with_a_control_arm_only_its_rows_stand_beside(logs: Logs) -> None:
    """Stable's other rows came from an older process with more to do, and are left out."""
    one = looker(logs, gate(), share=0.5, control=True)
    for number, arm in enumerate(["candidate", "control", "stable", "stable", "debug"]):
        logs.answered(f"r{number}", NEW if arm == "candidate" else STABLE, number / 10, 0.3 if arm != "control" else 0.8, arm=arm)
        logs.happened(f"r{number}", 2, 1.0)
    (seen,) = look(one, 30)
    assert (seen.watched.n, seen.beside) == (1, Tally(n=1, total=pytest.approx(0.04)))
