"""At which expected recall to stop reading, so that a recall target is delivered: fitted to queries with known answers.

For each query the hits that its pages promise and those that they hold are known, best page first. Expected recall is
linear in a query's evenness between two of its quantiles (``search.read_plan``); its two values are those at which
recall neither misses the target on average nor has anything to do with evenness, so that a collection whose queries
are all even, or all uneven, gets the target too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from annserve.codes.rate import Rating
from annserve.search.read_plan import evenness_of
from annserve.search.selection import ranked

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

#: Quantiles of evenness between which expected recall is linear.
_ENDS = (0.05, 0.95)
_ROUNDS, _HALVINGS = 40, 14
_STEP = 0.7
#: What lies beyond is spread over so many pages that a search for it never ends.
_EXPECTED_MAX = 0.998
#: Worth, as a share of k, below which no page is worth a read.
_WORTH_MIN = 1e-4
#: So many of a query's best pages have an entry each; from there to twice as many every second, and so on.
_ALL_ENTERED = 128
#: Promised recall of each query lies in a band of its own, so that one search finds the places of all.
_BAND = 4.0


@dataclass(frozen=True)
class Curves:
    """What the best pages of each query promise and hold, all queries end to end, as far as a plan may read.

    Far down a query's pages only every so many-th has an entry: some hundreds stand for thousands.

    Attributes
    ----------
    starts : (m + 1,) int64
        Query i has entries ``starts[i] … starts[i + 1] − 1``, at least one.
    promised, found : (starts[-1],) float64, float32
        Sums over its best pages so far, as shares of k.
    worths : (starts[-1],) float32
        What the last of these pages promises, as a share of k.
    evenness : (m,) float64
    k : int
    """

    starts: I64
    promised: F64
    found: npt.NDArray[np.float32]
    worths: npt.NDArray[np.float32]
    evenness: F64
    k: int

    @classmethod
    def of(cls, rating: Sequence[Rating], hits: Sequence[I64], k: int) -> Curves:
        """Order the pages of each query by worth and add them up.

        Parameters
        ----------
        rating : list of Rating
            Block by block.
        hits : list of (nq, w) int64
            Neighbours on each page.
        """
        promised, found, worths, sizes = [], [], [], []
        for block, counted in zip(rating, hits):
            order, sums = ranked(block)
            hit_sums = np.cumsum(np.take_along_axis(counted, order, axis=1), axis=1)
            # Behind the largest expected recall no page counts, nor one worth less than any limit on worth.
            before = np.pad(sums[:, :-1], ((0, 0), (1, 0)))
            told = (before < _EXPECTED_MAX * k) | (sums - before > 0.9 * _WORTH_MIN * k)
            told &= np.arange(order.shape[1]) < block.sizes[:, None]
            told &= _entered(order.shape[1])
            worths.append((sums - before)[told] / k)
            promised.append(sums[told] / k)
            found.append(hit_sums[told] / k)
            sizes.append(told.sum(axis=1))
        starts = np.concatenate(([0], np.cumsum(np.concatenate(sizes))))
        evenness = np.concatenate([evenness_of(block) for block in rating])
        return cls(
            starts,
            np.concatenate(promised).astype(np.float64),
            np.concatenate(found).astype(np.float32),
            np.concatenate(worths).astype(np.float32),
            evenness,
            k,
        )

    @classmethod
    def joined(cls, parts: Sequence[Curves]) -> Curves:
        """Give the curves of several blocks of queries as one."""
        sizes = np.concatenate([np.diff(part.starts) for part in parts])
        promised, found, worths, evenness = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("promised", "found", "worths", "evenness")
        )
        return cls(np.concatenate(([0], np.cumsum(sizes))), promised, found, worths, evenness, parts[0].k)

    def __len__(self) -> int:
        """Count the queries."""
        return len(self.evenness)

    def recall(self, ends: F64, values: F64) -> F64:
        """Give each query's recall if it reads until its pages promise the expected recall, (m,).

        Parameters
        ----------
        ends, values : (c,) float64
            Evenness and expected recall there, linear between.
        """
        return self._found_at(self._places(_shares(self.evenness, ends) @ values))

    def fit(self, ends: F64, target: float, margin_queries: float = np.inf) -> F64:
        """Find the least expected recall that delivers a target, whatever a query's evenness.

        Parameters
        ----------
        ends : (c,) float64
            Evenness at which expected recall is wanted, ascending; linear between, constant beyond.
        target : float
        margin_queries : float
            Aim higher by one standard error of the recall of so many queries: queries in the wild differ from those
            at hand as groups of these do among each other.

        Returns
        -------
        (c,) float64
        """
        shares = _shares(self.evenness, ends)

        def recall_at(values: F64) -> F64:
            return self._found_at(self._places(shares @ values))

        values = _solve(recall_at, shares, target)
        margin = float(recall_at(values).std()) / np.sqrt(max(margin_queries, 1.0))
        if margin:
            values = _solve(recall_at, shares, min(target + margin, (1 + target) / 2))
        return values

    def fit_worth(self, ends: F64, values: F64, target: float) -> float:
        """Find the largest worth such that reading all pages worth more delivers a target.

        Parameters
        ----------
        ends, values : (c,) float64
            Expected recall, below which no query stops.
        target : float

        Returns
        -------
        float
            In hits; at most k.
        """
        least = self._places(_shares(self.evenness, ends) @ values)
        worths = np.repeat(self._bands, np.diff(self.starts)) - self.worths
        low, high = np.log(_WORTH_MIN), 0.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            # The last page worth more than this.
            places = np.searchsorted(worths, self._bands - np.exp(middle)) - 1
            if self._found_at(np.maximum(least, places)).mean() >= target:
                low = middle
            else:
                high = middle
        return float(np.exp(low)) * self.k

    @cached_property
    def _bands(self) -> F64:
        return _BAND * np.arange(len(self), dtype=np.float64)

    @cached_property
    def _banded(self) -> F64:
        return np.asarray(self.promised + np.repeat(self._bands, np.diff(self.starts)))

    def _places(self, expected: F64) -> I64:
        """Give the last page that each query reads, as its place among all."""
        places = np.searchsorted(self._banded, self._bands + expected)
        return np.asarray(np.minimum(places, self.starts[1:] - 1))

    def _found_at(self, places: I64) -> F64:
        return self.found[places].astype(np.float64)


def ends_of(rating: Sequence[Rating]) -> F64:
    """Give the evenness between which expected recall is linear: two quantiles, or one where all queries are alike."""
    evenness = np.concatenate([evenness_of(block) for block in rating])
    return np.unique(np.round(np.quantile(evenness, _ENDS), 3))


def _entered(n_pages: int) -> npt.NDArray[np.bool_]:
    """Say which of a query's pages, best first, have an entry: the first all, then ever fewer of them."""
    rank = np.arange(n_pages)
    every = 1 << np.maximum(np.log2(np.maximum(rank, 1) / _ALL_ENTERED).astype(np.int64) + 1, 0)
    return np.asarray((rank < _ALL_ENTERED) | (rank % every == 0))


def _shares(evenness: F64, ends: F64) -> F64:
    """Give how much each end counts for each query, (m, c); rows add up to 1."""
    return np.column_stack([np.interp(evenness, ends, one) for one in np.eye(len(ends))])


def _solve(recall_at: Callable[[F64], F64], shares: F64, target: float) -> F64:
    """Find the values at which recall meets the target, on average and at each end alike.

    Recall rises about as fast as expected recall, so that what is missing at an end is a good step. It rises in jumps
    where pages are few: a bisection on both ends together makes sure of the average.
    """
    values = np.full(shares.shape[1], target)
    moment = shares.T @ shares + 1e-6 * len(shares) * np.eye(shares.shape[1])
    for _ in range(_ROUNDS):
        step = np.linalg.solve(moment, shares.T @ (target - recall_at(values)))
        values = np.clip(values + _STEP * step, 0, _EXPECTED_MAX)
    low, high = -1.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if recall_at(np.clip(values + middle, 0, _EXPECTED_MAX)).mean() >= target:
            high = middle
        else:
            low = middle
    return np.clip(values + high, 0, _EXPECTED_MAX)
