"""Bisecting rows into pages, and trading rows between neighbouring pages.

All kernels are serial, release the GIL and see one region: its rows as float32, gathered by the caller in the
order of their pages so that memory is read nearly in sequence. `order`, `page_of` and `members` hold numbers
of rows within the region. Random choices come from a counter-based generator, so a seed fixes every result.
"""

from __future__ import annotations

import numpy as np

from annserve.kernels.jit import inline_kernel, kernel

#: A cut leaves each side at least this share of the pages, so the depth of the recursion stays logarithmic.
_SHARE_MIN = 0.2


@inline_kernel
def _squared_l2(a, b, dim):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for j in range(dim):
        diff = a[j] - b[j]
        total += diff * diff
    return total


@inline_kernel
def _random(state):  # type: ignore[no-untyped-def]
    """Advance a splitmix64 state held in a one-element uint64 array; give 63 random bits."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64((z ^ (z >> np.uint64(31))) >> np.uint64(1))


@inline_kernel
def _poles(rows, order, start, stop, rounds, sample, pole_a, pole_b, sum_a, sum_b, state):  # type: ignore[no-untyped-def]
    """Put two centroids of ``order[start:stop]`` into `pole_a` and `pole_b`: 2-means on a sample of it."""
    dim = rows.shape[1]
    size = stop - start
    first = order[start + _random(state) % size]
    second = first
    farthest = np.float32(-1)
    for _ in range(8):
        other = order[start + _random(state) % size]
        distance = _squared_l2(rows[first], rows[other], dim)
        if distance > farthest:
            farthest = distance
            second = other
    for j in range(dim):
        pole_a[j] = rows[first, j]
        pole_b[j] = rows[second, j]
    drawn = min(size, sample)
    for _ in range(rounds):
        n_a = 0
        n_b = 0
        for j in range(dim):
            sum_a[j] = 0
            sum_b[j] = 0
        for i in range(drawn):
            row = order[start + (i if drawn == size else _random(state) % size)]
            if _squared_l2(rows[row], pole_a, dim) <= _squared_l2(rows[row], pole_b, dim):
                n_a += 1
                for j in range(dim):
                    sum_a[j] += rows[row, j]
            else:
                n_b += 1
                for j in range(dim):
                    sum_b[j] += rows[row, j]
        if n_a == 0 or n_b == 0:
            break
        for j in range(dim):
            pole_a[j] = sum_a[j] / np.float32(n_a)
            pole_b[j] = sum_b[j] / np.float32(n_b)


@inline_kernel
def _select(keys, order, start, stop, nth):  # type: ignore[no-untyped-def]
    """Permute keys and order alike until no key before `nth` is larger than one from there on."""
    low = start
    high = stop - 1
    while low < high:
        pivot = keys[(low + high) // 2]
        i = low
        j = high
        while i <= j:
            while keys[i] < pivot:
                i += 1
            while pivot < keys[j]:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if nth <= j:
            high = j
        elif nth >= i:
            low = i
        else:
            return


@kernel
def bisect(rows, capacity, n_pages, rounds, sample, state, order, keys, stack, poles, page_offsets):  # type: ignore[no-untyped-def]
    """Cut rows in two, again and again, until each part is one page.

    Each part lies on its own side of the plane between two centroids; the cut follows the natural sizes of
    the two clusters as far as whole pages allow.

    Parameters
    ----------
    rows : (n, d) float32  # IN
    capacity : int
        Most rows of a page.
    n_pages : int
        Pages to make; ``n_pages <= n <= n_pages * capacity``.
    rounds, sample : int
        Rounds of 2-means and rows it looks at; 0 rounds cut between two random rows.
    state : (1,) uint64  # SCRATCH: state of the generator, starts as the seed
    order : (n,) int64  # IN, OUT: a permutation of 0 … n−1, made to run page by page
    keys : (n,) float32  # SCRATCH
    stack : (128, 4) int64  # SCRATCH: start, stop, pages, first page of the parts still to be cut
    poles : (4, d) float32  # SCRATCH
    page_offsets : (n_pages + 1,) int64  # OUT
    """
    dim = rows.shape[1]
    stack[0, 0] = 0
    stack[0, 1] = rows.shape[0]
    stack[0, 2] = n_pages
    stack[0, 3] = 0
    depth = 1
    page_offsets[0] = 0
    while depth > 0:
        depth -= 1
        start = stack[depth, 0]
        stop = stack[depth, 1]
        pages = stack[depth, 2]
        first_page = stack[depth, 3]
        if pages == 1:
            page_offsets[first_page + 1] = stop
            continue
        size = stop - start
        pole_a = poles[0]
        pole_b = poles[1]
        _poles(rows, order, start, stop, rounds, sample, pole_a, pole_b, poles[2], poles[3], state)
        # Half of |x−a|² − |x−b|², below 0 where a is nearer; from differences, so that offsets don't cancel.
        natural = 0
        for i in range(start, stop):
            row = rows[order[i]]
            key = np.float32(0)
            for j in range(dim):
                key += (pole_b[j] - pole_a[j]) * (row[j] - np.float32(0.5) * (pole_a[j] + pole_b[j]))
            keys[i] = key
            if key < 0:
                natural += 1
        share = min(max(natural / size, _SHARE_MIN), 1 - _SHARE_MIN)
        left_pages = min(max(np.int64(np.floor(pages * share + 0.5)), 1), pages - 1)
        right_pages = pages - left_pages
        least = max(left_pages, size - right_pages * capacity)
        most = min(left_pages * capacity, size - right_pages)
        cut = start + min(max(natural, least), most)
        _select(keys, order, start, stop, cut)
        # The right part waits; the left is cut next, so the stack holds one part per level.
        stack[depth, 0] = cut
        stack[depth, 1] = stop
        stack[depth, 2] = right_pages
        stack[depth, 3] = first_page + left_pages
        stack[depth + 1, 0] = start
        stack[depth + 1, 1] = cut
        stack[depth + 1, 2] = left_pages
        stack[depth + 1, 3] = first_page
        depth += 2


@kernel
def centroids_of_pages(rows, members, counts, centroids):  # type: ignore[no-untyped-def]
    """Mean of each page's rows.

    Parameters
    ----------
    rows : (n, d) float32  # IN
    members : (p, capacity) int32  # IN: rows of each page in its first slots
    counts : (p,) int32  # IN, none is 0
    centroids : (p, d) float32  # OUT
    """
    dim = rows.shape[1]
    for page in range(counts.shape[0]):
        mean = centroids[page]
        for j in range(dim):
            mean[j] = 0
        for slot in range(counts[page]):
            row = rows[members[page, slot]]
            for j in range(dim):
                mean[j] += row[j]
        scale = np.float32(1) / np.float32(counts[page])
        for j in range(dim):
            mean[j] *= scale


@kernel
def nearest_priced(rows, centroids, prices, nearest):  # type: ignore[no-untyped-def]
    """Find for each row the centroid with the smallest sum of squared distance and price; ties to the first.

    Parameters
    ----------
    rows : (n, d) float32  # IN
    centroids : (m, d) float32  # IN
    prices : (m,) float32  # IN
    nearest : (n,) int32  # OUT
    """
    n, dim = rows.shape
    for i in range(n):
        best = np.float32(np.inf)
        nearest[i] = 0
        for centroid in range(centroids.shape[0]):
            cost = _squared_l2(rows[i], centroids[centroid], dim) + prices[centroid]
            if cost < best:
                best = cost
                nearest[i] = centroid


@kernel
def neighbours_of_pages(centroids, keys, ids, neighbours):  # type: ignore[no-untyped-def]
    """Nearest other pages of each page, by centroid; in no particular order.

    Parameters
    ----------
    centroids : (p, d) float32  # IN
    keys : (p,) float32  # SCRATCH
    ids : (p,) int64  # SCRATCH
    neighbours : (p, k) int32, k < p  # OUT
    """
    n_pages, dim = centroids.shape
    k = neighbours.shape[1]
    for page in range(n_pages):
        own = centroids[page]
        found = 0
        for other in range(n_pages):
            if other != page:
                keys[found] = _squared_l2(own, centroids[other], dim)
                ids[found] = other
                found += 1
        _select(keys, ids, 0, found, k)
        for i in range(k):
            neighbours[page, i] = ids[i]


@kernel
def trade(  # type: ignore[no-untyped-def]
    rows, capacity, tries, page_of, slot_of, members, counts, centroids, neighbours, best_pages, best_keys
):
    """Go once over all rows, moving or swapping each where the sum of squared distances to centroids falls
    most.

    A row of page A tries the `tries` neighbours B of A whose centroids are nearest to it: a move into a free
    slot, or a swap with any row of B. Gains are exact, with the shift of both centroids, which are updated at
    once.

    Parameters
    ----------
    rows : (n, d) float32  # IN
    capacity, tries : int
    page_of : (n,) int32  # IN, OUT
    slot_of : (n,) int32  # IN, OUT
    members : (p, capacity) int32  # IN, OUT: rows of each page in its first slots, −1 in free ones
    counts : (p,) int32  # IN, OUT
    centroids : (p, d) float32  # IN, OUT
    neighbours : (p, k) int32  # IN
    best_pages : (tries,) int32  # SCRATCH
    best_keys : (tries,) float32  # SCRATCH

    Returns
    -------
    traded : int
        Moves and swaps made.
    """
    n, dim = rows.shape
    k = neighbours.shape[1]
    traded = 0
    for x in range(n):
        a = page_of[x]
        row_x = rows[x]
        mean_a = centroids[a]
        own = _squared_l2(row_x, mean_a, dim)
        n_a = np.float32(counts[a])
        found = 0
        for i in range(k):
            b = neighbours[a, i]
            key = _squared_l2(row_x, centroids[b], dim)
            if found == tries and key >= best_keys[found - 1]:
                continue
            if found < tries:
                found += 1
            slot = found - 1
            while slot > 0 and best_keys[slot - 1] > key:
                best_keys[slot] = best_keys[slot - 1]
                best_pages[slot] = best_pages[slot - 1]
                slot -= 1
            best_keys[slot] = key
            best_pages[slot] = b
        # A gain must exceed rounding, or two rows could change places for ever.
        best_gain = np.float32(1e-4) * own
        best_b = -1
        best_y = -1
        for i in range(found):
            b = best_pages[i]
            mean_b = centroids[b]
            n_b = np.float32(counts[b])
            if counts[b] < capacity and counts[a] > 1:
                gain = n_a / (n_a - 1) * own - n_b / (n_b + 1) * best_keys[i]
                if gain > best_gain:
                    best_gain = gain
                    best_b = b
                    best_y = -1
            pull = np.float32(1) / n_a + np.float32(1) / n_b
            for slot in range(counts[b]):
                y = members[b, slot]
                row_y = rows[y]
                apart = np.float32(0)
                along = np.float32(0)
                for j in range(dim):
                    diff = row_y[j] - row_x[j]
                    apart += diff * diff
                    along += diff * (mean_a[j] - mean_b[j])
                gain = 2 * along + pull * apart
                if gain > best_gain:
                    best_gain = gain
                    best_b = b
                    best_y = y
        if best_b < 0:
            continue
        traded += 1
        mean_b = centroids[best_b]
        slot_x = slot_of[x]
        if best_y >= 0:
            slot_y = slot_of[best_y]
            members[a, slot_x] = best_y
            members[best_b, slot_y] = x
            page_of[best_y] = a
            slot_of[best_y] = slot_x
            page_of[x] = best_b
            slot_of[x] = slot_y
            row_y = rows[best_y]
            n_b = np.float32(counts[best_b])
            for j in range(dim):
                diff = row_y[j] - row_x[j]
                mean_a[j] += diff / n_a
                mean_b[j] -= diff / n_b
        else:
            last = members[a, counts[a] - 1]
            members[a, slot_x] = last
            slot_of[last] = slot_x
            counts[a] -= 1
            members[a, counts[a]] = -1
            members[best_b, counts[best_b]] = x
            page_of[x] = best_b
            slot_of[x] = counts[best_b]
            counts[best_b] += 1
            n_b = np.float32(counts[best_b])
            for j in range(dim):
                mean_a[j] += (mean_a[j] - row_x[j]) / (n_a - 1)
                mean_b[j] += (row_x[j] - mean_b[j]) / n_b
    return traded
