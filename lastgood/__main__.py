"""`python -m lastgood`: the same as the `lastgood` command."""

from __future__ import annotations

from lastgood.cli import main

if __name__ == "__main__":
    main()
