"""The reference of a bundle, ready to compare with a window: its rows, the bundle's answers to them, and what is usual.

The last two take seconds to compute and are cached under `drift/` in the home folder, keyed by their inputs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lastgood import errors
from lastgood.bundle import manifest, store
from lastgood.drift import calibration
from lastgood.drift import reference as drift_reference_file
from lastgood.drift import window as drift_window
from lastgood.drift.reference import PROBABILITY, Sample
from lastgood.serving import inference_log
from lastgood.system import clock, files

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    import pydantic

    from lastgood.serving.app import Loaded
    from lastgood.settings import Settings

    Floats = npt.NDArray[np.float64]

KEPT = 4
"""Number of bundles whose sorted reference and loaded code a process keeps."""
BATCH = 1000
PROBES = 5
"""Maximum number of rows tried to find out whether a bundle answers with a probability."""
VERSION = 4
"""Version of the method that determines what is usual; another version does not trust the cached values."""
MADE = "made "
"""Prefix of columns with features that are not fields of a request."""


def of_bundle(settings: Settings, bundle: manifest.Bundle) -> Sample:
    """The reference contained in *bundle*; this process keeps the last few. Raises NotFound or Damaged.

    It has a column `probability` if the bundle answers with one, for which its own code runs in this process, once; and a column
    `made NAME` for each feature that is not a field of a request: as training computed it from the same rows or, if the bundle does
    not report that, as its own code computes it.
    """
    file, key = find(settings, bundle), (settings.home, bundle.id)
    if key not in _REFERENCES:
        while len(_REFERENCES) >= KEPT:
            _REFERENCES.pop(next(iter(_REFERENCES)), None)
        _REFERENCES[key] = _of_bundle(settings, bundle, file)
    return _REFERENCES[key]


_REFERENCES: dict[tuple[Path, str], Sample] = {}


def _of_bundle(settings: Settings, bundle: manifest.Bundle, file: Path) -> Sample:
    import numpy as np

    brought = drift_reference_file.read(file)
    brought = dataclasses.replace(brought, sample=_as_logged(settings, bundle, brought))
    brought = dataclasses.replace(brought, sample=_with_features(settings, bundle, brought))
    kept = settings.home / "drift" / f"{manifest.short(bundle.id)}.json"
    values = _read(kept)
    if not isinstance(values, list) or len(values) != brought.sample.rows:
        loaded = load(settings, bundle)
        values = forecast(loaded, inference_log.requests(brought.table, loaded.runtime.Request))
        _write(kept, values)
    known = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    if not np.isfinite(known).any():
        return brought.sample
    return dataclasses.replace(brought.sample, columns={**brought.sample.columns, PROBABILITY: known})


def _as_logged(settings: Settings, bundle: manifest.Bundle, brought: drift_reference_file.Reference) -> Sample:
    """The sample with fields that a log stores as JSON text (Enum, UUID, lists, …) written as a log writes them."""
    import numpy as np

    request = load(settings, bundle).runtime.Request
    form = inference_log.form_of(request)
    names = [name for name, kind in form.kinds.items() if kind is None and name in brought.sample.columns]
    if not names:
        return brought.sample
    texts = [None if row is None else form.text(row) for row in inference_log.requests(brought.table, request)]
    fresh = {name: np.array([None if text is None else text[name] for text in texts], dtype=object) for name in names}
    return dataclasses.replace(brought.sample, columns={**brought.sample.columns, **fresh})


def find(settings: Settings, bundle: manifest.Bundle) -> Path:
    """The file with the reference. Raises NotFound with the remedy."""
    part = bundle.parts.get("data")
    file = store.Store(settings.store).path(part.digest) / drift_reference_file.FILE if part else None
    if file is None or not file.is_file():
        raise errors.NotFound(
            f"bundle {manifest.short(bundle.id)!r} has no {drift_reference_file.FILE} in its data part, so there is no reference to compare with; "
            "write one with lastgood.drift.reference when the data is built, or remove 'drift' from service.yaml"
        )
    return file


def _with_features(settings: Settings, bundle: manifest.Bundle, brought: drift_reference_file.Reference) -> Sample:
    sample = brought.sample
    trained = features_of_training(settings, bundle)
    made = trained.columns if trained is not None else _own_features(settings, bundle, brought.table)
    fresh = {f"{MADE}{name}": values for name, values in made.items() if name not in sample.columns and len(values) == sample.rows}
    return dataclasses.replace(sample, columns={**sample.columns, **fresh})


def _own_features(settings: Settings, bundle: manifest.Bundle, table: pa.Table) -> dict[str, Floats]:
    """The features that the bundle's own code computes from the rows of *table*, cached; empty if it does not report any."""
    import numpy as np

    kept = settings.home / "drift" / f"{manifest.short(bundle.id)}.made.json"
    known = _read(kept)
    if not isinstance(known, dict):
        loaded = load(settings, bundle)
        made = features(loaded, inference_log.requests(table, loaded.runtime.Request)) or {}
        known = {name: [None if math.isnan(value) else value for value in values.tolist()] for name, values in made.items()}
        _write(kept, known)
    return {name: np.array([math.nan if value is None else value for value in values]) for name, values in known.items()}


