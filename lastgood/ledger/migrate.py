"""Numbered migrations, run in order inside one transaction.

Each file starts with `-- min_reader: N`: the oldest schema version whose release still reads and writes the
ledger afterwards. A release may only add nullable columns, tables, indexes and stricter guards, so that the release
before it keeps working on the same ledger; that is what makes a downgrade to the previous release of lastgood possible.

What does not belong here: queries of the running system (`queries`).
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import NamedTuple

from lastgood import errors
from lastgood.ledger import queries, sqlite
from lastgood.ledger.dialect import Dialect

_FOLDER = Path(__file__).parent / "migrations"
_FILE = re.compile(r"(\d{4})_[a-z_]+\.(sqlite|postgres)\.sql")
_MIN_READER = re.compile(r"-- min_reader: (\d+)\n")


class Migration(NamedTuple):
    """One step: `version` it leads to, oldest version that can still use the result, the SQL."""

    version: int
    min_reader: int
    text: str


@functools.cache
def migrations_of(engine: str) -> tuple[Migration, ...]:
    """The migrations of *engine* in order. Raises Damaged if a file of the installation is missing or unexpected."""
    found: list[Migration] = []
    for file in sorted(_FOLDER.glob(f"*.{engine}.sql")):
        name, text = _FILE.fullmatch(file.name), file.read_text("utf-8")
        header = _MIN_READER.match(text)
        if name is None or header is None or int(name[1]) != len(found) + 1:
            raise errors.Damaged(f"{file} is not the next migration; install lastgood again")
        found.append(Migration(version=int(name[1]), min_reader=int(header[1]), text=text))
    if not found:
        raise errors.Damaged(f"{_FOLDER} has no migrations; install lastgood again")
    return tuple(found)


def ours(engine: str) -> int:
    """The schema version that this release was written for."""
    return migrations_of(engine)[-1].version


def version(dialect: Dialect) -> int:
    """The ledger's schema version, 0 for none. Raises LastgoodError if this release is too old to use it."""
    if "schema_version" not in dialect.tables():
        return 0
    return check(dialect)


def check(dialect: Dialect) -> int:
    """The version of a ledger that has one. Raises LastgoodError if this release is too old to use it."""
    rows = dialect.fetch(queries.SCHEMA_VERSION)
    found, min_reader = (rows[0]["version"], rows[0]["min_reader"]) if rows else (0, 0)
    if min_reader > ours(dialect.name):
        raise errors.LastgoodError(
            f"ledger {dialect.where} has schema {found}, which needs a release that knows schema {min_reader}; "
            f"this one knows {ours(dialect.name)}; upgrade lastgood"
        )
    return int(found)


def migrate(dialect: Dialect) -> None:
    """Bring the ledger to this release's schema, all or nothing; two concurrent calls do it once."""
    dialect.begin("migrate")
    try:
        for step in migrations_of(dialect.name)[version(dialect) :]:
            dialect.script(step.text)
            dialect.fetch(queries.ADD_SCHEMA_VERSION, version=step.version, min_reader=step.min_reader)
        dialect.commit()
    except BaseException:
        dialect.undo()
        raise


def guards(engine: str, *, until: int) -> dict[str, str]:
    """What the migrations up to version *until* put in force, in the form of `Dialect.schema`."""
    steps = migrations_of(engine)[:until]
    if engine == "postgres":
        text = "".join(step.text for step in steps)
        bodies = dict(re.findall(r"CREATE (?:OR REPLACE )?FUNCTION (\w+)\(.*?AS \$\$(.*?)\$\$", text, re.DOTALL))
        return {name: bodies[function] for name, function in re.findall(r"CREATE TRIGGER (\w+) .*? FUNCTION (\w+)\(", text)}
    return sqlite.schema_of(step.text for step in steps)
