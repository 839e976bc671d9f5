"""Common base for querying hosted models, whichever the host: time limits, retries, and errors that contain a remedy.

Both official clients come from one generator and name their errors alike. They retry by themselves, but have no limit for
all attempts together; so their retries are turned off, and done here.
"""

from __future__ import annotations

import abc
import contextlib
import importlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar, TypeVar

from lastgood import errors
from lastgood.llm import base

T = TypeVar("T")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0


class Later(errors.Unavailable):
    """A retry may succeed in a while; `after_s` is the delay requested by the server, None if it names none."""

    def __init__(self, message: str, *, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


class Hosted(base.Model):
    """A model queried through an official client. A subclass names its provider and makes one attempt.

    *key* may be missing for a private server.
    """

    package: ClassVar[str]
    client: ClassVar[str]
    key_name: ClassVar[str]
    address: ClassVar[str]

    def __init__(self, pin: base.Pin, *, key: str | None) -> None:
        super().__init__(pin)
        if key is None and pin.base_url is None:
            raise errors.NotAllowed(f"{self.key_name} is not set, so {pin.provider} cannot be asked; set it where the workers run")
        try:
            self._sdk = importlib.import_module(self.package)
        except ImportError as error:
            raise errors.UsageError(
                f"the bundle pins a model of {pin.provider}, but its client is not installed ({error}); install 'lastgood[{self.package}]'"
            ) from error
        self._client = getattr(self._sdk, self.client)(api_key=key or "none", base_url=pin.base_url or self.address, max_retries=0)

    def answer(self, messages: Sequence[base.Message], *, passages: Sequence[base.Passage], question: str) -> base.Answer:
        return ask(lambda seconds: self._once(messages, seconds), self.pin.params)

    @abc.abstractmethod
    def _once(self, messages: Sequence[base.Message], seconds: float) -> base.Answer:
        """One attempt, of at most this many seconds, within `_told`."""

    def describe(self, *, timeout_s: float) -> Mapping[str, Any] | None:
        """The provider's description of the model, in its own fields; None if it has none of that name."""
        try:
            with self._told():
                found: Mapping[str, Any] = self._client.models.retrieve(self.pin.model, timeout=timeout_s).model_dump(mode="json")
                return found
        except errors.NotFound:
            return None

    def _told(self) -> contextlib.AbstractContextManager[None]:
        return translate_errors(self._sdk, self.pin, key_name=self.key_name)

    def close(self) -> None:
        self._client.close()


def ask(call: Callable[[float], T], params: base.Params, *, sleep: Callable[[float], None] = time.sleep) -> T:
    """The result of *call*, given the seconds that it may take; retried after Later as often as *params* allow, within their budget."""
    end = time.monotonic() + params.budget_s
    for attempt in range(params.retries + 1):
        left_s = end - time.monotonic()
        try:
            return call(max(min(params.try_s, left_s), 0.001))
        except Later as later:
            pause_s = later.after_s if later.after_s is not None else min(FIRST_PAUSE_S * 2**attempt, LONGEST_PAUSE_S)
            if attempt == params.retries or time.monotonic() + pause_s >= end:
                raise
            sleep(pause_s)
    raise AssertionError("the last attempt returns or raises")


@contextlib.contextmanager
def translate_errors(sdk: ModuleType, pin: base.Pin, *, key_name: str) -> Iterator[None]:
    """Convert the errors of *sdk* to ours; no message contains the key, the question or the answer."""
    name = f"{pin.provider} model {pin.model!r}"
    try:
        yield
    except sdk.APITimeoutError as error:
        raise Later(f"{name} did not answer within {pin.params.try_s:g} s; answers of stable continue, try again later") from error
    except sdk.APIConnectionError as error:
        raise Later(f"{name} cannot be reached; check the network and 'base_url' of its pin") from error
    except sdk.RateLimitError as error:
        after_s = _after(error)
        wait = f" for {after_s:g} s" if after_s is not None else ""
        raise Later(f"{name} accepts no more requests{wait} (429); send fewer, or ask for a higher limit", after_s=after_s) from error
    except (sdk.AuthenticationError, sdk.PermissionDeniedError) as error:
        raise errors.NotAllowed(f"{name} refuses the key in {key_name}; set a valid one") from error
    except sdk.NotFoundError as error:
        raise errors.NotFound(f"{name} does not exist any more; release a bundle that pins another model") from error
    except sdk.APIStatusError as error:
        if error.status_code >= 500 or error.status_code in (408, 409):
            raise Later(f"{name} failed with {error.status_code}; retrying", after_s=_after(error)) from error
        raise errors.UsageError(f"{name} rejects the request with {error.status_code}; check 'params' of its pin") from error
    except (sdk.APIError, ValueError, AttributeError, TypeError) as error:
        # A body that is not JSON, or JSON of another form, passes through the clients unchanged.
        raise errors.Damaged(f"{name} gave an invalid answer; try again, or check for a proxy in between") from error


def _after(error: Any) -> float | None:
    text = error.response.headers.get("retry-after", "")
    with contextlib.suppress(ValueError):
        return max(float(text), 0.0)
    return None


def checked_text(text: Any, pin: base.Pin) -> str:
    """*text*, if it is a valid answer. Raises Damaged."""
    if not isinstance(text, str) or not text.strip():
        raise errors.Damaged(f"{pin.provider} model {pin.model!r} gave an empty answer; try again, or raise 'max_tokens' of its pin")
    return text.strip()
