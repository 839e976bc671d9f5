"""What a component's YAML may say; that it works is in `test_stranger`."""

from __future__ import annotations

from typing import Any

import pytest

from dagster_lastgood import ServiceComponent

ONE: dict[str, Any] = {"service": "toy", "parts": {"data": "tests.assets.test_written_parts.data"}}


def test_one_service_and_several_come_to_the_same() -> None:
    """The single form is a list of one."""
    (one,) = ServiceComponent(**ONE).all_declared()
    (also,) = ServiceComponent(services=[ONE]).all_declared()
    assert (one.name, one.parts, one.job) == (also.name, also.parts, also.job) == ("toy", one.parts, "build_toy")


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({}, "either one 'service' or several 'services'"),
        ({**ONE, "services": [ONE]}, "either one 'service' or several 'services'"),
        ({"service": "toy"}, "'service' and 'parts' belong together"),
        ({"services": [ONE], "parts": ONE["parts"]}, "give each of 'services' its own 'parts'"),
    ],
)
def test_what_is_neither_one_nor_several_is_refused(wrong: dict[str, Any], match: str) -> None:
    """With what to write instead."""
    with pytest.raises(ValueError, match=match):
        ServiceComponent(**wrong)


def test_a_function_that_cannot_be_found_is_named() -> None:
    """With the form that it is to have."""
    with pytest.raises(ValueError, match=r"'nowhere.data' cannot be found: .*; write it as module.function"):
        ServiceComponent(service="toy", parts={"data": "nowhere.data"}).all_declared()
