"""What the gates have in common: how a budget is split, how shares are written, and what the ledger keeps."""

from __future__ import annotations

import json
import math

import pytest

from lastgood.gates import base
from lastgood.gates import evaluator as family
from lastgood.gates.base import Observation, Tally
from lastgood.gates.evaluator import Setup
from tests.gates.paths import GATES, START


def test_evidence_has_nearly_all_of_alpha_and_rows_of_windows_a_fiftieth_of_it() -> None:
    """A window of a whole day is over by chance on so many days; a row of two takes the root for each."""
    setup = Setup(mode="alone", alpha=0.5, since=START)
    assert setup.boundary == pytest.approx(math.log(1 / 0.49))
    day = GATES["errors"].model_copy(update={"window_s": 86_400.0, "persistence": 1})
    assert setup.level(day) == pytest.approx(0.01)
    assert setup.level(day.model_copy(update={"persistence": 2})) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0 %"), (0.01, "1.0 %"), (-0.01, "-1.0 %"), (0.0512, "5.1 %"), (1.0, "100.0 %"),
        (0.00524, "0.52 %"), (-0.00524, "-0.52 %"), (0.0000999, "0.01 %"),
    ],
)  # fmt: skip
def test_a_small_share_has_two_digits(value: float, text: str) -> None:
    """So that a half of a percent and a fifth of it are told apart; from one percent on there is one decimal."""
    assert family.percent(value) == text


def test_a_share_says_what_it_is_made_of() -> None:
    """Weighted counts without decimals; nothing of nothing is unknown."""
    assert family.share_text(31, 612) == "5.1 % (31 of 612)"
    assert family.share_text(20.4, 4000.0) == "0.51 % (20 of 4,000)"
    assert family.share_text(0, 0) == "unknown (none yet)"


@pytest.mark.parametrize(
    "seen",
    [
        Observation(at=5.0),
        Observation(at=5.0, watched=Tally(n=3, bad=1, total=0.5, value=2.0), beside=Tally(n=4, bad=2, total=1.5, value=0.0), share=0.25),
        Observation(at=5.0, beside=Tally()),
        Observation(at=5.0, down=True, detail="timed out"),
    ],
)
def test_what_is_kept_is_what_was_seen(seen: Observation) -> None:
    """All of it, with an arm that is there without anything told from one that is not."""
    assert base.observation(json.loads(json.dumps(seen.to_json()))) == seen
