"""Answers that are made on this machine: sentences of the passages, and the small model from a package."""

from __future__ import annotations

from typing import Any

import pytest

from lastgood import errors
from lastgood.llm import base, catalog, extractive

GGUF = {"model": "SmolLM2-135M-Instruct.Q4_1.gguf", "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"}
PASSAGES = [
    base.Passage(
        id="a", text="Sessions\n\nA session keeps what a visitor did. The cookie holds only its key.\n\n    import session\n", score=1.0
    ),
    base.Passage(id="b", text="Migrations change the tables of a database. Run them after each release.", score=0.5),
]


def extract(question: str, passages: Any = PASSAGES, **params: Any) -> base.Answer:
    """One answer by words."""
    wanted = {"refusal": "Nobody knows.", **params}
    model = catalog.build(base.parse({"provider": "extractive", "model": "best-sentences", "params": wanted}), environ={})
    return model.answer([], passages=passages, question=question)


def test_an_answer_is_made_of_sentences_that_are_there() -> None:
    """The best ones, in their order, each with where it stands."""
    said = extract("What does the cookie of a session hold?", max_sentences=2, refuse_below=0.2)
    assert said.text == "A session keeps what a visitor did. [a] The cookie holds only its key. [a]"
    assert not said.refused
    assert extract("What does the cookie of a session hold?", max_sentences=2, refuse_below=0.2) == said


def test_what_the_passages_do_not_say_is_refused() -> None:
    """In the words of the pin; no passage at all says nothing."""
    for question, passages in (("How long do I boil an egg?", PASSAGES), ("What is a session?", []), ("?!", PASSAGES), ("", PASSAGES)):
        said = extract(question, passages)
        assert (said.text, said.refused) == ("Nobody knows.", True)


def test_sentences_are_prose() -> None:
    """Headings, code and labels are none."""
    text = "A heading without an end\n\nFirst sentence is here. `Second` one is there!\n\n    code = 1. Never a sentence here.\n\n>>> code(1, 2, 3, 4)."
    assert extractive.sentences(text) == ["First sentence is here.", "`Second` one is there!"]
    assert extractive.sentences("") == []


def test_meaning_is_used_where_there_is_an_embedder() -> None:
    """Scores are rounded, so that the last bits of a machine's sum decide nothing."""
    import numpy as np

    def embed(texts: Any) -> Any:
        return np.array([[1.0, 0.0] if "cookie" in text or "?" in text else [0.0, 1.0] for text in texts], dtype=np.float32)

    pin = base.parse({"provider": "extractive", "model": "x", "params": {"max_sentences": 1}})
    said = catalog.build(pin, environ={}, embed=embed).answer([], passages=PASSAGES, question="What?")
    assert said.text == "The cookie holds only its key. [a]"


def test_the_small_model_answers_the_same_again() -> None:
    """From its package, without a network; greedy, with a seed."""
    pin = base.parse({"provider": "local", **GGUF, "params": {"max_tokens": 12}})
    model = catalog.build(pin, environ={})
    messages = [base.Message(role="user", content="What is the capital of France? Answer in one sentence.")]
    said = [model.answer(messages, passages=[], question="") for _ in range(2)]
    assert "Paris" in said[0].text
    assert said[0] == said[1]
    assert said[0].tokens_out is not None
    model.close()


def test_other_weights_than_the_pinned_ones_are_refused() -> None:
    """And a file that is not there, and a pin without a digest."""
    with pytest.raises(errors.Damaged, match="the bundle pins"):
        catalog.build(base.parse({"provider": "local", "model": GGUF["model"], "sha256": "0" * 64}), environ={})
    with pytest.raises(errors.NotFound, match="local-llm"):
        catalog.build(base.parse({"provider": "local", "model": "other.gguf", "sha256": "0" * 64}), environ={})
    with pytest.raises(errors.UsageError, match="sha256"):
        base.parse({"provider": "local", "model": GGUF["model"]})
