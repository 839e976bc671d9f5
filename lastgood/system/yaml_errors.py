"""Errors in a YAML file, line by line: the problems that pydantic reports, with the lines they are on."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pydantic
import yaml
from pydantic_core import ErrorDetails

from lastgood import errors
from lastgood.system import plain


class _Strict(yaml.SafeLoader):
    """Refuses a duplicate key: YAML itself silently lets the second one replace the first."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Checked before merges (`<<`) insert keys that may be overridden."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if (key.tag, key.value) in first:
                    before = first[key.tag, key.value]
                    raise DuplicateKey(f"line {line}: the key {key.value[:80]!r} appears twice, first in line {before}; keep one of them")
                first[key.tag, key.value] = line
        return node


class DuplicateKey(ValueError):
    """A duplicate key in one mapping."""


def load(text: str, *, where: str) -> Any:
    """The value of *text* (YAML, of plain kinds only). Raises UsageError, naming *where* and the line, without quoting the text.

    A duplicate key is an error: its meaning is ambiguous, and the first one would be silently lost.
    """
    loader = None
    try:
        loader = _Strict(text)
        return loader.get_single_data()
    except DuplicateKey as error:
        raise errors.UsageError(f"{where} is invalid: {error}") from None
    except yaml.YAMLError as error:
        raise errors.UsageError(f"{where} is not valid YAML: {_said(error)}; correct that line") from None
    except (ValueError, TypeError, RecursionError) as error:  # an invalid date, unbounded nesting
        raise errors.UsageError(f"{where} is not valid YAML: {type(error).__name__}; correct it") from None
    finally:
        if loader is not None:
            loader.dispose()


def _said(error: yaml.YAMLError) -> str:
    """The error and its location, without the excerpt that yaml shows: files that people write may contain secrets."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        return f"{place}{error.problem or error.context or 'it does not parse'}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"character {error.position + 1} is not allowed"
    return "it cannot be parsed"


def check_json(text: str | bytes) -> Any:
    """The value of *text* (canonical JSON). Raises ValueError for a duplicate key in one object, and for invalid JSON."""
    return json.loads(text, object_pairs_hook=_once, parse_int=plain.number)


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)[:80]!r} appears twice")
    return found


def explain(text: str, error: pydantic.ValidationError) -> str:
    """Each problem in *error* with its line in *text*, the key, and the remedy; one sentence each."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    found = [_problem(root, item) for item in error.errors(include_url=False)]
    return "; ".join(dict.fromkeys(found))


_REMEDIES = {"missing": "add it", "extra_forbidden": "remove it or correct its name", "union_tag_not_found": "add it"}
_NAMED = re.compile(r"(?:gate '([^']+)'|(release)\.(\w+)) ")


def _problem(root: yaml.Node | None, item: ErrorDetails) -> str:
    message, loc = item["msg"].removeprefix("Value error, "), item["loc"]
    context = item.get("ctx", {})
    if item["type"] == "union_tag_invalid":
        message = f"{context['discriminator'].strip(chr(39))} {context['tag']!r} is unknown; use one of {context['expected_tags']}"
    elif item["type"] == "union_tag_not_found":
        message = f"{context['discriminator']} is missing"
    if not loc and (named := _NAMED.match(message)):  # a rule about the whole service that names its subject
        loc = ("gates", named[1]) if named[1] else (named[2], named[3])
    line, path = _find(root, loc)
    where = f"line {line}, {'.'.join(path)}" if path else f"line {line}"
    said = message[:1].lower() + message[1:]
    return f"{where}: {said}" + ("" if ";" in said else f"; {_REMEDIES.get(item['type'], 'correct it')}")


_TAGS = ("metric", "phase")
"""Keys whose value selects a union member in pydantic, which then names it in the path of the error."""


def _find(root: yaml.Node | None, loc: Sequence[int | str]) -> tuple[int, list[str]]:
    """The line of the deepest existing node on the path *loc*, and the keys that lead to it and beyond.

    Pydantic inserts the union member into the path (`gates.errors.error_rate.margin`); that is skipped, once per mapping.
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
