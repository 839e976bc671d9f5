"""An answer made of sentences from the passages: no model, nothing invented, the same bytes every time.

What does not belong here: finding the passages.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lastgood.llm import base

if TYPE_CHECKING:
    from lastgood.llm.base import Embed

_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`\"'(])")
_CODE = re.compile(r"^(\s{2,}|>>> |\$ )")
MIN_WORDS = 4
"""A sentence of fewer words is a heading or a label, and does not answer anything."""


class Extractive(base.Model):
    """See the module. With *embed* sentences are compared by meaning, otherwise by their words."""

    def __init__(self, pin: base.Pin, *, embed: Embed | None = None) -> None:
        super().__init__(pin)
        self._embed = embed

    def answer(self, messages: Sequence[base.Message], *, passages: Sequence[base.Passage], question: str) -> base.Answer:
        found = [(place, sentence) for place, passage in enumerate(passages) for sentence in sentences(passage.text)]
        params = self.pin.params
        scores = self._scores(question, [sentence for _, sentence in found])
        best = sorted(range(len(found)), key=lambda number: (-scores[number], number))[: params.max_sentences]
        if not best or scores[best[0]] < params.refuse_below:
            return base.Answer(text=params.refusal, refused=True, model=self.pin.model)
        kept = [number for number in sorted(best) if scores[number] >= params.refuse_below / 2]
        text = " ".join(f"{found[number][1]} [{passages[found[number][0]].id}]" for number in kept)
        return base.Answer(text=text, refused=False, model=self.pin.model)

    def _scores(self, question: str, texts: Sequence[str]) -> list[float]:
        if self._embed is None or not texts:
            return by_words(question, texts)
        vectors = self._embed([question, *texts])
        # Rounded to six digits, so that the last bits of a sum, which differ between machines, decide nothing.
        return [round(float(value), 6) for value in vectors[1:] @ vectors[0]]


def sentences(text: str) -> list[str]:
    """The sentences of *text*, without lines of code, headings, and pieces of hardly a word."""
    prose: list[str] = []
    for block in text.split("\n\n"):
        lines = [line.strip() for line in block.split("\n") if not _CODE.match(line)]
        prose += _END.split(" ".join(lines))
    return [sentence.strip() for sentence in prose if len(sentence.split()) >= MIN_WORDS and sentence.rstrip()[-1] in ".!?:)"]


def by_words(question: str, texts: Sequence[str]) -> list[float]:
    """For each text, the share of the question's words in it, rare ones counting more (idf over *texts*); 0 to 1."""
    asked = set(_words(question))
    held = [set(_words(text)) for text in texts]
    often = Counter(word for words in held for word in words)
    weight = {word: math.log(1 + len(texts) / (1 + often[word])) for word in asked}
    total = math.fsum(weight.values())
    return [round(math.fsum(weight[word] for word in asked & words) / total, 6) if total else 0.0 for words in held]


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"[^\W_]+", text.lower()) if len(word) > 2]
