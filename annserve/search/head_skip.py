"""Which of a query's nearest heads aren't worth a look at their pages' codes.

The heads that hold a query's neighbours are few for one query and many for another; a number for all must suit the
many. A head is passed over if it promises too few hits by its distance against that of the nearest heads, its
posting's radius, and its rank: a Poisson regression, as for pages (``codes.rate.Skip``). On sift-photos it halves the
page codes that a query looks at, and what it halves grows fastest with the rows. Distance alone does worse than a
fixed number; the threshold of the first rows' estimates, known only later, would do but 3 % better.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from annserve.search.choose_kernels import NEAREST, SMALLEST, keep_heads_of_each

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class HeadSkip:
    """The rule for one k and recall target.

    Attributes
    ----------
    terms : (8,) float32
        Regression of the log of a posting's expected hits on `features`.
    below : float
        Heads that promise less, as a logarithm, are passed over.
    """

    terms: F32
    below: float

    def keep(self, head_ids: npt.NDArray[np.int32], distances: F32, radii: F32) -> tuple[npt.NDArray[np.int32], F32]:
        """Leave out the heads that promise too little.

        Parameters
        ----------
        head_ids : (nq, h) int32
            Nearest first; −1 where there is none, which comes last.
        distances : (nq, h) float32
            Squared distances to them.
        radii : (heads,) float32

        Returns
        -------
        head_ids, distances : (nq, w) arrays
            As given, without those; w is the most that any query keeps.
        """
        if head_ids.shape[1] <= NEAREST:
            return head_ids, distances
        left_ids, left_distances = head_ids.copy(), distances.copy()
        sizes = np.empty(len(head_ids), np.int64)
        log_ranks = np.log1p(np.arange(head_ids.shape[1], dtype=np.float32))
        keep_heads_of_each(
            left_ids, left_distances, log_squares(radii), log_ranks, self.terms, np.float32(self.below), sizes
        )
        width = sizes.max(initial=1)
        return np.ascontiguousarray(left_ids[:, :width]), np.ascontiguousarray(left_distances[:, :width])


def log_squares(radii: F32) -> F32:
    """Give the logarithms of squared radii, which may be zero, (heads,) float32."""
    return np.asarray(np.log(np.maximum(radii * radii, SMALLEST)))


def features(head_ids: npt.NDArray[np.int32], distances: F32, radii: F32) -> F32:
    """Give what a head's promise is a function of, (nq, h, 8) float32; see `HeadSkip.keep` for the rest."""
    found = head_ids[:, :NEAREST] >= 0
    near = np.mean(distances[:, :NEAREST], axis=1, where=found, keepdims=True, dtype=np.float32)
    log_near = np.log(np.maximum(near, SMALLEST))
    x = np.log(np.maximum(distances, SMALLEST)) - log_near
    y = log_squares(radii)[head_ids] - log_near
    r = np.broadcast_to(np.log1p(np.arange(head_ids.shape[1], dtype=np.float32)), x.shape)
    return np.stack((np.ones_like(x), x, x * x, y, y * y, x * y, r, r * x), axis=-1)
