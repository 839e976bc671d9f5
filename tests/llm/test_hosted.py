"""Hosted models, as both kinds of servers answer: well, late, wrongly, not at all."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from lastgood import errors
from lastgood.llm import base, catalog, hosted
from tests import timing
from tests.llm import servers

SECRET = "hidden-key"


@dataclasses.dataclass(frozen=True)
class Kind:
    """One of the two."""

    provider: str
    model: str
    key: str
    path: str
    suffix: str

    def answer(self, text: str | None = "Yes.", **more: Any) -> dict[str, Any]:
        """What it says."""
        return (servers.openai if self.provider == "openai" else servers.anthropic)(text, **more)


KINDS = [
    Kind("openai", "gpt-5-2025-08-07", "OPENAI_API_KEY", "/v1/chat/completions", "/v1"),
    Kind("anthropic", "claude-sonnet-4-5-20250929", "ANTHROPIC_API_KEY", "/v1/messages", ""),
]
MESSAGES = [base.Message(role="system", content="Be brief."), base.Message(role="user", content="Is it so?")]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.provider)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Both of them."""
    found: Kind = request.param
    return found


def ask(kind: Kind, server: servers.Server, **params: Any) -> base.Answer:
    """One question."""
    wanted = {"retries": 0, "try_s": 5.0, "budget_s": 10.0, "refusal": "I do not know.", **params}
    pin = base.parse({"provider": kind.provider, "model": kind.model, "base_url": server.url + kind.suffix, "params": wanted})
    model = catalog.build(pin, environ={kind.key: SECRET})
    try:
        return model.answer(MESSAGES, passages=[], question="Is it so?")
    finally:
        model.close()


def test_an_answer_comes_with_what_it_cost(kind: Kind) -> None:
    """Text, tokens, the model that the server says; the question goes as the API wants it, with the key in a header only."""
    with servers.running(servers.Server(servers.answers(kind.answer(" Yes. \n")))) as server:
        said = ask(kind, server, temperature=0.5, max_tokens=50)
    assert (said.text, said.refused, said.model, said.tokens_in, said.tokens_out) == ("Yes.", False, kind.model, 7, 2)
    ((path, headers, body),) = server.asked
    assert path == kind.path
    assert SECRET in str(headers)
    assert SECRET not in str(body)
    assert body["temperature"] == 0.5
    assert body["max_tokens"] == 50
    if kind.provider == "anthropic":
        assert (body["system"], [one["role"] for one in body["messages"]]) == ("Be brief.", ["user"])
    else:
        assert [one["role"] for one in body["messages"]] == ["system", "user"]


def test_a_refusal_is_known_by_its_words(kind: Kind) -> None:
    """Those that the prompt asked for."""
    with servers.running(servers.Server(servers.answers(kind.answer("I do not know.")))) as server:
        assert ask(kind, server).refused


def test_trouble_that_may_pass_is_tried_again(kind: Kind) -> None:
    """429 with a wait, 503, then an answer: one answer, three requests."""
    busy = servers.answers({"error": {"message": "slow"}}, status=429, headers={"retry-after": "0.05"})
    down = servers.answers({"error": {"message": "down"}}, status=503, headers={"retry-after": "0.05"})
    with servers.running(servers.Server(busy, down, servers.answers(kind.answer()))) as server:
        assert ask(kind, server, retries=2).text == "Yes."
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("reply", "error", "match"),
    [
        (servers.answers({"error": {"message": "x"}}, status=429), errors.Unavailable, "429"),
        (servers.answers({"error": {"message": "x"}}, status=500), errors.Unavailable, "500"),
        (servers.answers({"error": {"message": "x"}}, status=404), errors.NotFound, "does not exist"),
        (servers.answers({"error": {"message": SECRET}}, status=401), errors.NotAllowed, "refuses the key"),
        (servers.answers({"error": {"message": SECRET}}, status=403), errors.NotAllowed, "refuses the key"),
        (servers.answers({"error": {"message": "x"}}, status=400), errors.UsageError, "params"),
        (servers.answers(b"<html>gateway</html>"), errors.Damaged, "invalid|empty"),
        (servers.answers(b"{"), errors.Damaged, "invalid|empty"),
        (servers.answers({}), errors.Damaged, "empty"),
        (servers.answers([]), errors.Damaged, "invalid|empty"),
    ],
)
def test_each_fault_says_what_to_do(kind: Kind, reply: servers.Reply, error: type[errors.LastgoodError], match: str) -> None:
    """By its kind, without the key, and whether it may be tried again."""
    with servers.running(servers.Server(reply)) as server, pytest.raises(error, match=match) as raised:
        ask(kind, server)
    assert SECRET not in str(raised.value)
    assert kind.model in str(raised.value)


