"""Bounded heaps over arrays of the caller: the k nearest so far, ties broken by the smaller id.

A heap is two parallel arrays (distance float64, id of any integer type) and a size that the caller keeps. The
root of a *nearest* heap is its worst entry, so a candidate is compared with one number.
"""

from __future__ import annotations

from annserve.kernels.jit import inline_kernel


@inline_kernel
def is_after(distance_a, id_a, distance_b, id_b):  # type: ignore[no-untyped-def]
    """Whether a comes after b: farther, or as far with the larger id."""
    return distance_a > distance_b or (distance_a == distance_b and id_a > id_b)


@inline_kernel
def sift_down(distances, ids, start, size, distance, id_):  # type: ignore[no-untyped-def]
    """Put an entry at `start` of a worst-first heap of `size` entries and restore its order."""
    position = start
    while True:
        child = 2 * position + 1
        if child >= size:
            break
        right = child + 1
        if right < size and is_after(distances[right], ids[right], distances[child], ids[child]):
            child = right
        if not is_after(distances[child], ids[child], distance, id_):
            break
        distances[position] = distances[child]
        ids[position] = ids[child]
        position = child
    distances[position] = distance
    ids[position] = id_


@inline_kernel
def push_nearest(distances, ids, size, capacity, distance, id_):  # type: ignore[no-untyped-def]
    """Offer an entry to the heap of the `capacity` nearest; give its new size.

    Parameters
    ----------
    distances : (>= capacity,) float64  # IN, OUT
    ids : (>= capacity,) integer  # IN, OUT
    size : int
        Entries in the heap.
    """
    if size == capacity and not is_after(distances[0], ids[0], distance, id_):
        return size
    if size < capacity:
        position = size
        while position > 0:
            parent = (position - 1) // 2
            if not is_after(distance, id_, distances[parent], ids[parent]):
                break
            distances[position] = distances[parent]
            ids[position] = ids[parent]
            position = parent
        distances[position] = distance
        ids[position] = id_
        return size + 1
    sift_down(distances, ids, 0, size, distance, id_)
    return size


@inline_kernel
def push_distinct(distances, ids, size, capacity, distance, id_):  # type: ignore[no-untyped-def]
    """Do as `push_nearest`, but take an id only once: replicas of a row lie at the same distance."""
    if size == capacity and not is_after(distances[0], ids[0], distance, id_):
        return size
    for i in range(size):
        if ids[i] == id_:
            return size
    return push_nearest(distances, ids, size, capacity, distance, id_)


@inline_kernel
def sort_nearest(distances, ids, size):  # type: ignore[no-untyped-def]
    """Turn a worst-first heap into an ascending list, in place."""
    for last in range(size - 1, 0, -1):
        distance, id_ = distances[last], ids[last]
        distances[last] = distances[0]
        ids[last] = ids[0]
        sift_down(distances, ids, 0, last, distance, id_)


@inline_kernel
def select_smallest(keys, size, wanted):  # type: ignore[no-untyped-def]
    """Bring the `wanted` smallest of `size` keys to the front, in no order (quickselect, in place)."""
    low = 0
    high = size - 1
    while low < high:
        middle = (low + high) // 2
        pivot = max(min(keys[low], keys[middle]), min(max(keys[low], keys[middle]), keys[high]))
        i = low
        j = high
        while i <= j:
            while keys[i] < pivot:
                i += 1
            while keys[j] > pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                i += 1
                j -= 1
        if wanted - 1 <= j:
            high = j
        elif wanted - 1 >= i:
            low = i
        else:
            break
