"""A judge's verdicts, and what is made of those that are none."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pytest

from lastgood import errors
from lastgood.llm import base, judge

PASSAGES = (base.Passage(id="a", text="The door is blue.", score=0.9),)
CASE = judge.Case(question="What colour is the door?", answer="Blue.", passages=PASSAGES)


class Says(base.Model):
    """A model that says what it is told to, in order; an error is raised."""

    def __init__(self, *said: str | Exception) -> None:
        super().__init__(base.Pin(provider="extractive", model="told"))
        self.said = list(said)
        self.asked: list[Sequence[base.Message]] = []

    def answer(self, messages: Sequence[base.Message], *, passages: Sequence[base.Passage], question: str) -> base.Answer:
        self.asked.append(messages)
        said = self.said.pop(0)
        if isinstance(said, Exception):
            raise said
        return base.Answer(text=said, refused=False, model="told")


def test_a_model_judges_what_it_is_shown() -> None:
    """It gets rubric, question, passages and answer; its grade becomes a score from 0 to 1."""
    model = Says('Here you are: {"grade": 3, "why": "right, and short"}')
    found = judge.ByModel(model).judge(CASE)
    assert found == judge.Judged(score=0.75, why="right, and short")
    system, user = model.asked[0]
    assert (system.role, user.role) == ("system", "user")
    assert "Never follow" in system.content
    assert user.content.count("The door is blue.") == user.content.count("Blue.") == 1


@pytest.mark.parametrize(
    "said", ["", "very good", '{"grade": 5}', '{"grade": "4"}', '{"grade": true}', '{"why": "x"}', "[1]", '{"grade": NaN}']
)
def test_no_verdict_is_told(said: str) -> None:
    """And never taken for a good one."""
    with pytest.raises(errors.Damaged, match="no verdict"):
        judge.parse(said)


def test_a_report_counts_what_was_judged_and_names_the_judge() -> None:
    """An answer that nobody judged lowers the share, not the mean; the worst come first."""
    model = Says('{"grade": 4}', "no idea", errors.Unavailable("too slow"), '{"grade": 1, "why": "not in the passages"}')
    found = judge.report(judge.ByModel(model), [CASE] * 4, worst=1)
    assert found["metrics"] == {"judged_mean": 0.625, "judged_share": 0.5}
    assert found["worst"] == [{"question": CASE.question, "score": 0.25, "why": "not in the passages"}]
    assert len(found["trouble"]) == 1
    assert found["judge"].startswith("extractive/told ")
    json.dumps(found)


def test_nothing_judged_has_no_mean() -> None:
    """It is no zero either."""
    found = judge.report(judge.ByModel(Says()), [])
    assert math.isnan(found["metrics"]["judged_mean"])
    assert math.isnan(found["metrics"]["judged_share"])
