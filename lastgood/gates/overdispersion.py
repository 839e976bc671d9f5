"""How much bad requests clump together, so that ten failures of one client do not count as ten pieces of evidence.

A client that retries stays on its side of the split, so its failures all fall on one arm, in a burst. Evidence that treats
them as independent then blames a healthy candidate sooner or later (bench/gates.py shows how soon).
"""

from __future__ import annotations

import math

WINDOW_S = 60.0
"""Bursts up to about this long are detected; a client that fails for an hour looks like a fault, to this and to every other rule."""

SURE = 4.0
"""How far above chance the clumping must be to count; nearly three standard errors. A false detection only costs a little time."""


class Dispersion:
    """The clumping of one arm's bad requests: variance over mean of the counts of neighbouring minutes, in constant memory.

    Neighbours are compared with each other, not all minutes with their mean, so that a slow change of the rate is not taken for bursts.
    Given K bad ones in two windows, of which the first has the share f of the requests, the first has f*K on average and, if they are
    independent, the variance f*(1-f)*K; the quotient is the `factor` (quasi-likelihood: McCullagh and Nelder 1989, 4.5).
    """

    def __init__(self, *, since: float) -> None:
        self._since, self._number = since, 0
        self._open = self._last = (0, 0)
        self._seen = self._expected = self._chance = 0.0

    def take(self, at: float, n: int, bad: int) -> None:
        """Add the arm's part of one observation at Unix time *at*; the factor changes only when a window is full."""
        number = math.ceil((at - self._since) / WINDOW_S) - 1
        if number > self._number:
            self._close()
            self._number = number
        self._open = self._open[0] + n, self._open[1] + bad

    def _close(self) -> None:
        (n, bad), (n_last, bad_last) = self._open, self._last
        both = bad + bad_last
        if n and n_last and both:
            f = n / (n + n_last)
            self._seen += (bad - both * f) ** 2 / (f * (1 - f))
            self._expected += both
            self._chance += both * (both - 1)
        if n:
            self._last = self._open
        self._open = 0, 0

    @property
    def factor(self) -> float:
        """The divisor for the log of a bet: 1, or how many bad requests come together as one, if that is beyond chance.

        A bet to a power below 1 grows by less on average (Jensen), so dividing preserves every guarantee; if all bursts have
        the same size it restores the guarantee of independent requests exactly, with one burst counting as one bad request.
        """
        if self._seen <= self._expected + SURE * math.sqrt(self._chance + 1):
            return 1.0
        return self._seen / self._expected
