"""`service.yaml`: a team's declaration about its own service, strictly validated.

The file is frozen into every bundle's config part together with the code files it names, so a rollback
restores the settings a bundle was released with. Unknown keys are errors, names contain their units.

What does not belong here: machine-wide settings (`settings`) and which bundle serves (`ledger`).
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml

from lastgood import errors
from lastgood.bundle import manifest
from lastgood.service import drift as drift_rules
from lastgood.service import gates as service_gates
from lastgood.service import strategy as strategies
from lastgood.service import timeouts
from lastgood.system import plain, yaml_errors

FILE = "service.yaml"
SCHEMA = "lastgood.service/v1"
HTTP_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""Valid names of a header or a cookie."""
SHORTEST_S = 0.001
"""Shortest time limit of a request, in seconds."""
MAX_NAME = 100
"""Maximum length of a gate's name in characters."""


class _Group(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Traffic(_Group):
    """How requests reach the service."""

    port: int = pydantic.Field(ge=1, le=65535)
    """Loopback port on which the proxy listens."""
    timeout_s: float = pydantic.Field(default=5.0, gt=0, le=timeouts.LONGEST_S)
    """Seconds until the proxy gives up on an answer, and for which a retired worker continues with one. Missing: the tier's default."""
    per_try_timeout_s: float = pydantic.Field(default=3.0, gt=0, le=timeouts.LONGEST_S)
    """Seconds for one attempt, where a repetition does no harm; a second one goes to the fallback bundle. Missing: 60 % of timeout_s."""
    idempotent: bool = True
    """True if a repetition does no harm: then failed answers are retried, not only failed connections. Missing: the tier's default."""
    user_header: str = "x-user-id"
    """Header that identifies the user; one user stays on one side of a split."""
    user_cookie: str = "session"
    """Cookie that identifies the user where the header is missing."""
    disclose: Literal["bundle", "none"] = "bundle"
    """What an answer reveals about its origin: its bundle and revision, or nothing. Arm and parts are revealed by debug token only."""


class Serving(_Group):
    """How a worker process behaves."""

    ready_timeout_s: float = pydantic.Field(default=60.0, gt=0, le=3600)
    """Seconds a new worker may take to load and answer its warm-up; after that a promotion fails."""
    max_body_bytes: int = pydantic.Field(default=1_048_576, gt=0, le=16 * 1024 * 1024)
    """Largest request body, in bytes; a larger one is answered with 413."""
    max_batch: int = pydantic.Field(default=1000, gt=0, le=10_000)
    """Most rows in one request."""
    user_requests: int = pydantic.Field(default=32, ge=1, le=2000)
    """Maximum concurrent requests of one user at a worker; one more is answered with 429."""
    user_feedback_per_min: int = pydantic.Field(default=6000, ge=1, le=10_000_000)
    """Maximum rows of feedback that a worker accepts from one user in a minute, `max_batch` at least; more are answered with 429."""
    log_flush_s: float = pydantic.Field(default=1.0, gt=0, le=60)
    """Seconds of inference log that a kill -9 may lose at most."""
    log_segment_rows: int = pydantic.Field(default=50_000, gt=0, le=5_000_000)
    """Rows after which a new Parquet segment is begun."""
    log_keep_days: float = pydantic.Field(default=30.0, gt=0, le=3660)
    """Days after which a segment is removed."""
    cache_s: float = pydantic.Field(default=0.0, ge=0, le=30 * 86_400)
    """Seconds for which the answer to a row is cached and returned again for an equal row; 0 disables the cache."""
    cache_rows: int = pydantic.Field(default=10_000, ge=1, le=10_000_000)
    """Maximum number of answers that a worker caches in its own memory; a Redis has limits of its own."""


class Recovery(_Group):
    """What counts as recovered after a rollback; declared before the release, so that the criteria cannot be moved afterwards.

    Every gate of the service is applied to stable alone: against its own limit, else against stable's earlier figure plus
    the gate's margin. All pass: recovered. One fails: not recovered, so the release was not the cause.
    """

    within_s: float = pydantic.Field(default=300.0, ge=0, le=30 * 86_400)
    """Seconds that the measurement may take; after that it is inconclusive. 0 turns it off."""
    min_samples: int = pydantic.Field(default=50, ge=1, le=service_gates.MOST)
    """Fewest requests of stable before it can count as recovered."""


class Release(_Group):
    """How a new bundle takes over."""

    strategy: tuple[strategies.PhaseSettings, ...] | None = None
    """Phases before the cut-over: shadow, canary, approval. Empty: cut over at once. Missing: those of the tier."""
    high_stakes: bool = False
    """With no strategy named: shadow, canary and an approval, whatever the tier."""
    control_arm: bool = False
    """A second worker of stable, started with the candidate's, answers an equal share; durations and scores are compared with it alone."""
    bake_s: float = pydantic.Field(default=600.0, ge=0, le=90 * 86_400)
    """Seconds after the cut-over during which the release counts as unproven; previous stays warm meanwhile and after."""
    alpha: float = pydantic.Field(default=0.01, gt=0, le=0.2)
    """Probability that the sequential tests of one release, taken together, take out a bundle that is no worse."""
    rollback_window: int = pydantic.Field(default=3, ge=0, le=16)
    """A bundle among this many most recent stable ones counts as proven: it is released without analysis. 0: none does."""
    recovery: Recovery = Recovery()

    @pydantic.field_validator("strategy")
    @classmethod
    def _chain(cls, value: tuple[strategies.PhaseSettings, ...] | None) -> tuple[strategies.PhaseSettings, ...] | None:
        return None if value is None else strategies.check(value)


class Evaluation(_Group):
    """What a bundle must reach offline before it may serve."""

    floors: dict[str, float] = {}
    """Metric name to the lowest value allowed."""
    ceilings: dict[str, float] = {}
    """Metric name to the highest value allowed."""


class Service(_Group):
    """One service, as declared in its `service.yaml`."""

    schema_: Literal["lastgood.service/v1"] = pydantic.Field(alias="schema")
    service: str
    tier: strategies.Tier
    owner: str
    """Who is paged and who can answer questions."""
    description: str = ""
    runtime: str = "runtime:Runtime"
    """`module:Class` inside the service folder; loads a bundle and answers requests."""
    code: tuple[str, ...] = ("runtime.py",)
    """Files of the service folder that are frozen with the configuration."""
    parts: tuple[str, ...] = ("model", "config", "environment")
    """Parts that every bundle of this service must have."""
    traffic: Traffic
    serving: Serving = Serving()
    release: Release = Release()
    evaluation: Evaluation = Evaluation()
    gates: dict[str, service_gates.Gate] = pydantic.Field(default={}, validate_default=True)
    """Name to gate; the gates `errors`, `oom`, `ejections` and `split` are always there and can be set by these names."""
    drift: drift_rules.Drift | None = None
    """What is watched on the serving bundle; without it nothing is. The bundle's data part must then contain a reference."""
    options: dict[str, Any] = {}
    """Settings of the service's own code; lastgood only freezes them."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _of_tier(cls, value: Any) -> Any:
        return timeouts.filled(value)

    @pydantic.field_validator("service")
    @classmethod
    def _name(cls, value: str) -> str:
        return manifest.check_service_name(value)

    @pydantic.field_validator("parts")
    @classmethod
    def _parts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = set(value) - set(manifest.PART_NAMES)
        if unknown:
            raise ValueError(f"unknown parts {sorted(unknown)}; a bundle has {', '.join(manifest.PART_NAMES)}")
        return value

    @pydantic.field_validator("code")
    @classmethod
    def _code(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"{name!r} is outside the service folder; name files inside it")
        return value

    @pydantic.field_validator("gates")
    @classmethod
    def _gates(cls, value: dict[str, service_gates.AnyGate]) -> dict[str, service_gates.AnyGate]:
        return {**service_gates.DEFAULTS, **value}

    @pydantic.model_validator(mode="after")
    def _agree(self) -> Service:
        if self.release.control_arm:
            strategies.check_control(self.chain)
            service_gates.check_control(self.gates)
        service_gates.check(self.gates, mirrored=any(getattr(phase, "mirror_pct", 0.0) for phase in self.chain))
        return self

    @property
    def chain(self) -> strategies.Chain:
        """The phases of a release before the cut-over: those named, else those of the tier."""
        if self.release.strategy is not None:
            return self.release.strategy
        return strategies.of_tier(self.tier, high_stakes=self.release.high_stakes)


def parse(text: str, *, where: str) -> Service:
    """The service that *text* (YAML) describes; *where* names its source in errors. Raises UsageError, naming the lines."""
    value = yaml_errors.load(text, where=where)
    with _explained(text, where=where):
        return Service.model_validate(value)


def parse_frozen(text: str, *, where: str) -> Service:
    """Like `parse`, for a bundle's file: a value above a maximum that was introduced later counts as the maximum.

    An older bundle was released with it, and must remain a rollback target.
    """
    value = yaml_errors.load(text, where=where)
    with _explained(text, where=where):
        try:
            return Service.model_validate(value)
        except pydantic.ValidationError as error:
            if not all(problem["type"] == "less_than_equal" for problem in error.errors()):
                raise
            for problem in error.errors():
                _put(value, problem["loc"], problem["ctx"]["le"])
            return Service.model_validate(value)


def _put(value: Any, loc: Sequence[int | str], new: float) -> None:
    """Set the value at *loc* of an error; steps that only name a member of a union are skipped."""
    *way, last = loc
    for step in way:
        if isinstance(value, list) or (isinstance(value, dict) and step in value):
            inside: Any = value
            value = inside[step]
    value[last] = new


@contextlib.contextmanager
def _explained(text: str, *, where: str) -> Iterator[None]:
    """The errors in *text*, as a UsageError that names its lines."""
    try:
        yield
    except pydantic.ValidationError as error:
        raise errors.UsageError(f"{where} is invalid: {yaml_errors.explain(text, error)}") from error
    except errors.UsageError as error:
        raise errors.UsageError(f"{where} is invalid: {error}; correct the named key") from error


def load(folder: Path) -> Service:
    """The service of the folder that holds `service.yaml`. Raises UsageError or NotFound."""
    file = folder / FILE
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError as error:
        known = sorted(p.parent.name for p in folder.parent.glob(f"*/{FILE}"))
        raise errors.NotFound(f"no service {folder.name!r}: {file} is missing; services here: {', '.join(known) or 'none'}") from error
    except UnicodeDecodeError as error:
        raise errors.UsageError(f"{file} is not UTF-8: {error}; save it as UTF-8") from error
    found = parse(text, where=str(file))
    if found.service != folder.name:
        raise errors.UsageError(f"{file} names service {found.service!r}; rename the folder or the service so that they agree")
    return found


def freeze(folder: Path, out: Path, *, options: Mapping[str, Any] | None = None, overlay: Mapping[str, Any] | None = None) -> Path:
    """Write the config part of the service in *folder* to *out* and return it: service.yaml and the code files it names.

    The written file is the effective one: defaults filled in, *options* merged over the service's own, the keys of *overlay*
    (`release`, `gates`, …) replacing the file's, comments and order dropped, so that equal settings have equal bytes and a
    later default does not affect old bundles. Raises NotFound if a named code file is missing, UsageError if *out*
    is not empty, the overlay does not fit, or something would not be read back unchanged; then *out* is as before.
    """
    found = load(folder)
    if overlay:
        found = _laid_over(found, plain.tree(overlay, what="the overlay"), where=str(folder / FILE))
    own = {**found.options, **(plain.tree(options, what="the options") if options else {})}
    release = found.release.model_copy(update={"strategy": found.chain})
    merged = found.model_copy(update={"options": plain.tree(own, what=f"options in {folder / FILE}"), "release": release})
    text = _frozen_text(merged, where=str(folder / FILE))
    missing = [name for name in found.code if not _is_file(folder / name)]
    if missing:
        raise errors.NotFound(f"service {found.service!r} names code file {missing[0]!r}, which {folder} does not have; correct 'code'")
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise errors.UsageError(f"{out} is not empty; freeze a configuration into a new folder")
    for name in found.code:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, out / name)
    (out / FILE).write_text(text, "utf-8")
    return out


def _laid_over(found: Service, overlay: Mapping[str, Any], *, where: str) -> Service:
    value = found.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"options"})
    # Options are anything that YAML can say, which JSON may not.
    laid = {**value, "options": plain.tree(found.options, what=f"options in {where}"), **overlay}
    replaced = parse(yaml.safe_dump(laid, sort_keys=False), where=f"{where} with {', '.join(overlay)} replaced")
    if replaced.service != found.service:
        raise errors.UsageError(
            f"an overlay of {found.service!r} cannot change 'service' to {replaced.service!r}; remove 'service' from it"
        )
    return replaced


def _frozen_text(service: Service, *, where: str) -> str:
    """*service* as YAML that reads back unchanged. Raises UsageError."""
    check(service)
    described = plain.tree(service.model_dump(mode="json", by_alias=True), what=where)
    text: str = yaml.safe_dump(described, sort_keys=True, allow_unicode=True)
    again = parse_frozen(text, where=f"{where}, frozen,")
    changed = [name for name, value in again if value != getattr(service, name)]
    if changed:
        raise errors.UsageError(f"{', '.join(changed)} in {where} would not be read back unchanged; use plain text and numbers there")
    return text


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def check(service: Service) -> None:
    """Raise UsageError for settings that are valid by themselves, but unusable for the proxy or a page. Older bundles may have them."""
    for key in ("user_header", "user_cookie"):
        if not HTTP_NAME.fullmatch(getattr(service.traffic, key)):
            raise errors.UsageError(
                f"traffic.{key} {getattr(service.traffic, key)[:100]!r} is not a valid HTTP header name; correct it in {FILE}"
            )
    for key in ("timeout_s", "per_try_timeout_s"):
        if getattr(service.traffic, key) < SHORTEST_S:
            raise errors.UsageError(
                f"traffic.{key} is shorter than {SHORTEST_S:g} s, the shortest time that the proxy supports; raise it in {FILE}"
            )
    odd = [name for name in service.gates if not name.isprintable() or not name.strip() or len(name) > MAX_NAME]
    if odd:
        raise errors.UsageError(
            f"{odd[0][:100]!r} is not a valid gate name, since pages show it; use up to {MAX_NAME} printable characters in {FILE}"
        )
