"""Questions whose answer is known, taken from the documentation itself: headings that are withheld from what is searched.

golden         headings that end in "?"; asked by people so often that somebody wrote the answer down
title          every tenth other heading: what somebody types who knows what it is called
unanswerable   hand-written; the documentation has nothing on them
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from .chunks import Section

Kind = Literal["golden", "title", "unanswerable"]

TITLES = 10
"""One section in so many gives its heading away as a question."""
MIN_WORDS = 2
MIN_CHARS = 200
UNANSWERABLE = Path(__file__).with_name("unanswerable.txt")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`sections` are the ids of those that answer it."""

    question: str
    kind: Kind
    sections: tuple[str, ...]


def choose(sections: Sequence[Section]) -> list[Question]:
    """The questions that these sections answer, and those that nothing does."""
    often = Counter(section.heading.lower() for section in sections)
    asked: dict[tuple[Kind, str], list[str]] = {}
    for section in sections:
        kind = _kind(section, often=often[section.heading.lower()])
        if kind is not None:
            asked.setdefault((kind, section.heading), []).append(section.id)
    found = [Question(question=heading, kind=kind, sections=tuple(ids)) for (kind, heading), ids in asked.items()]
    return found + [Question(question=line, kind="unanswerable", sections=()) for line in unanswerable()]


def _kind(section: Section, *, often: int) -> Kind | None:
    if section.heading.endswith("?"):
        return "golden"
    telling = often == 1 and len(section.heading.split()) >= MIN_WORDS and sum(map(len, section.paragraphs)) >= MIN_CHARS
    # By the digest of its name, so that a section keeps its part in every version of the documentation.
    drawn = int(hashlib.sha256(section.id.encode()).hexdigest(), 16) % TITLES == 0
    return "title" if telling and drawn and section.heading != section.title else None


def unanswerable() -> list[str]:
    """One question a line; lines that begin with # are for people."""
    lines = (line.strip() for line in UNANSWERABLE.read_text("utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]
