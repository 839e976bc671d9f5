"""Where things are and how patient we are: one frozen value, read once and passed as an argument.

Values come from `lastgood.toml` in the project folder; the environment overrides them as
`LASTGOOD_<GROUP>_<FIELD>`, for example `LASTGOOD_LEDGER_URL`. `LASTGOOD_HOME` moves everything
lastgood writes (default: `.lastgood/` in the project folder).

What does not belong here: anything about one service (that is its `service.yaml`).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic

from lastgood import errors
from lastgood.system import permissions


class _Group(pydantic.BaseModel):
    # An error must not show what was configured: a misspelt key of [paging] may hold a secret.
    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True, allow_inf_nan=False
    )


class LedgerSettings(_Group):
    """The ledger: the only truth about what serves."""

    url: str = ""
    """`sqlite:///absolute/path` or `postgresql://…`; empty means `ledger.db` in the home folder."""
    busy_timeout_s: float = pydantic.Field(default=5.0, gt=0, le=60)
    """Seconds to wait for another writer; commits take milliseconds, so five seconds means it is stuck."""
    ballast_bytes: int = pydantic.Field(default=4 * 1024 * 1024, ge=0, le=1024 * 1024 * 1024)
    """Space kept in reserve beside the ledger and freed on a full disk, so that a rollback still commits."""


class ControllerSettings(_Group):
    """The loop that makes the layers follow the ledger."""

    poll_s: float = pydantic.Field(default=0.2, gt=0, le=60)
    """Seconds between looks at the newest revision; one indexed read, under a millisecond."""
    resync_s: float = pydantic.Field(default=10.0, gt=0, le=3600)
    """Seconds between full comparisons with the world, which put hand edits back."""
    layer_timeout_s: float = pydantic.Field(default=30.0, gt=0, le=3600)
    """Seconds after which one layer's attempt counts as failed; other layers do not wait for it."""
    backoff_max_s: float = pydantic.Field(default=30.0, gt=0, le=3600)
    """Longest pause, in seconds, between attempts at a layer that keeps failing (full jitter)."""
    measure_s: float = pydantic.Field(default=1.0, gt=0, le=60)
    """Seconds between measurements for the gates while a release is in progress; one costs some milliseconds."""
    watch_s: float = pydantic.Field(default=10.0, gt=0, le=3600)
    """Seconds between measurements for triggers that watch a proven stable bundle."""
    lease_s: float = pydantic.Field(default=15.0, gt=0, le=3600)
    """Seconds after which another controller takes over from one that no longer answers."""
    heartbeat_s: float = pydantic.Field(default=10.0, gt=0, le=3600)
    """Seconds between reports of a host whose workers have not changed; after three of them without a report, its workers count as unknown."""
    keep_measurements_days: float = pydantic.Field(default=30.0, gt=0, le=3660)
    """Days after which measurements are removed (a day of canary is some 130 MB), except those of a release in progress; the verdicts in the release history stay indefinitely."""

    @pydantic.model_validator(mode="after")
    def _lease_lasts(self) -> ControllerSettings:
        longest = max(self.measure_s, self.watch_s)
        if self.lease_s < 1.5 * longest:
            raise ValueError(
                f"lease_s {self.lease_s:g} would expire between two renewals, which are up to {longest:g} s apart; raise it to {1.5 * longest:g}"
            )
        return self


class RegistrySettings(_Group):
    """MLflow, as a mirror of the ledger."""

    tracking_uri: str = ""
    """MLflow tracking and registry address; empty means `sqlite:///…/mlflow.db` in the home folder."""


class MetricsSettings(_Group):
    """Where gates get figures that the proxy and the inference log do not have."""

    prometheus_url: str = ""
    """Base address of a Prometheus, such as `http://127.0.0.1:9090`; needed by gates with a query."""


