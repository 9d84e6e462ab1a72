"""Which further heads a row is filed under: the rule of relative neighbourhood graphs, with slack."""

from __future__ import annotations

import numpy as np

from annserve.kernels.jit import inline_kernel, kernel


@inline_kernel
def _squared_l2(a, b, dim):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for j in range(dim):
        diff = a[j] - b[j]
        total += diff * diff
    return total


@kernel
def offer(  # type: ignore[no-untyped-def]
    rows,  # IN (n, d) float32
    homes,  # IN (n,) int32: head of each row's posting
    candidates,  # IN (n, w) int32: heads near each row, nearest first; −1 where there are no more
    heads,  # IN (h, d) float32
    slack,  # float32
    offered,  # OUT (n, most) int32, filled with −1
    margins,  # OUT (n, most) float32
):
    """Offer each row to heads around it; give the number of offers.

    A candidate is passed over if the home, or a head that the row was offered to before, lies nearer to it than the
    row does, by more than the slack: whoever comes from that side meets the row there.
    """
    dim = rows.shape[1]
    most = offered.shape[1]
    total = 0
    for i in range(rows.shape[0]):
        row = rows[i]
        home = heads[homes[i]]
        at_home = _squared_l2(row, home, dim)
        found = 0
        for w in range(candidates.shape[1]):
            candidate = candidates[i, w]
            if candidate < 0 or found == most:
                break
            if candidate == homes[i]:
                continue
            head = heads[candidate]
            distance = _squared_l2(row, head, dim)
            diverse = slack * _squared_l2(head, home, dim) >= distance
            for j in range(found):
                if not diverse:
                    break
                diverse = slack * _squared_l2(head, heads[offered[i, j]], dim) >= distance
            if diverse:
                offered[i, found] = candidate
                margins[i, found] = distance - at_home
                found += 1
        total += found
    return total
