"""A bundle: the parts that are released and rolled back together, identified by their content.

A bundle is immutable. Its id is the SHA-256 of the RFC 8785 (canonical JSON) bytes of its manifest,
so the same parts always have the same id, wherever and whenever they are built. When, where and from
what it was built is *provenance* and is kept beside the manifest, never inside.

What does not belong here: reading or writing files (`store`), knowing which bundle serves (`ledger`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import rfc8785

from lastgood import errors

SCHEMA = "lastgood.bundle/v1"
PART_NAMES = ("data", "model", "prompt", "index", "config", "environment")
SHORT_HEX = 12

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SERVICE = re.compile(r"[a-z][a-z0-9-]{0,38}[a-z0-9]")


def is_digest(text: str) -> bool:
    """True if *text* is `sha256:` and 64 lower-case hex digits."""
    return _DIGEST.fullmatch(text) is not None


def sha256(data: bytes) -> str:
    """The digest of *data* in the form used everywhere: `sha256:<hex>`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def canonical(value: Any) -> bytes:
    """RFC 8785 bytes of a JSON value. Raises Damaged for what JSON cannot represent (NaN, huge integers, unbounded nesting).

    User input that is to be stored is refused before that (`plain`).
    """
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, TypeError, ValueError, RecursionError) as error:
        raise errors.Damaged(
            f"value cannot be written as canonical JSON: {error}; use strings, finite numbers, lists and objects"
        ) from error


def short(digest: str) -> str:
    """The first 12 hex digits of a digest, for display. Commands accept any unique prefix."""
    return digest.removeprefix("sha256:")[:SHORT_HEX]


def check_service_name(name: str) -> str:
    """Return *name* if it can name a service: it becomes a folder, a header and a metric label."""
    if _SERVICE.fullmatch(name) is None:
        raise errors.UsageError(
            f"{name!r} is not a valid service name; use 2 to 40 lower-case letters, digits and dashes, starting with a letter"
        )
    return name


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One ingredient of a bundle, by content.

    `digest` is over the content: a file's SHA-256, or for a folder that of its canonical list of
    (path, size, sha256). `size` is in bytes. `meta` holds what a person or a loader needs to know
    about the content (features, months, metrics); it is part of the bundle's identity.
    """

    name: str
    digest: str
    size: int
    media_type: str
    uri: str
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in PART_NAMES:
            raise errors.UsageError(f"unknown part {self.name!r}; a bundle has {', '.join(PART_NAMES)}")
        if not is_digest(self.digest):
            raise errors.Damaged(f"part {self.name!r} has digest {self.digest!r}; expected sha256 and 64 hex digits")
        if self.size < 0:
            raise errors.Damaged(f"part {self.name!r} has size {self.size!r}; expected bytes, zero or more")
        if not isinstance(self.meta, Mapping):
            raise errors.UsageError(
                f"part {self.name!r} has meta of type {type(self.meta).__name__}; expected an object of names and values"
            )
        object.__setattr__(self, "meta", MappingProxyType(dict(self.meta)))

    def entry(self) -> dict[str, Any]:
        """The part's object in the manifest."""
        return {
            "digest": self.digest,
            "uri": self.uri,
            "size": self.size,
            "media_type": self.media_type,
            "meta": dict(self.meta),
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A service's parts, released together. Equality and identity are by content."""

    service: str
    parts: Mapping[str, Part]

    def __post_init__(self) -> None:
        check_service_name(self.service)
        if not self.parts:
            raise errors.UsageError(f"a bundle of {self.service!r} needs at least one part")
        for name, part in self.parts.items():
            if name != part.name:
                raise errors.Damaged(f"part {part.name!r} is listed under {name!r}; use the same name for both")
        object.__setattr__(self, "parts", MappingProxyType(dict(sorted(self.parts.items()))))

    def manifest(self) -> dict[str, Any]:
        """The manifest as a JSON value, by the contract `lastgood.bundle/v1`."""
        return {
            "schema": SCHEMA,
            "service": self.service,
            "parts": {name: part.entry() for name, part in self.parts.items()},
        }

    @property
    def id(self) -> str:
        """`sha256:` and the hex SHA-256 of the manifest's canonical bytes."""
        return sha256(canonical(self.manifest()))


def bundle_of(service: str, *parts: Part) -> Bundle:
    """A bundle of *parts*; two parts of one name are refused."""
    named = {part.name: part for part in parts}
    if len(named) != len(parts):
        raise errors.UsageError(f"a bundle of {service!r} lists a part twice; list each part once")
    return Bundle(service=service, parts=named)


def from_manifest(manifest: object) -> Bundle:
    """The bundle that *manifest* (a parsed JSON value) describes. Raises Damaged for anything else."""
    try:
        if not isinstance(manifest, dict) or set(manifest) != {"schema", "service", "parts"}:
            raise ValueError("expected exactly the keys schema, service and parts")
        if manifest["schema"] != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA!r}, the one this release reads")
        parts = {name: Part(name=name, **_checked_entry(name, entry)) for name, entry in manifest["parts"].items()}
        return Bundle(service=manifest["service"], parts=parts)
    except (ValueError, TypeError, AttributeError, errors.UsageError) as error:
        raise errors.Damaged(f"not a bundle manifest: {error}; rebuild or re-import the bundle") from error


def _checked_entry(name: str, entry: object) -> dict[str, Any]:
    wanted = {"digest": str, "uri": str, "size": int, "media_type": str, "meta": dict}
    if not isinstance(entry, dict) or set(entry) != set(wanted):
        raise ValueError(f"part {name!r} must have exactly the keys {', '.join(wanted)}")
    for key, kind in wanted.items():
        if not isinstance(entry[key], kind) or isinstance(entry[key], bool):
            raise TypeError(f"part {name!r} has a {key} of type {type(entry[key]).__name__}; expected {kind.__name__}")
    return entry


def check_embedder(bundle: Bundle) -> None:
    """Raise NotAllowed if the index part was built with another embedder than the one in the model part.

    Their vectors are unrelated, and nothing else would show it: the answers are merely bad.
    """
    if "index" not in bundle.parts:
        return
    built_with = bundle.parts["index"].meta.get("embedder")
    model = bundle.parts["model"].meta.get("embedder") if "model" in bundle.parts else None
    if built_with is None or built_with != model:
        raise errors.NotAllowed(
            f"the index of this bundle of {bundle.service!r} was built with embedder {built_with}, but its model part has {model}; "
            "build the index again with that model"
        )


Change = Literal["same", "changed", "added", "removed"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PartChange:
    """How one part differs between two bundles. `meta` maps a changed key to (before, after)."""

    name: str
    change: Change
    before: Part | None
    after: Part | None
    meta: Mapping[str, tuple[Any, Any]]


def diff(before: Bundle | None, after: Bundle | None) -> list[PartChange]:
    """The changes, part by part, in the canonical order of parts, when *after* replaces *before*."""
    old = before.parts if before else {}
    new = after.parts if after else {}
    return [_part_change(name, old.get(name), new.get(name)) for name in PART_NAMES if name in old or name in new]


def _part_change(name: str, before: Part | None, after: Part | None) -> PartChange:
    change: Change
    if before is None:
        change = "added"
    elif after is None:
        change = "removed"
    else:
        change = "same" if before == after else "changed"
    old = dict(before.meta) if before else {}
    new = dict(after.meta) if after else {}
    meta = {key: (old.get(key), new.get(key)) for key in sorted(old | new) if old.get(key) != new.get(key)}
    return PartChange(name=name, change=change, before=before, after=after, meta=meta)
