"""The contract between a worker and the code of a service, and how that code is loaded from a bundle.

The code comes from the bundle's config part in the store, never from `services/`, so a rollback restores it too.
"""

from __future__ import annotations

import abc
import contextlib
import contextvars
import importlib
import importlib.machinery
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pydantic

from lastgood import errors, runtime_api
from lastgood.bundle import manifest

_SHADOW = contextvars.ContextVar("lastgood_shadow", default=False)


def in_shadow() -> bool:
    """Whether `predict` is answering a mirrored copy of a request, or the warm-up, whose answers are discarded.

    The user's own request is answered elsewhere, so code that writes, sends, books or pays must not do so then: check before
    each such act. Known in the thread of `predict`; code that starts its own threads passes it on (`contextvars.copy_context`).
    """
    return _SHADOW.get()


@contextlib.contextmanager
def shadow(*, on: bool) -> Iterator[None]:
    """Make `in_shadow` return *on* within the block; for the worker, and for tests of a runtime."""
    token = _SHADOW.set(on)
    try:
        yield
    finally:
        _SHADOW.reset(token)


class Runtime(abc.ABC):
    """What a team writes for its service: load a bundle, answer rows.

    `Request` describes one row and must forbid extra fields; the worker validates with it before calling `predict`.
    `concurrency` is how many calls of `predict` may run at once, each in a thread; more than one only pays off for code
    that waits or releases the interpreter lock.
    """

    Request: ClassVar[type[pydantic.BaseModel]]
    concurrency: ClassVar[int] = 1

    @classmethod
    @abc.abstractmethod
    def load(cls, parts: Mapping[str, Path], options: Mapping[str, Any]) -> Runtime:
        """The runtime of a bundle. *parts* maps part name to its verified, read-only file or folder."""

    @abc.abstractmethod
    def predict(self, rows: Sequence[pydantic.BaseModel]) -> list[dict[str, Any]]:
        """One JSON-serializable answer for each row, in order. `probability`, if present, is a float and is logged as a column.

        Must have no side effects while `in_shadow()` holds.
        """

    @abc.abstractmethod
    def warm_up(self) -> list[dict[str, Any]]:
        """JSON-serializable rows to answer before the worker reports ready, so that no user waits for lazy loading."""

    def features(self, rows: Sequence[pydantic.BaseModel]) -> Mapping[str, Sequence[float]] | None:
        """The model's actual inputs for *rows*: numbers by name, NaN for missing; None if they are not to be watched.

        They distinguish a bundle whose own code processes the rows differently than in training from a world that has changed.
        """
        return None

    def label(self, outcome: Mapping[str, Any]) -> float | None:
        """The true outcome, on the scale of `probability`, if *outcome* (fields of a feedback, scalars) contains it; otherwise None.

        Raises ValueError with a message for the sender if a field that it reads has the wrong type.
        """
        value = outcome.get("label")
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return value
        raise ValueError("'label' must be a number")


def load_class(config: Path, *, entry: str, digest: str) -> type[Runtime]:
    """The runtime class *entry* (`module:Class`) of the config part in folder *config*, whose digest is *digest*.

    The folder becomes a private package named by the digest, so its modules import each other relatively and two
    bundles' code cannot collide in one process. Raises Damaged if the code cannot be imported or is not a runtime.
    """
    module_name, _, class_name = entry.partition(":")
    sys.dont_write_bytecode = True  # compiled files beside the code would modify the stored part
    package = "lastgood_config_" + manifest.short(digest)
    if package not in sys.modules:
        root = types.ModuleType(package)
        root.__path__ = [str(config)]
        root.__spec__ = importlib.machinery.ModuleSpec(package, None, is_package=True)
        sys.modules[package] = root
    try:
        found = getattr(importlib.import_module(f"{package}.{module_name}"), class_name)
    except MemoryError:
        raise  # not a fault of the bundle's bytes
    except Exception as error:  # a team's code may raise anything while it is imported
        remedy = runtime_api.missing(error) or f"{error!r}; build the bundle again"
        raise errors.Damaged(f"runtime {entry!r} of config part {digest} cannot be imported: {remedy}") from error
    if not (isinstance(found, type) and issubclass(found, Runtime)):
        raise errors.Damaged(
            f"runtime {entry!r} of config part {digest} is not a subclass of lastgood.serving.runtime.Runtime; correct 'runtime'"
        )
    return found
