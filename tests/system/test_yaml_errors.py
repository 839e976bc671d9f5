"""Files that people write and lastgood reads: a key that stands twice is an error with its line, and no error quotes the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lastgood import errors, settings
from lastgood.bundle import prompts
from lastgood.service import schema
from lastgood.system import yaml_errors

SECRET = "hunter2-very-secret"
SERVICE = "schema: lastgood.service/v1\nservice: toy\ntier: real-time-api\nowner: tests\ntraffic: {port: 8399}\n"
PROMPT = "schema: lastgood.prompt/v1\nname: toy\nparts: {system: system.txt}\n"


def _service(folder: Path, text: str) -> None:
    schema.parse(text, where="service.yaml")


def _prompt(folder: Path, text: str) -> None:
    (folder / prompts.FILE).write_text(text)
    prompts.describe(folder)


def _settings(folder: Path, text: str) -> None:
    (folder / "lastgood.toml").write_text(text)
    settings.load(folder, environ={})


def _yaml(folder: Path, text: str) -> None:
    yaml_errors.load(text, where="params.yaml")


TWICE: dict[str, tuple[Callable[[Path, str], None], str, str]] = {
    "gates of a service": (_service, SERVICE + "gates:\n  errors: null\nrelease: {}\ngates: {}\n", "line 9"),
    "a gate of a service": (_service, SERVICE + "gates:\n  a: {}\n  b: {}\n  a: {}\n", "line 9"),
    "inside braces": (_service, SERVICE + "serving: {max_batch: 1, max_batch: 2}\n", "line 6"),
    "in a list": (_service, SERVICE + "options:\n  x:\n    - {a: 1}\n    - {a: 1, b: 2, a: 3}\n", "line 9"),
    "written otherwise": (_service, SERVICE + '"owner": other\n', "line 6"),
    "a prompt": (_prompt, PROMPT + "name: other\n", "line 4"),
    "the settings": (_settings, '[paging]\nurls = ""\n[paging]\nurls = ""\n', "line 3"),
    "a setting": (_settings, '[paging]\nurls = ""\nurls = "x://y"\n', "line 3"),
    "params": (_yaml, "train: {a: 1}\nsplit: {}\ntrain: {}\n", "line 3"),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_key_that_stands_twice_is_an_error_with_its_line(tmp_path: Path, name: str) -> None:
    """The second does not replace the first in silence."""
    read, text, line = TWICE[name]
    with pytest.raises(errors.UsageError, match=line):
        read(tmp_path, text)


def test_a_merge_may_be_overridden() -> None:
    """That is what merges are for."""
    text = "base: &base {a: 1, b: 2}\nmine: {<<: *base, a: 3}\n"
    assert yaml_errors.load(text, where="x")["mine"] == {"a": 3, "b": 2}


@pytest.mark.parametrize("text", [
    f"token: {SECRET}\n  x: [1, 2\n", f"{SECRET}: [", f"a: '{SECRET}", f"a: {SECRET}\n\tb: 1", f"a: !!python/object {SECRET}",
    f"a: {SECRET}\x00", f"? {SECRET}\n: {SECRET}\n- x", f"a: *{SECRET[:3]}\nb: {SECRET}", f"a: 2026-99-99\nb: {SECRET}",
    f"{SECRET}", f"- {SECRET}",
])  # fmt: skip
@pytest.mark.parametrize("read", [_service, _prompt, _settings], ids=lambda read: read.__name__)
def test_no_error_quotes_the_file(tmp_path: Path, read: Callable[[Path, str], None], text: str) -> None:
    """Configurations hold secrets, and errors land in logs and tickets; line and column say enough."""
    with pytest.raises(errors.UsageError) as caught:
        read(tmp_path, text)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"x": [{"a": 1, "a": 1}]}'])
def test_json_too(text: str) -> None:
    """Manifests of bundles that are taken in."""
    with pytest.raises(ValueError, match="'a' appears twice"):
        yaml_errors.check_json(text)
