"""Whether a pinned model still exists, and for how long: a bundle whose model is gone is not a rollback target.

The provider is queried; where that is not possible, its announced dates are in `shutdowns.json`, which states its own date.

What does not belong here: paging (`check`), choosing a target (`release.targets`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import json
import re
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any, Literal

from lastgood import errors
from lastgood.llm import base
from lastgood.system import text

ModelStatus = Literal["alive", "dying", "gone", "unknown"]
Ask = Callable[[base.Pin], Mapping[str, Any] | None]
"""The provider's data on a model, in its own fields; None if there is no such model. Raises LastgoodError if it cannot be queried."""

WARN_DAYS = 30.0
DAY_S = 86_400.0
_FIELDS = ("shutdown_date", "shutdown_at", "retires_at", "deprecated_at", "deprecation_date")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Liveness:
    """How long a model lives. `ends_at` is Unix time, None if no end is announced."""

    status: ModelStatus
    why: str
    ends_at: float | None = None

    @property
    def serves(self) -> bool | None:
        """Whether it answers now; None if unknown."""
        return {"alive": True, "dying": True, "gone": False, "unknown": None}[self.status]


def check(pin: base.Pin, *, now: float, ask: Ask | None = None, warn_days: float = WARN_DAYS) -> Liveness:
    """What is known of the model of *pin* at Unix time *now*; *dying* if it ends within *warn_days*.

    With *ask* the provider is queried; without it, or if it does not answer, only the announced dates are looked up.
    """
    if pin.provider == "extractive":
        return Liveness(status="alive", why="it is part of the program")
    if pin.provider == "local":
        return _local(pin)
    said: Mapping[str, Any] | None = {}
    trouble = "the provider was not asked"
    if ask is not None:
        try:
            said, trouble = ask(pin), ""
        except errors.LastgoodError as error:
            trouble = str(error)
    if said is None:
        return Liveness(status="gone", why=f"{pin.provider} has no model {pin.model!r}")
    ends_at = _date(said) or announced(pin)
    return _judged(ends_at, now=now, warn_days=warn_days, trouble=trouble)


def _judged(ends_at: float | None, *, now: float, warn_days: float, trouble: str) -> Liveness:
    if ends_at is None:
        return Liveness(status="unknown" if trouble else "alive", why=trouble or "the provider offers it and has announced no retirement")
    day = text.day(ends_at)
    if ends_at <= now:
        return Liveness(status="gone", why=f"it was shut down on {day}", ends_at=ends_at)
    if ends_at - now < warn_days * DAY_S:
        return Liveness(status="dying", why=f"it will be shut down on {day}, in {(ends_at - now) / DAY_S:.0f} days", ends_at=ends_at)
    return Liveness(status="alive", why=f"it will be shut down on {day}", ends_at=ends_at)


def _local(pin: base.Pin) -> Liveness:
    from lastgood.llm import local

    try:
        local.find(pin.model)
    except errors.NotFound as error:
        return Liveness(status="gone", why=str(error))
    return Liveness(status="alive", why="its file is on this machine")


def _date(said: Mapping[str, Any]) -> float | None:
    for name in _FIELDS:
        value = said.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, str) and value:
            return _moment(value)
    return None


def _moment(text: str) -> float | None:
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).timestamp()


def announced(pin: base.Pin) -> float | None:
    """When the model of *pin* ends, by the dates that came with this version (Unix seconds); None if there is none."""
    family = re.sub(r"[-@]?(20\d{2}-\d{2}-\d{2}|20\d{6})$", "", pin.model)
    text = _shutdowns().get(pin.model) or (_shutdowns().get(family) if pin.base_url is None else None)
    return _moment(text) if text else None


@functools.cache
def _shutdowns() -> Mapping[str, str]:
    found: Mapping[str, str] = json.loads(resources.files("lastgood.model_retirement").joinpath("shutdowns.json").read_text("utf-8"))[
        "models"
    ]
    return found


def ask_provider(pin: base.Pin, *, environ: Mapping[str, str], timeout_s: float = 10.0) -> Mapping[str, Any] | None:
    """The provider's description of the model of *pin*, None if it has none of that name. Raises LastgoodError if it cannot be queried."""
    from lastgood.llm import catalog

    with contextlib.closing(catalog.hosted(pin, environ=environ)) as model:
        return model.describe(timeout_s=timeout_s)
