"""The claims of a demonstration, each checked, and how they are reported."""

from __future__ import annotations

import dataclasses
import json
import sys
import textwrap
import time
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One checked statement. `value` is the measurement, in `unit`; `detail` explains it."""

    name: str
    ok: bool
    value: Any
    unit: str = ""
    detail: str = ""


def brief(text: str, width: int = 240) -> str:
    """*text* shortened between two words if it is longer than *width* characters."""
    return textwrap.shorten(text, width, placeholder=" …")


class Story:
    """Reports a demonstration line by line on stderr and collects its claims; with *as_json* they are printed to stdout as one object."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._began = time.monotonic()
        self.claims: list[Claim] = []

    def tell(self, text: str) -> None:
        """One line of progress, with minutes and seconds since the start."""
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        print(f"{minutes:02d}:{seconds:02d}  {text}", file=sys.stderr, flush=True)

    def claim(self, name: str, *, ok: bool, value: Any, unit: str = "", detail: str = "") -> bool:
        """Record and report one checked statement; returns *ok*."""
        self.claims.append(Claim(name=name, ok=ok, value=value, unit=unit, detail=detail))
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        self.tell(f"{'  ok  ' if ok else ' FAIL '} {name}: {shown} {unit}".rstrip() + (f"  ({brief(detail)})" if detail else ""))
        return ok

    def end(self) -> int:
        """Print the object if asked for; the exit code: 0 only if there are claims and every one holds."""
        ok = bool(self.claims) and all(claim.ok for claim in self.claims)
        if self._as_json:
            print(json.dumps({"ok": ok, "claims": [dataclasses.asdict(claim) for claim in self.claims]}))
        failed = [claim.name for claim in self.claims if not claim.ok]
        self.tell(
            f"{len(self.claims)} claims checked, all hold" if ok else f"these claims do not hold: {', '.join(failed) or 'none was checked'}"
        )
        return 0 if ok else 1
