"""The shared cache of answers as a layer: a bundle that no alias names any more leaves nothing behind that could be served.

Only where `cache.url` names a Redis; answers in a worker's own memory disappear with the worker.

What does not belong here: storing answers (`lastgood.layers.answer_store`).
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

from lastgood import errors
from lastgood.bundle import manifest
from lastgood.layers import answer_store, base
from lastgood.settings import Settings
from lastgood.system import files


def build(settings: Settings, service: str) -> Answers:
    """The layer of *service*."""
    return Answers(settings, service)


class Answers(base.Layer):
    """See the module."""

    name = "answers"

    def __init__(self, settings: Settings, service: str) -> None:
        self._url = settings.cache.url
        self._service = manifest.check_service_name(service)
        self._noted = settings.run(service) / "answers.json"

    def observe(self) -> base.Observed:
        """The bundles that may have answers in the cache, those that are allowed any, and the revision last taken over."""
        noted = self._note()
        return base.Observed(revision=noted.get("revision"), facts={"bundles": sorted(self._known()), "allowed": noted.get("allowed", [])})

    def verify(self, desired: base.Desired, observed: base.Observed) -> bool | None:
        """True if only bundles that an alias names have answers."""
        known = observed.facts.get("bundles")
        if known is None:
            return None
        named = sorted(set(desired.aliases.values()))
        return observed.revision == desired.revision and observed.facts.get("allowed") == named and set(known) <= set(named)

    def apply(self, desired: base.Desired) -> None:
        """Fence off the answers of bundles that no alias names. A revision older than the one last taken over changes nothing."""
        if (self._note().get("revision") or 0) > desired.revision:
            return
        named = sorted(set(desired.aliases.values()))
        leaving = self._known() - set(named)
        try:
            if leaving:
                answer_store.forget_answers(self._url, self._service, leaving)
            self._noted.parent.mkdir(parents=True, exist_ok=True)
            files.write(self._noted, json.dumps({"revision": desired.revision, "allowed": named}).encode())
        except (errors.LastgoodError, OSError) as error:
            raise base.LayerError(str(error)) from error

    def _known(self) -> set[str]:
        try:
            return answer_store.known_bundles(self._url, self._service)
        except errors.LastgoodError as error:
            raise base.LayerError(str(error)) from error

    def _note(self) -> dict[str, Any]:
        """What was taken over last; empty if nothing was, or if it cannot be read, which costs one more check."""
        with contextlib.suppress(OSError, ValueError):
            noted = json.loads(self._noted.read_bytes())
            if isinstance(noted, dict) and isinstance(noted.get("revision"), int):
                return noted
        return {}
