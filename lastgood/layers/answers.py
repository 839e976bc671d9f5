"""The shared cache of answers as a layer: a bundle that no alias names any more leaves nothing behind that could be served.

Only where `cache.url` names a Redis; answers in a worker's own memory go with the worker.

What does not belong here: keeping answers (`lastgood.cache`).
"""

from __future__ import annotations

import contextlib
import json

from lastgood import bundle as bundles
from lastgood import cache, durable, errors
from lastgood import settings as settings_
from lastgood.layers import base


def build(settings: settings_.Settings, service: str) -> Answers:
    """The layer of *service*."""
    return Answers(settings, service)


class Answers(base.Layer):
    """See the module."""

    name = "answers"

    def __init__(self, settings: settings_.Settings, service: str) -> None:
        self._url = settings.cache.url
        self._service = bundles.check_service_name(service)
        self._noted = settings.run(service) / "answers.json"

    def observe(self) -> base.Observed:
        """The bundles that may have answers in the cache, and the revision last taken over."""
        return base.Observed(revision=self._revision(), facts={"bundles": sorted(self._known())})

    def verify(self, desired: base.Desired, observed: base.Observed) -> bool | None:
        """True if only bundles that an alias names have answers."""
        known = observed.facts.get("bundles")
        if known is None:
            return None
        return observed.revision == desired.revision and set(known) <= set(desired.aliases.values())

    def apply(self, desired: base.Desired) -> None:
        """Fence off what bundles answered that no alias names. An older revision than the one last taken over changes nothing."""
        if (self._revision() or 0) > desired.revision:
            return
        leaving = self._known() - set(desired.aliases.values())
        try:
            if leaving:
                cache.forget(self._url, self._service, leaving)
            self._noted.parent.mkdir(parents=True, exist_ok=True)
            durable.write(self._noted, json.dumps({"revision": desired.revision}).encode())
        except (errors.LastgoodError, OSError) as error:
            raise base.LayerError(str(error)) from error

    def _known(self) -> set[str]:
        try:
            return cache.known_bundles(self._url, self._service)
        except errors.LastgoodError as error:
            raise base.LayerError(str(error)) from error

    def _revision(self) -> int | None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return int(json.loads(self._noted.read_bytes())["revision"])
        return None
