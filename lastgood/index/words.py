"""How a snapshot supports word search, given in its `spec` under `text_search`: a language, `ngram` or `none`.

A language handles the endings and stop words of its own texts and no others; where words are not separated by spaces (Chinese,
Japanese, Korean, Thai), or the languages are mixed, pieces of two letters find what words cannot.

What does not belong here: how an engine implements it (`lancedb`, `pgvector`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lastgood import errors

if TYPE_CHECKING:
    from lastgood.index import base

LANGUAGES = (
    "arabic", "danish", "dutch", "english", "finnish", "french", "german", "greek", "hungarian", "italian", "norwegian",
    "portuguese", "romanian", "russian", "spanish", "swedish", "tamil", "turkish",
)  # fmt: skip
"""The languages that both LanceDB and Postgres support."""
NGRAM, NONE = "ngram", "none"
DEFAULT = "english"
"""For snapshots with no or an unknown setting: those from before there was a choice."""
GRAM = 2
NEARLY_ALL = 0.9
"""Share of questions without any result from word search from which on that is not accidental."""

KEY = "text_search"


def check_spec(spec: Mapping[str, Any]) -> None:
    """Raise UsageError if *spec* names a search method that does not exist."""
    found = spec.get(KEY, DEFAULT)
    if found not in (*LANGUAGES, NGRAM, NONE):
        raise errors.UsageError(
            f"{KEY} is {found!r}; use {NGRAM!r} (any language, also without spaces), {NONE!r}, or one of {', '.join(LANGUAGES)}"
        )


def of_spec(spec: Mapping[str, Any]) -> str:
    """A language, NGRAM or NONE."""
    found = spec.get(KEY, DEFAULT)
    return str(found) if found in (*LANGUAGES, NGRAM, NONE) else DEFAULT


def grams(text: str) -> list[str]:
    """The pieces of GRAM letters of *text*, each once, in lower case; a single letter between others is a piece too."""
    words = re.findall(r"\w+", text.lower())
    return list(dict.fromkeys(word[place : place + GRAM] for word in words for place in range(max(1, len(word) - GRAM + 1))))


def refuse() -> errors.NotAllowed:
    """The error of a reader whose snapshot does not support word search."""
    return errors.NotAllowed(
        f"the index was built with {KEY}: {NONE}, so it cannot be searched by words; search by vector, or build it with a language or {NGRAM!r}"
    )


def check_finds(questions: Iterable[str], search: Callable[[str], Sequence[base.Hit]], *, way: str) -> float:
    """The share of *questions* for which *search* finds anything by words. Raises NotAllowed if nearly all of them find nothing.

    *way* is the result of `of_spec`. A search that never finds anything is silent: the other half of a hybrid answers alone.
    """
    asked = list(itertools.islice(questions, 1000))
    if not asked or way == NONE:
        return 1.0
    share = sum(bool(search(question)) for question in asked) / len(asked)
    if share <= 1 - NEARLY_ALL:
        raise errors.NotAllowed(
            f"a word search finds results for only {share:.0%} of {len(asked)} questions ({KEY}: {way}); "
            f"build the index with the language of its texts or with {NGRAM!r}, or with {NONE!r} if word search is not needed"
        )
    return share
