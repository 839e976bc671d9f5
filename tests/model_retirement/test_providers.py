"""Whether a pinned model is still there, and whether anything safe is left to go back to."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import pytest

from lastgood import errors
from lastgood.llm import base
from lastgood.model_retirement import providers as liveness
from tests.llm import servers

NOW = datetime.datetime(2026, 11, 26, tzinfo=datetime.UTC).timestamp()
OPENAI = base.parse({"provider": "openai", "model": "gpt-9-2026-08-07"})
ANNOUNCED = base.parse({"provider": "openai", "model": "gpt-5-2025-08-07"})
CLAUDE = base.parse({"provider": "anthropic", "model": "claude-sonnet-4-5-20250929"})


def says(value: Mapping[str, Any] | None) -> liveness.Ask:
    """A provider that says this."""
    return lambda _pin: value


def unreachable(_pin: base.Pin) -> Mapping[str, Any] | None:
    """A provider that does not answer."""
    raise errors.Unavailable("no network; check it")


@pytest.mark.parametrize(
    ("pin", "ask", "status"),
    [
        (OPENAI, says({"id": "x"}), "alive"),
        (OPENAI, says(None), "gone"),
        (OPENAI, says({"shutdown_date": "2026-12-20"}), "dying"),
        (OPENAI, says({"shutdown_date": "2027-12-20"}), "alive"),
        (OPENAI, says({"shutdown_date": "2026-11-26"}), "gone"),
        (OPENAI, says({"retires_at": NOW + 3 * liveness.DAY_S}), "dying"),
        (CLAUDE, says({"deprecated_at": "2026-12-01T00:00:00Z"}), "dying"),
        (OPENAI, says({"shutdown_date": "soon"}), "alive"),
        (OPENAI, unreachable, "unknown"),
        (OPENAI, None, "unknown"),
        (ANNOUNCED, None, "dying"),
        (ANNOUNCED, unreachable, "dying"),
    ],
)
def test_a_hosted_model_lives_as_long_as_its_provider_says(pin: base.Pin, ask: liveness.Ask | None, status: str) -> None:
    """What is announced counts also where nobody answers; not knowing is not living."""
    found = liveness.check(pin, now=NOW, ask=ask)
    assert found.status == status
    assert found.why
    assert found.serves == {"alive": True, "dying": True, "gone": False, "unknown": None}[status]


def test_what_is_on_this_machine_lives_while_its_file_is_there() -> None:
    """The extractive answerer always."""
    assert liveness.check(base.parse({"provider": "extractive", "model": "x"}), now=NOW).status == "alive"
    local = {"provider": "local", "model": "SmolLM2-135M-Instruct.Q4_1.gguf", "sha256": "0" * 64}
    assert liveness.check(base.parse(local), now=NOW).status == "alive"
    assert liveness.check(base.parse({**local, "model": "other.gguf"}), now=NOW).status == "gone"


@pytest.mark.parametrize(
    ("provider", "model", "suffix"), [("openai", "gpt-9-2026-08-07", "/v1"), ("anthropic", "claude-sonnet-4-5-20250929", "")]
)
def test_the_provider_itself_is_asked(provider: str, model: str, suffix: str) -> None:
    """By the official client: there, not there, and without a key."""
    environ = {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}
    there = {"id": model, "object": "model", "created": 1, "owned_by": "x", "type": "model", "display_name": "x",
             "created_at": "2026-01-01T00:00:00Z", "shutdown_date": "2026-12-01"}  # fmt: skip
    with servers.running(servers.Server(servers.answers(there))) as server:
        pin = base.parse({"provider": provider, "model": model, "base_url": server.url + suffix})
        found = liveness.check(pin, now=NOW, ask=lambda one: liveness.ask_provider(one, environ=environ))
        assert found.status == "dying"
        assert server.asked[0][0].endswith(f"/v1/models/{model}")
    with servers.running(servers.Server(servers.answers({"error": {"message": "no"}}, status=404))) as server:
        pin = base.parse({"provider": provider, "model": model, "base_url": server.url + suffix})
        assert liveness.check(pin, now=NOW, ask=lambda one: liveness.ask_provider(one, environ=environ)).status == "gone"
    with pytest.raises(errors.NotAllowed, match="_API_KEY"):
        liveness.ask_provider(base.parse({"provider": provider, "model": model}), environ={})