def features_of_training(settings: Settings, bundle: manifest.Bundle) -> Sample | None:
    """The features that training computed from the rows of the reference; None if the bundle does not report them. Raises Damaged."""
    part = bundle.parts.get("model")
    file = store.Store(settings.store).path(part.digest) / drift_reference_file.FEATURES if part else None
    return drift_reference_file.read(file).sample if file is not None and file.is_file() else None


def with_features(settings: Settings, bundle: manifest.Bundle, reference: Sample, window: drift_window.Window) -> Sample:
    """The sample of *window*, with the features that the bundle's own code computes from its rows where the *reference* has them."""
    if window.table is None or not _has_made(reference):
        return window.sample
    loaded = load(settings, bundle)
    return with_made(loaded, reference, window.sample, inference_log.requests(window.table, loaded.runtime.Request))


def _has_made(reference: Sample) -> bool:
    return any(name.startswith(MADE) for name in reference.columns)


def with_made(loaded: Loaded, reference: Sample, sample: Sample, rows: Sequence[pydantic.BaseModel | None]) -> Sample:
    """*sample*, built from *rows*, with the features that the code computes from them where the *reference* has them."""
    made = features(loaded, rows) if _has_made(reference) else None
    names = [name for name in reference.columns if name.startswith(MADE) and made is not None and name.removeprefix(MADE) in made]
    fresh = {name: made[name.removeprefix(MADE)] for name in names if made is not None}
    return dataclasses.replace(sample, columns={**sample.columns, **fresh})


def features(loaded: Loaded, rows: Sequence[pydantic.BaseModel | None]) -> dict[str, Floats] | None:
    """The features that the bundle's own code computes from *rows*, by name, NaN for a rejected row; None if it does not report any."""
    import numpy as np

    places = [number for number, row in enumerate(rows) if row is not None]
    found: dict[str, Floats] = {}
    for some, made in _made(loaded, [(number, row) for number, row in enumerate(rows) if row is not None]) if places else ():
        if made is None:
            return None
        for name, values in made.items():
            found.setdefault(name, np.full(len(rows), np.nan))[some] = values
    return found


def _made(loaded: Loaded, rows: list[tuple[int, pydantic.BaseModel]]) -> Iterator[tuple[list[int], dict[str, Floats] | None]]:
    """The code's features for *rows*, by row number, computed in one call, or by halves where it raises for a row; that row gets none.

    Raises the code's error if it returns features for no row at all.
    """
    import numpy as np

    def attempt(some: list[tuple[int, pydantic.BaseModel]]) -> dict[str, Floats] | None:
        made = loaded.runtime.features([row for _, row in some])
        if made is None:
            return None
        found = {name: np.asarray(values, dtype=np.float64) for name, values in made.items()}
        if any(values.shape != (len(some),) for values in found.values()):
            raise ValueError("the runtime returned a number of features that differs from the number of rows; correct its features")
        return found

    waiting, answered, trouble = [rows], False, None
    while waiting:
        some = waiting.pop()
        try:
            made = attempt(some)
        except Exception as error:  # noqa: BLE001  # a team's code may raise anything about a row; the others still have features
            trouble = error
            half = len(some) // 2
            waiting += [some[half:], some[:half]] if half else []
        else:
            answered = True
            yield [number for number, _ in some], made
    if trouble is not None and not answered:
        raise trouble