def test_an_empty_answer_is_none(kind: Kind) -> None:
    """No text, or blanks."""
    for text in (None, "  "):
        with servers.running(servers.Server(servers.answers(kind.answer(text)))) as server, pytest.raises(errors.Damaged, match="empty"):
            ask(kind, server)


def test_another_model_than_the_pinned_one_is_no_answer(kind: Kind) -> None:
    """The bundle would not be what it says."""
    reply = servers.answers(kind.answer(model="gpt-4o-2024-05-13" if kind.provider == "openai" else "claude-3-opus-20240229"))
    with servers.running(servers.Server(reply)) as server, pytest.raises(errors.Damaged, match="the bundle pins"):
        ask(kind, server)


def test_nobody_waits_longer_than_the_budget(kind: Kind) -> None:
    """A server that sleeps, and one that asks for an hour's patience."""
    with servers.running(servers.Server(servers.answers(kind.answer(), sleep_s=3.0))) as server:

        def asked() -> None:
            with pytest.raises(errors.Unavailable, match=r"within 0\.2 s"):
                ask(kind, server, try_s=0.2, budget_s=0.5, retries=9)

        timing.soon(asked, within_s=2.5)
    patient = servers.answers({"error": {"message": "x"}}, status=429, headers={"retry-after": "3600"})
    with servers.running(servers.Server(patient)) as server, pytest.raises(hosted.Later, match="3600 s"):
        ask(kind, server, budget_s=5.0, retries=5)
    assert len(server.asked) == 1


def test_a_server_that_is_not_there_is_told(kind: Kind) -> None:
    """With the address that is to be checked."""
    server = servers.Server(servers.answers({}))
    server.url = "http://127.0.0.1:9"
    with pytest.raises(errors.Unavailable, match="base_url"):
        ask(kind, server)


def test_without_a_key_the_provider_is_not_asked(kind: Kind) -> None:
    """Said before any question comes."""
    with pytest.raises(errors.NotAllowed, match=kind.key):
        catalog.build(base.parse({"provider": kind.provider, "model": kind.model}), environ={})


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4o-latest", "claude-sonnet-4-5", "claude-3-5-sonnet-latest", "gpt-5-preview"])
def test_a_name_that_moves_is_no_pin(kind: Kind, model: str) -> None:
    """It may be can change without notice."""
    with pytest.raises(errors.UsageError, match="can change without notice"):
        base.parse({"provider": kind.provider, "model": model})


def test_a_pin_is_known_by_all_of_it(kind: Kind) -> None:
    """Another parameter is another pin; a server of one's own may call its models as it likes."""
    one = base.parse({"provider": kind.provider, "model": kind.model})
    assert one.digest == base.parse({"model": kind.model, "provider": kind.provider}).digest
    assert one.digest != base.parse({"provider": kind.provider, "model": kind.model, "params": {"max_tokens": 7}}).digest
    own = base.parse({"provider": kind.provider, "model": "my-model", "base_url": "http://127.0.0.1:1"})
    assert not own.dated
    for wrong in (
        {"provider": kind.provider},
        {"provider": "x", "model": "y"},
        {"provider": kind.provider, "model": kind.model, "key": "x"},
    ):
        with pytest.raises(errors.UsageError, match="pin of the language model is invalid"):
            base.parse(wrong)
