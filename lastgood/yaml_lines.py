"""What is wrong with a YAML file, line by line: the problems that pydantic names, at the lines where they stand."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pydantic
import yaml
from pydantic_core import ErrorDetails


def explain(text: str, error: pydantic.ValidationError) -> str:
    """Each problem of *error* with the line of *text* it is about, the key, and what to do; one sentence each."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    found = [_problem(root, item) for item in error.errors(include_url=False)]
    return "; ".join(dict.fromkeys(found))


_REMEDIES = {"missing": "add it", "extra_forbidden": "take it out or correct its name", "union_tag_not_found": "add it"}
_NAMED = re.compile(r"(?:gate '([^']+)'|(release)\.(\w+)) ")


def _problem(root: yaml.Node | None, item: ErrorDetails) -> str:
    message, loc = item["msg"].removeprefix("Value error, "), item["loc"]
    context = item.get("ctx", {})
    if item["type"] == "union_tag_invalid":
        message = f"{context['discriminator'].strip(chr(39))} {context['tag']!r} is not known; use one of {context['expected_tags']}"
    elif item["type"] == "union_tag_not_found":
        message = f"{context['discriminator']} is missing"
    if not loc and (named := _NAMED.match(message)):  # a rule about the whole service that names what it is about
        loc = ("gates", named[1]) if named[1] else (named[2], named[3])
    line, path = _find(root, loc)
    where = f"line {line}, {'.'.join(path)}" if path else f"line {line}"
    said = message[:1].lower() + message[1:]
    return f"{where}: {said}" + ("" if ";" in said else f"; {_REMEDIES.get(item['type'], 'correct it')}")


_TAGS = ("metric", "phase")
"""Keys by whose value pydantic chooses among kinds, and which it then names on the way to what is wrong."""


def _find(root: yaml.Node | None, loc: Sequence[int | str]) -> tuple[int, list[str]]:
    """The line of the deepest node on the way *loc* that is there, and the keys that lead to it and beyond.

    Pydantic puts the kind into the way (`gates.errors.error_rate.margin`); that is passed over, once for each mapping.
    """
    node, line, path = root, 1, []
    passed: yaml.Node | None = None
    for position, step in enumerate(loc):
        if isinstance(node, yaml.MappingNode):
            if node is not passed and any(key.value in _TAGS and value.value == step for key, value in node.value):
                passed = node
                continue
            match = [(key, value) for key, value in node.value if key.value == step]
            if match:
                line, node = match[0][0].start_mark.line + 1, match[0][1]
                path.append(str(step))
            elif position == len(loc) - 1:
                path.append(str(step))
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
            path.append(str(step))
    return line, path
