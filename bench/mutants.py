"""How many small faults inserted into the code the tests notice: the mutation score of each file.

python -m bench.mutants                  the decision core, the gates and service.yaml; minutes, on one core
python -m bench.mutants core             one group
python -m bench.mutants core --quick     every tenth mutant
python -m bench.mutants gates --file track   one file: the others stay as they are, so its tests run faster

mutmut creates the mutants (comparisons, constants, boolean words, arguments, strings, cases) and runs the tests of a group
against each, in a copy, so that nothing here changes. A mutant that no test can notice is *equivalent*: it is listed with
the reason in bench/equivalents.toml and not counted. Module constants and the text of f-strings are not changed.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EQUIVALENTS = Path(__file__).with_name("equivalents.toml")
PROMISED = 95.0
"""Percent of a file's mutants, without equivalent ones, that its tests notice."""

NOTICED = {1, 3, 24, -24, 36, 152, 255}
"""Exit codes: a test failed (1), pytest itself did (3), or the tests no longer ended (the rest)."""

ENDLESS_S = 120
"""Seconds for one test, of which the slowest takes a quarter even under mutmut: some mutants loop indefinitely."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Files that are mutated, and the tests that should notice; both as patterns below the root."""

    files: tuple[str, ...]
    tests: tuple[str, ...]


