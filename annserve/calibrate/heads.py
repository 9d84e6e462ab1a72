"""From held-out rows to the heads that needn't be looked at, for queries whose pages are judged by codes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from annserve.calibrate.log_hits import fit_log_hits
from annserve.heads.navigate import WalkScratch, exact_distances, nearest_heads
from annserve.index.segment import Segment
from annserve.search.choose_kernels import NEAREST
from annserve.search.head_skip import features

F64 = npt.NDArray[np.float64]

#: Share of a target's misses that may come of heads that were passed over.
_PASSED_SHARE = 0.02
#: Pairs of query and head that the regression is fitted on: 32 MiB of features.
_PAIRS_MAX = 1_000_000
#: Of them looked at at a time.
_BLOCK_PAIRS = 65_536


def calibrate_heads(
    segment: Segment, queries: npt.NDArray[np.float32], ranks: F64, heads: F64, ks: list[int], targets: F64
) -> tuple[F64, F64]:
    """Fit which heads hold a query's neighbours, and say how little a head may promise at each target.

    Parameters
    ----------
    segment : Segment
    queries : (m, d) float32
        Held out, in the index space.
    ranks : (m, c) float64
        Rank of the head that holds each neighbour, nearest first, from 1; infinite where navigation doesn't come to it.
    heads : (a, b) float64
        Heads that are visited, by k and target.
    ks : list of int
    targets : (b,) float64

    Returns
    -------
    head_terms : (a, 8) float64
    head_below : (a, b) float64
        See ``search.read_plan``.
    """
    most = int(heads.max())
    some = slice(None, None, max(1, -(-len(queries) * most // _PAIRS_MAX)))
    queries, ranks = queries[some], ranks[some]
    head_ids, _, _ = nearest_heads(segment.heads, queries, most, WalkScratch(segment.heads.n_heads))
    known = features(head_ids, exact_distances(segment.heads, queries, head_ids), segment.radii)
    terms, below = np.empty((len(ks), known.shape[-1])), np.empty(heads.shape)
    for a, k in enumerate(ks):
        hits = _hits_by_rank(ranks[:, :k], most)
        visited = slice(NEAREST, int(heads[a].max()))
        fitted = head_ids[:, visited] >= 0
        n_blocks = -(-int(fitted.sum()) // _BLOCK_PAIRS)
        designs = np.array_split(known[:, visited][fitted], max(n_blocks, 1))
        terms[a] = fit_log_hits(designs, np.array_split(hits[:, visited][fitted], max(n_blocks, 1)))
        promised = np.sort(np.concatenate([design.astype(np.float64) @ terms[a] for design in designs]))
        lost = np.cumsum(np.exp(np.minimum(promised, 0.0)))
        for b, target in enumerate(targets):
            allowed = _PASSED_SHARE * (1 - target) * k * len(queries)
            passed = int(np.searchsorted(lost, allowed))
            # Rounded, so that the last digits of sums, which threads may change, don't show in the plan.
            below[a, b] = np.round(promised[passed], 3) if passed < len(promised) else 0.0
    return terms, below


def _hits_by_rank(ranks: F64, most: int) -> F64:
    """Count each query's neighbours in the postings of its nearest heads, (m, most)."""
    hits = np.zeros((len(ranks), most))
    query, place = np.nonzero(ranks <= most)
    np.add.at(hits, (query, ranks[query, place].astype(np.int64) - 1), 1.0)
    return hits
