"""The DAGSTER_HOME of one machine: prepared once, so that every process that opens it finds it complete.

`python -m dagster_lastgood.home` prepares a home and prints its path: $DAGSTER_HOME if that is set, else `dagster/` in the
home folder of lastgood. It writes a dagster.yaml if there is none (Dagster's own default would queue runs for a
daemon that may not be running) and creates the databases (two processes that open an empty home at once damage it permanently).
"""

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

MASTER = Path(__file__).with_name("instance.yaml")


def prepare(home: Path) -> Path:
    """Make *home* usable by any number of processes; safe to call again, and from several processes at once."""
    import dagster as dg

    home.mkdir(parents=True, exist_ok=True)
    config = home / "dagster.yaml"
    # In the project folder itself, dagster.yaml names its folders relative to it.
    with _alone(home), contextlib.chdir(home):
        if not config.exists():
            config.write_text(MASTER.read_text("utf-8"), "utf-8")
        # Dagster's output while doing so must not end up in "$(python -m dagster_lastgood.home)".
        with dg.DagsterInstance.from_config(str(home)) as instance, contextlib.redirect_stdout(sys.stderr):
            instance.upgrade()
    return home


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def warn_if_runs_would_wait() -> None:
    """Warn on stderr that DAGSTER_HOME has no dagster.yaml, because `dagster job launch` then queues silently."""
    home = os.environ.get("DAGSTER_HOME")
    if home and not (Path(home) / "dagster.yaml").exists():
        print(
            f"lastgood: {home} has no dagster.yaml, so a launched run waits until a Dagster daemon picks it up; "
            "to start runs at once, first run: python -m dagster_lastgood.home",
            file=sys.stderr,
        )


def main() -> None:
    """Prepare the home and print its path."""
    from lastgood import settings

    chosen = os.environ.get("DAGSTER_HOME")
    print(prepare(Path(chosen).absolute() if chosen else settings.load().home / "dagster"))


if __name__ == "__main__":
    main()