GROUPS = {
    "core": Group(
        files=("lastgood/core/transitions.py", "lastgood/core/rollback.py", "lastgood/core/guards.py", "lastgood/core/state.py", "lastgood/analysis/policy.py"),
        tests=("tests/core/test_transitions.py", "tests/core/test_phases.py", "tests/core/test_rollback.py", "tests/core/test_breaker.py", "tests/test_judgement*.py", "tests/core/test_state.py"),
    ),
    "service": Group(
        files=("lastgood/service/strategy.py", "lastgood/service/gates.py", "lastgood/system/yaml_errors.py", "lastgood/service/schema.py"),
        tests=("tests/service/test_schema.py", "tests/service/test_freeze.py", "tests/service/test_strategy.py"),
    ),
    "gates": Group(files=("lastgood/gates/*.py",), tests=("tests/gates/test_*.py",)),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One fault: where it is, the lines that it changes, and whether a test noticed it."""

    file: str
    function: str
    was: str
    now: str
    noticed: bool

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Its key in the list of equivalents; line numbers would change with every edit."""
        return self.file, self.function, self.was, self.now


# --- running mutmut in a copy ------------------------------------------------------------------------------


def run(group: Group, *, pattern: str = "*", say: bool = True) -> list[Mutant]:
    """Every mutant of *group* whose mutmut name matches *pattern*, tried. Raises RuntimeError if the tests fail without one."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        work = Path(folder)
        _copy(group, work)
        environ = {**os.environ, "CI": "true", "LASTGOOD_TEST_BUDGET": "0.1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1", pattern]
        with (work / "log").open("w") as log:
            done = subprocess.run(command, cwd=work, env=environ, stdout=log, stderr=subprocess.STDOUT, check=False)
        if say or done.returncode:
            print((work / "log").read_text().replace("\r", "\n").rstrip().rsplit("\n", 1)[-1], file=sys.stderr)
        if done.returncode:
            raise RuntimeError(f"mutmut ended with {done.returncode}: {(work / 'log').read_text()[-2000:]}; run the group's tests first")
        return [mutant for file in _files(group.files, work) for mutant in _read(work, file)]


def narrowed(group: Group, file: str | None) -> Group:
    """*group* with only the file of the name *file*; None leaves it as it is."""
    if file is None:
        return group
    found = tuple(path for path in _files(group.files, ROOT) if Path(path).stem == file)
    if not found:
        raise SystemExit(f"no file of this group is called {file!r}; leave --file out, or name one of {', '.join(group.files)}")
    return dataclasses.replace(group, files=found)


def _files(patterns: Sequence[str], root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for pattern in patterns for path in root.glob(pattern) if path.name != "__init__.py")


def _copy(group: Group, work: Path) -> None:
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("lastgood", "tests"):
        shutil.copytree(ROOT / name, work / name, ignore=skip)
    for file in _files(group.files, work):
        (work / file).write_text(plain_properties((work / file).read_text("utf-8")), "utf-8")
    lists = {"source_paths": ["lastgood"], "only_mutate": _files(group.files, work)}
    lists["pytest_add_cli_args_test_selection"] = _files(group.tests, work)
    lists["pytest_add_cli_args"] = [f"--timeout={ENDLESS_S}"]
    settings = "".join(f"{key} = {json.dumps(value)}\n" for key, value in lists.items())
    pytest_settings = '[tool.pytest.ini_options]\npythonpath = ["."]\n'
    (work / "pyproject.toml").write_text(f"{pytest_settings}\n[tool.mutmut]\n{settings}")


def plain_properties(source: str) -> str:
    """*source* with each property written as a method followed by `name = property(name)`, because mutmut skips decorated ones."""
    lines = source.splitlines()
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and _is_property(node)]
    for node in sorted(found, key=lambda node: node.lineno, reverse=True):
        indent = " " * node.col_offset
        lines.insert(node.end_lineno or 0, f"{indent}{node.name} = property({node.name})")
        del lines[node.decorator_list[0].lineno - 1]
    return "\n".join(lines) + "\n"


def _is_property(node: ast.FunctionDef) -> bool:
    return len(node.decorator_list) == 1 and ast.unparse(node.decorator_list[0]) == "property"


# --- reading what it found ---------------------------------------------------------------------------------


def _read(work: Path, file: str) -> Iterator[Mutant]:
    """The mutants of one file that were tried."""
    meta = work / "mutants" / f"{file}.meta"
    if not meta.exists():
        return
    codes: Mapping[str, int | None] = json.loads(meta.read_text())["exit_code_by_key"]
    sources = _functions((work / "mutants" / file).read_text("utf-8"))
    for name, code in codes.items():
        if code is None:
            continue
        mangled, number = name.rsplit(".", 1)[-1].rsplit("__mutmut_", 1)
        was, now = _changed(sources[f"{mangled}__mutmut_orig"], sources[f"{mangled}__mutmut_{number}"])
        function = mangled.replace("xǁ", "").removeprefix("x_").replace("ǁ", ".")
        yield Mutant(file=file, function=function, was=was, now=now, noticed=code in NOTICED)


def _functions(source: str) -> dict[str, list[str]]:
    lines = source.splitlines()
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and "__mutmut_" in node.name]
    # the first line contains the name, which differs
    return {node.name: lines[node.lineno : node.end_lineno] for node in nodes}


def _changed(was: Sequence[str], now: Sequence[str]) -> tuple[str, str]:
    """The differing lines, joined, so that a change over several lines has one key."""
    found = list(difflib.ndiff(was, now))
    return tuple(" / ".join(line[2:].strip() for line in found if line[0] == sign) for sign in "-+")  # type: ignore[return-value]


def equivalents() -> dict[tuple[str, str, str, str], str]:
    """The mutants that no test can notice, with the reason for each."""
    listed = tomllib.loads(EQUIVALENTS.read_text("utf-8")).get("equivalent", [])
    return {(one["file"], one["function"], one["was"], one["now"]): one["why"] for one in listed}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The results for the mutants of one file."""

    file: str
    noticed: int
    survived: int
    equivalent: int

    @property
    def percent(self) -> float:
        """Share of the counted mutants that was noticed; 100 if none counts."""
        return 100 * self.noticed / (self.noticed + self.survived) if self.noticed + self.survived else 100.0


def scores(mutants: Sequence[Mutant], excused: Mapping[tuple[str, str, str, str], str]) -> list[Score]:
    """The score of each file, in the order of their names."""
    found = []
    for file in sorted({mutant.file for mutant in mutants}):
        mine = [mutant for mutant in mutants if mutant.file == file]
        noticed = sum(mutant.noticed for mutant in mine)
        equivalent = sum(not mutant.noticed and mutant.key in excused for mutant in mine)
        found.append(Score(file=file, noticed=noticed, survived=len(mine) - noticed - equivalent, equivalent=equivalent))
    return found


def report(mutants: Sequence[Mutant], excused: Mapping[tuple[str, str, str, str], str], *, whole: bool) -> str:
    """The survivors, superfluous entries in the list of equivalents (only if the *whole* group was tried), and the scores."""
    lines = []
    for mutant in mutants:
        if not mutant.noticed and mutant.key not in excused:
            lines += [f"{mutant.file}: {mutant.function}", f"  - {mutant.was}", f"  + {mutant.now}"]
    files = {mutant.file for mutant in mutants}
    survivors = {mutant.key for mutant in mutants if not mutant.noticed}
    stale = [key for key in excused if key[0] in files and key not in survivors] if whole else []
    lines += [f"listed as equivalent, but noticed or gone: {' | '.join(key)}; take it out of {EQUIVALENTS.name}" for key in stale]
    lines.append(f"{'file':32} {'noticed':>8} {'survived':>9} {'equivalent':>11} {'score':>8}")
    for one in scores(mutants, excused):
        lines.append(f"{one.file:32} {one.noticed:8} {one.survived:9} {one.equivalent:11} {one.percent:6.1f} %")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print survivors and scores; 1 if a file misses its promised score."""
    parser = argparse.ArgumentParser(prog="python -m bench.mutants", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], help="which; default: all")
    parser.add_argument("--quick", action="store_true", help="every tenth mutant")
    parser.add_argument("--file", help="only the file of this name, for example 'track'")
    parser.add_argument("--match", default="*", help="only mutants whose name matches this pattern, for example '*setback*verified*'")
    call = parser.parse_args(argv)
    os.nice(10)
    excused, missed = equivalents(), False
    for name in call.groups or GROUPS:
        began = time.monotonic()
        tried = run(narrowed(GROUPS[name], call.file), pattern=f"{call.match}__mutmut_*{'7' if call.quick else ''}")
        print(report(tried, excused, whole=not call.quick and call.match == "*"))
        print(f"{name}: {len(tried)} mutants in {time.monotonic() - began:.0f} s", file=sys.stderr)
        missed = missed or any(one.percent < PROMISED for one in scores(tried, excused))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
