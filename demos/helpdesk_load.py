"""Questions as traffic, each followed by its user's feedback: helpful if the answer named the right section.

    python -m demos.helpdesk_load --port 8381 --corpus DIR --rate 30 --out FILE --stop FILE

Users search by name, in two words or five; the documentation's own headings are such names, and each section knows its own. The
headings used as questions were withheld from the searched text.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from demos import load_generator as traffic
from services.helpdesk import evaluate


def requests(questions: Sequence[Mapping[str, Any]], *, seed: int = 1) -> Iterator[traffic.Request]:
    """The questions, repeated indefinitely, each round in another order."""
    draw = random.Random(seed)  # noqa: S311  # the order is not secret
    for number in itertools.count():
        for one in draw.sample(list(questions), k=len(questions)):
            yield request(one, number)


def request(one: Mapping[str, Any], number: int) -> traffic.Request:
    """One question, asked in round *number*."""
    right = {section(name) for name in one["answers"]}

    def helpful(answer: Mapping[str, Any]) -> dict[str, Any]:
        named = {section(source["id"]) for source in answer["predictions"][0]["sources"]}
        return {"helpful": bool(named & right)}

    body = json.dumps({"question": one["question"]}).encode()
    return traffic.Request(body=body, facts={"question": one["question"], "right": sorted(right), "round": number}, outcome=helpful)


def section(chunk: str) -> str:
    """The section that a chunk belongs to."""
    return chunk.partition("~")[0]


def main() -> None:
    """Send questions until stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    traffic.options(parser)
    parser.add_argument("--corpus", type=Path, required=True, help="folder with questions.jsonl")
    parser.add_argument("--kind", default="title", choices=["title", "golden"])
    call = parser.parse_args()
    asked = [one for one in evaluate.read_questions(call.corpus / "questions.jsonl") if one["kind"] == call.kind]
    traffic.run(call, requests(asked))


if __name__ == "__main__":
    main()