class PagingSettings(_Group):
    """Who is told when automation has acted or a person has to. A file in `pages/` of the home folder is always left."""

    urls: tuple[pydantic.SecretStr, ...] = ()
    """Channels beside that file: `pagerduty://ROUTING_KEY`, `opsgenie://API_KEY`, `jsm://API_KEY`, and what Apprise knows,
    such as `slack://…`, `mailtos://…`, `json://…`. They hold secrets: better in LASTGOOD_PAGING_URLS, with blanks between."""
    pager_severity: Literal["critical", "warning", "info"] = "warning"
    """Lowest severity that goes to PagerDuty, Opsgenie and JSM, which wake people; the other channels get all."""
    timeout_s: float = pydantic.Field(default=5.0, gt=0, le=60)
    """Seconds to wait for a channel's answer; a page that got none is tried again."""
    pagerduty_url: str = pydantic.Field(default="https://events.pagerduty.com/v2/enqueue", pattern="^https?://")
    """Where PagerDuty takes events; accounts in Europe have `https://events.eu.pagerduty.com/v2/enqueue`."""
    opsgenie_url: str = pydantic.Field(default="https://api.opsgenie.com/v2/alerts", pattern="^https?://")
    """Where Opsgenie takes alerts; it is switched off in April 2027."""
    jsm_url: str = pydantic.Field(default="https://api.atlassian.com/jsm/ops/integration/v2/alerts", pattern="^https?://")
    """Where Jira Service Management, Opsgenie's successor, takes alerts."""

    @pydantic.field_validator("urls", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(value.split()) if isinstance(value, str) else value


class LayersSettings(_Group):
    """Which adapter plays each layer, by the dotted names in `lastgood.layers.catalog`; empty turns a layer off."""

    infrastructure: str = "processes"
    traffic: str = "envoy"
    registry: str = "mlflow"
    index: str = "index"
    """Builds the replicas of indexes; only for services whose bundles have one."""
    prompts: str = "mlflow"
    """Mirrors prompts; only for services whose bundles have one."""
    answers: str = "redis"
    """Fences the shared cache of answers; only where `cache.url` is set."""


class IndexSettings(_Group):
    """The engine that holds replicas of vector indexes. What a bundle's index is stands in the store, so a replica may be lost."""

    url: str = ""
    """`lancedb:///absolute/path`, `postgresql://…` (pgvector) or `pinecone://HOST`; empty means LanceDB in `index/` of the home folder."""
    keep_days: float = pydantic.Field(default=7.0, ge=0, le=3660)
    """Days for which a replica stays after it was built, whether a bundle needs it or not."""
    keep_stable: int = pydantic.Field(default=3, ge=1, le=16)
    """So many bundles of each service that were stable last keep their replicas, for a rollback that needs no building."""


class CacheSettings(_Group):
    """Where answers are kept that a service says may be cached (`serving.cache_s`)."""

    url: str = ""
    """`redis://HOST:PORT/0`, shared by all workers; empty: each worker keeps them in its own memory. It may hold a password."""


class DriftSettings(_Group):
    """When Dagster evaluates live traffic; each service.yaml defines what counts as drift."""

    tick_s: float = pydantic.Field(default=30.0, ge=1, le=86_400)
    """Seconds between two ticks of the sensor `drift_watch`, read when the code location loads. A window is looked at when it is over."""
    report_cron: str = "0 6 * * *"
    """When the schedules write Evidently's reports, as a cron line in UTC."""
    report_hours: float = pydantic.Field(default=24.0, gt=0, le=366 * 24)
    """So many hours back a scheduled report reaches."""


class Settings(_Group):
    """Everything the commands need to know. Build it with `load`."""

    project: Path
    """Folder that holds `services/`, normally the clone."""
    home: Path
    """Folder that holds everything lastgood writes."""
    ledger: LedgerSettings = LedgerSettings()
    controller: ControllerSettings = ControllerSettings()
    registry: RegistrySettings = RegistrySettings()
    layers: LayersSettings = LayersSettings()
    index: IndexSettings = IndexSettings()
    cache: CacheSettings = CacheSettings()
    metrics: MetricsSettings = MetricsSettings()
    paging: PagingSettings = PagingSettings()
    drift: DriftSettings = DriftSettings()

    @property
    def ledger_url(self) -> str:
        return self.ledger.url or f"sqlite:///{self.home / 'ledger.db'}"

    @property
    def ledger_file(self) -> Path | None:
        """The ledger's file; None if it is kept by a server."""
        url = self.ledger_url
        return Path("/" + url.removeprefix("sqlite:").lstrip("/")) if url.startswith("sqlite:///") else None

    @property
    def index_url(self) -> str:
        return self.index.url or f"lancedb://{self.home / 'index'}"

    @property
    def tracking_uri(self) -> str:
        return self.registry.tracking_uri or f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def services(self) -> Path:
        """`services/<name>/{service.yaml, runtime.py}`, what a team edits."""
        return self.project / "services"

    @property
    def store(self) -> Path:
        """The content-addressed store."""
        return self.home / "store"

    @property
    def pages(self) -> Path:
        """What a person must be told, one file each."""
        return self.home / "pages"

    @property
    def keys(self) -> Path:
        """The signing key of the audit trail (mode 0600) and its public half."""
        return self.home / "keys"

    def run(self, service: str) -> Path:
        """Process records (pid, port) and layer reports of one service; safe to lose."""
        return self.home / "run" / service

    def parked(self, service: str) -> Path:
        """A file that is there while the service is down on purpose, so that the controller leaves it alone."""
        return self.run(service) / "down"

    def logs(self, service: str) -> Path:
        return self.home / "logs" / service

    def envoy(self, service: str) -> Path:
        return self.home / "envoy" / service

    def inference(self, service: str) -> Path:
        """Inference log and feedback, as Parquet segments."""
        return self.home / "inference" / service


def load(project: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read `lastgood.toml` of *project* (default: nearest folder above the current one that has one).

    Raises UsageError, naming the file and the key, if anything is misspelt or of the wrong type.
    """
    env = os.environ if environ is None else environ
    root = project or find_project(env)
    file = root / "lastgood.toml"
    values = _read(file)
    configured = values.pop("home", root / ".lastgood")
    home = Path(env.get("LASTGOOD_HOME") or configured)
    for group, model in _groups().items():
        section = values.setdefault(group, {})
        for field in model.model_fields:
            name = f"LASTGOOD_{group}_{field}".upper()
            if isinstance(section, dict) and name in env:
                section[field] = env[name]
    try:
        return Settings(project=root, home=(root / home).absolute(), **values)
    except (pydantic.ValidationError, TypeError) as error:
        raise errors.UsageError(f"settings in {file} or LASTGOOD_* are invalid: {error}; correct the named key") from error


def _groups() -> dict[str, type[_Group]]:
    fields = Settings.model_fields.items()
    return {name: f.annotation for name, f in fields if isinstance(f.annotation, type) and issubclass(f.annotation, _Group)}


def find_project(env: Mapping[str, str]) -> Path:
    """The folder that LASTGOOD_PROJECT names, else the nearest one upwards with a lastgood.toml, else the working folder.

    Raises NotAllowed for a lastgood.toml that somebody else may have put there.
    """
    if env.get("LASTGOOD_PROJECT"):
        return Path(env["LASTGOOD_PROJECT"]).absolute()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "lastgood.toml").is_file():
            _check_owner(folder / "lastgood.toml", here)
            return folder
    return here


def _check_owner(file: Path, here: Path) -> None:
    """A file found upwards decides where ledger and code come from; in a shared place such as /tmp anybody may have put it there."""
    owner = file.stat().st_uid
    if owner not in (os.geteuid(), 0, here.stat().st_uid):
        raise errors.UsageError(
            f"{file}, found above {here}, belongs to {permissions.user(owner)}, so it is not used; "
            f"set LASTGOOD_PROJECT={file.parent} if you do mean that project"
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise errors.UsageError(f"{file} is not valid TOML: {error}; correct that line") from error