def load(settings: Settings, bundle: manifest.Bundle) -> Loaded:
    """The bundle's own code and parts, verified, in this process, which keeps the last few. Raises what loading a worker raises."""
    return _load(settings, bundle.service, bundle.id)


@functools.lru_cache(maxsize=KEPT)
def _load(settings: Settings, service: str, bundle: str) -> Loaded:
    from lastgood.serving import worker

    return worker.load(settings, service=service, bundle=bundle, now=clock.now())


def forecast(loaded: Loaded, rows: Sequence[pydantic.BaseModel | None]) -> list[float | None]:
    """The probability in the bundle's answer to each row; None for a row that it rejects, or an answer without one."""
    from lastgood.serving import runtime

    def answered(asked: list[pydantic.BaseModel]) -> list[float | None]:
        try:
            values = [_finite(answer.get("probability")) for answer in loaded.runtime.predict(asked)]
            if len(values) != len(asked):
                raise ValueError("the number of answers differs from the number of rows")  # treated like an error about one of them
        except Exception:  # noqa: BLE001  # a team's code may raise anything about a row; the others still have an answer
            if len(asked) == 1:
                return [None]
            half = len(asked) // 2
            return [*answered(asked[:half]), *answered(asked[half:])]
        return values

    known = [number for number, row in enumerate(rows) if row is not None]
    found: list[float | None] = [None] * len(rows)
    with runtime.shadow(on=True):
        if not _forecasts(loaded, [rows[number] for number in known]):
            return found
        for start in range(0, len(known), BATCH):
            batch = known[start : start + BATCH]
            for number, value in zip(batch, answered([row for row in (rows[number] for number in batch) if row is not None]), strict=True):
                found[number] = value
    return found


def _finite(value: object) -> float | None:
    """A probability, None for an answer without one. Raises OverflowError, or ValueError for a value that is not finite."""
    if not isinstance(value, int | float):
        return None
    if not math.isfinite(value):
        raise ValueError("not a finite number")
    return float(value)


def _forecasts(loaded: Loaded, rows: Sequence[pydantic.BaseModel | None]) -> bool:
    """Whether the bundle answers with a probability, by its first answer: all others may go to a hosted model, for money."""
    for row in rows[:PROBES]:
        if row is None:
            continue
        try:
            (answer,) = loaded.runtime.predict([row])
            return isinstance(answer.get("probability"), int | float)
        except Exception:  # noqa: BLE001, S112  # a team's code may raise anything about a row; the next one may do
            continue
    return True


def usual(settings: Settings, bundle: manifest.Bundle, reference: Sample, *, rows: int, span_s: float) -> calibration.Calibration | None:
    """What is usual for windows of about this size; None if the reference is too short to determine it."""
    size, span = _rounded(rows), _rounded(span_s)
    kept = settings.home / "drift" / f"{manifest.short(bundle.id)}-{size:g}-{span:g}.v{VERSION}.json"
    known = _read(kept)
    if isinstance(known, dict):
        return calibration.from_json(known) if known else None
    found = calibration.calibrate(reference, rows=int(size), span_s=span)
    _write(kept, found.to_json() if found else {})
    return found


def _rounded(value: float) -> float:
    """Rounded to steps of a quarter, so that windows of nearly equal size share what is usual."""
    return float(round(1.25 ** round(math.log(max(value, 1.0), 1.25))))


def _read(file: Path) -> object:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None


def _write(file: Path, value: object) -> None:
    """Atomic. If the disk refuses, the next tick computes it again in some seconds; nothing else is lost."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write(file, json.dumps(value), kept="fast")
