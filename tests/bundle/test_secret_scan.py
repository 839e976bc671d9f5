"""Secrets are found by their form, wherever they stand, and nothing else is taken for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from lastgood.bundle import secret_scan as secrets

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "secret",
    [
        "AKIA" + "QWERTYUIOPASDFGH", "ghp_" + "a1B2" * 9, "xox" + "b-123456789012-123456789012-abcdefghijklmnopqrstuvwx",
        "sk-" + "a" * 20 + "T3BlbkFJ" + "b" * 20, "sk-proj-" + "Ab1_" * 20, "sk-ant-api03-" + "Ab1_" * 20,
        "-----BEGIN RSA PRIVATE " + "KEY-----", "glpat-" + "x" * 20,
    ],
)  # fmt: skip
def test_a_secret_is_found_with_its_line(secret: str) -> None:
    """In the middle of prose; the finding does not hold it."""
    found = secrets.find(f"first\nthen {secret} follows\nlast")
    assert [one.line for one in found] == [2]
    assert secret not in repr(found)


@pytest.mark.parametrize(
    "text", ["", "password = 'x'", "sk-learn and sk-ant", "a3f5c9e1b2d4" * 5, "API_KEY=os.environ['KEY']", "ghp_short"]
)
def test_what_only_looks_like_one_is_none(text: str) -> None:
    """A scan that cries wolf is switched off."""
    assert secrets.find(text) == []


def test_real_documentation_raises_no_alarm() -> None:
    """A slice that is full of examples of keys, hashes and passwords."""
    for file in sorted((ROOT / "services/helpdesk/corpus/django-6.0/topics/auth").glob("*.txt")):
        assert secrets.find(file.read_text("utf-8")) == []
