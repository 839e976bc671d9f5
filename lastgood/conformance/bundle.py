"""A bundle is tried before it is registered: `python -m lastgood.conformance.bundle --service S --bundle DIGEST`.

Every reader of a bundle's parts is run once: the prompt is rendered, index and references are read row by row, its own code loads
it and answers its warm-up as for a worker, and word search is tried in its index. The last line of stdout is JSON: {"outcome":
answered | unknown | refused, "notes": […]}. Something that this machine lacks (a package, a server, memory) gives "unknown"; it says
nothing about the bundle.

What does not belong here: starting it and waiting (`lastgood.release.trial`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic

from lastgood import errors, runtime_api
from lastgood import settings as settings_
from lastgood.bundle import prompts
from lastgood.bundle import store as bundle_store
from lastgood.conformance import bundle_words as trial_words
from lastgood.drift import reference
from lastgood.index import snapshot
from lastgood.service import frozen as frozen_service
from lastgood.serving import inference_log, runtime, worker
from lastgood.settings import Settings

SHOWN = 3
"""Number of refused rows of a reference that are named."""


class Refused(Exception):
    """The bundle could not be used; the message gives the reason and ends with the remedy."""


class Unknown(Exception):
    """This machine cannot determine the result."""


def attempt(settings: Settings, *, service: str, bundle: str) -> list[str]:
    """Try the bundle; returns warnings. Raises Refused or Unknown."""
    store = bundle_store.Store(settings.store)
    found = worker.read_manifest(store, bundle)
    parts = {name: store.path(part.digest) for name, part in found.parts.items()}
    notes = list(_read_parts(parts))
    frozen = frozen_service.read(found, store=store)
    if frozen is None or frozen.service != service:
        raise Refused(f"the config part does not describe {service!r}; freeze services/{service} and rebuild")
    notes += _unlisted(parts["config"])
    cls = _class(parts["config"], entry=frozen.runtime, digest=found.parts["config"].digest)
    for file, what in _references(parts):
        _check_reference(file, cls.Request, what=what)
    _answer(cls, parts, options=frozen.options)
    return [*notes, *_check_words(parts, settings)]


# --- read without the bundle's code ------------------------------------------------------------------------


def _read_parts(parts: Mapping[str, Path]) -> Iterator[str]:
    """Read prompt and index as a worker will. Returns warnings. Raises Refused."""
    try:
        if "prompt" in parts and (parts["prompt"] / prompts.FILE).is_file():
            yield from prompts.check(parts["prompt"])
        if "index" in parts and (parts["index"] / snapshot.FILE).is_file():
            snapshot.verify(parts["index"])
    except errors.LastgoodError as error:
        raise Refused(str(error)) from error


def _check_words(parts: Mapping[str, Path], settings: Settings) -> list[str]:
    """Warnings about word search, once the replica that the bundle opened exists. Raises Refused."""
    try:
        return trial_words.check(parts, settings=settings)
    except errors.NotAllowed as error:
        raise Refused(str(error)) from error


def _references(parts: Mapping[str, Path]) -> Iterator[tuple[Path, str]]:
    for name, file in (("data", reference.FILE), ("model", reference.FEATURES)):
        if name in parts and (parts[name] / file).is_file():
            yield parts[name] / file, f"{file} of the {name} part"


def _check_reference(file: Path, request: type[pydantic.BaseModel], *, what: str) -> None:
    """Read the reference as the drift watch will, and, for rows of requests, each row through *request*. Raises Refused."""
    try:
        table = reference.read(file).table
    except errors.LastgoodError as error:
        raise Refused(str(error)) from error
    if file.name == reference.FEATURES:
        return
    known = inference_log.form_of(request).kinds.keys() & set(table.column_names)
    if not known:
        raise Refused(f"{what} has none of the fields of {request.__name__}; use the fields of a request as its columns")
    refused = list(inference_log.refusals(table, request))
    if refused:
        shown = "; ".join(f"row {number}, {_why(error, table)}" for number, error in refused[:SHOWN])
        raise Refused(
            f"{len(refused)} of {table.num_rows} rows of {what} do not fit {request.__name__}, so the drift watch would skip them: {shown}; "
            "write each column in the form a request has (whole numbers as integers, missing as null where the field may be null), and build the data again"
        )


def _why(error: Exception, table: Any) -> str:
    if not isinstance(error, pydantic.ValidationError):
        return f"{type(error).__name__}: {str(error)[:200]}"
    found = error.errors(include_input=False, include_url=False)[0]
    name = str(found["loc"][0]) if found["loc"] else ""
    kind = f" ({table[name].type})" if name in table.column_names else ""
    return f"column {name!r}{kind}: {found['msg']}"


# --- its own code ------------------------------------------------------------------------------------------


def _unlisted(config: Path) -> list[str]:
    names = runtime_api.unlisted(sorted(config.rglob("*.py")))
    note = (
        f"its code uses {', '.join(names)}, which may change in any version of lastgood, so a later rollback to this bundle may fail; "
        "use only names that lastgood.runtime_api lists, or copy that code into the service"
    )
    return [note] if names else []


def _class(config: Path, *, entry: str, digest: str) -> type[runtime.Runtime]:
    try:
        return runtime.load_class(config, entry=entry, digest=digest)
    except errors.Damaged as error:
        _blame_machine(error)
        raise Refused(str(error)) from error


def _answer(cls: type[runtime.Runtime], parts: Mapping[str, Path], *, options: Mapping[str, Any]) -> None:
    """Load, and answer the warm-up as a mirrored copy, whose answer is discarded. Raises Refused or Unknown."""
    step = "be loaded"
    try:
        loaded = cls.load(parts, options)
        step = "answer its warm-up"
        rows = [cls.Request.model_validate_json(json.dumps(row)) for row in loaded.warm_up()]
        with runtime.shadow(on=True):
            answers: Any = loaded.predict(rows) if rows else []
        if not isinstance(answers, Sequence) or len(answers) != len(rows):
            raise ValueError(f"the number of answers differs from the {len(rows)} rows")
        json.dumps(list(answers), allow_nan=False)
    except Exception as error:  # a team's code may raise anything
        if "index" in parts and isinstance(error, errors.NotFound):
            raise Unknown(f"its index has no replica on this machine yet, so the bundle was not loaded: {error}") from error
        _blame_machine(error)
        told = runtime_api.missing(error) or (str(error) if isinstance(error, errors.LastgoodError) else f"{error!r:.500}")
        raise Refused(
            f"the bundle cannot {step}: {told}; correct its code or parts and build it again, or skip the trial ('untried') if this machine is the cause"
        ) from error


def _blame_machine(error: BaseException) -> None:
    """Raise Unknown if *error*, or its cause, is about this machine: a package, a server, memory, a device that it lacks."""
    seen: BaseException | None = error
    while seen is not None:
        own = isinstance(seen, ImportError) and str(seen.name).startswith("lastgood")  # ours, or a module of the bundle
        if isinstance(seen, ImportError) and not own:
            raise Unknown(f"this environment does not have what the bundle imports: {seen}") from error
        if isinstance(seen, MemoryError | ConnectionError | TimeoutError | errors.Unavailable) or type(seen).__name__ == "gaierror":
            raise Unknown(f"this machine cannot try it: {seen!r:.300}") from error
        seen = seen.__cause__ if seen.__cause__ is not None else seen.__context__


def main(argv: Sequence[str] | None = None) -> int:
    """Try one bundle and print the result; nothing else that its code prints reaches stdout."""
    parser = argparse.ArgumentParser(prog="python -m lastgood.conformance.bundle", description="Try one bundle.")
    parser.add_argument("--service", required=True)
    parser.add_argument("--bundle", required=True, help="full digest, sha256:…")
    call = parser.parse_args(argv)
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    outcome, notes = "answered", []
    try:
        notes = attempt(settings_.load(), service=call.service, bundle=call.bundle)
    except Refused as error:
        outcome, notes = "refused", [str(error)]
    except Unknown as error:
        outcome, notes = "unknown", [str(error)]
    except (MemoryError, errors.Unavailable) as error:
        outcome, notes = "unknown", [repr(error)]
    print("\n" + json.dumps({"outcome": outcome, "notes": notes}), file=told, flush=True)
    # Threads that a team's code started are not waited for.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
