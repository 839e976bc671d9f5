"""What asking a hosted model has in common, whoever hosts it: time, attempts, and errors that say what to do.

Both official clients come from one generator and name their errors alike. They try again by themselves, but know no limit for
all attempts together; so they are told not to, and it is done here.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, TypeVar

from lastgood import errors
from lastgood.llm import base

T = TypeVar("T")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0


class Later(errors.Unavailable):
    """It may work in a while; `after_s` is what the server asks for, None if it does not say."""

    def __init__(self, message: str, *, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


def ask(call: Callable[[float], T], params: base.Params, *, sleep: Callable[[float], None] = time.sleep) -> T:
    """What *call*, given the seconds that it may take, returns; tried again after Later as often as *params* allow, within their budget."""
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
def told(sdk: ModuleType, pin: base.Pin, *, key_name: str) -> Iterator[None]:
    """Turn the errors of *sdk* into ours; no message holds the key, the question or the answer."""
    name = f"{pin.provider} model {pin.model!r}"
    try:
        yield
    except sdk.APITimeoutError as error:
        raise Later(f"{name} did not answer within {pin.params.try_s:g} s; stable answers go on, try again later") from error
    except sdk.APIConnectionError as error:
        raise Later(f"{name} cannot be reached; check the network and 'base_url' of its pin") from error
    except sdk.RateLimitError as error:
        after_s = _after(error)
        wait = f" for {after_s:g} s" if after_s is not None else ""
        raise Later(f"{name} takes no more requests{wait} (429); send fewer, or ask for a higher limit", after_s=after_s) from error
    except (sdk.AuthenticationError, sdk.PermissionDeniedError) as error:
        raise errors.NotAllowed(f"{name} refuses the key in {key_name}; set a valid one") from error
    except sdk.NotFoundError as error:
        raise errors.NotFound(f"{name} does not exist there any more; release a bundle that pins another one") from error
    except sdk.APIStatusError as error:
        if error.status_code >= 500 or error.status_code in (408, 409):
            raise Later(f"{name} failed with {error.status_code}; it is tried again", after_s=_after(error)) from error
        raise errors.UsageError(f"{name} refuses the request with {error.status_code}; check 'params' of its pin") from error
    except (sdk.APIError, ValueError, AttributeError, TypeError) as error:
        # A body that is no JSON, or JSON of another form, goes through the clients as it is.
        raise errors.Damaged(f"{name} gave an answer that is none; try again, or look at what stands between") from error


def _after(error: Any) -> float | None:
    text = error.response.headers.get("retry-after", "")
    with contextlib.suppress(ValueError):
        return max(float(text), 0.0)
    return None


def checked_text(text: Any, pin: base.Pin) -> str:
    """*text*, if it is an answer. Raises Damaged."""
    if not isinstance(text, str) or not text.strip():
        raise errors.Damaged(f"{pin.provider} model {pin.model!r} gave an empty answer; try again, or raise 'max_tokens' of its pin")
    return text.strip()
