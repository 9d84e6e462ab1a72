"""Disk and processor at work at once: while one journey waits for its pages, the next is under way.

A journey is a generator that yields where it would wait for the disk, and returns its result. What journeys of one
thread share (scratch, above all) they must not hold across a yield.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

from annserve.errors import ReadError

T = TypeVar("T")
Journey = Generator[None, None, T]


#: Called where a journey would wait: it may take its time, or raise to end the journey.
Pause = Callable[[], None]


def no_pause() -> None:
    """Go on at once."""


def carried(journey: Journey[T], between: Pause = no_pause) -> T:
    """Carry one journey to its end, waiting wherever it would let others go on.

    Raises
    ------
    Exception
        Whatever the journey or `between` raises; nothing is in flight any more.
    """
    try:
        while True:
            next(journey)
            between()
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        journey.close()


def overlapped(journeys: Iterable[tuple[int, Journey[T]]], width: int) -> Iterator[tuple[int, T]]:
    """Carry journeys to their ends, up to `width` of them under way at once.

    Parameters
    ----------
    journeys : iterable of (number, Journey)
        Taken one by one, each when there is room for it.
    width : int
        1 carries one after another.

    Yields
    ------
    (number, result)
        As journeys end; the longest under way is continued first.

    Raises
    ------
    Exception
        Whatever a journey raises; the others are closed first, so that nothing is in flight any more.
    """
    coming = iter(journeys)
    under_way: deque[tuple[int, Journey[T]]] = deque()
    try:
        while True:
            numbered = next(coming, None) if len(under_way) < width else None
            if numbered is None:
                if not under_way:
                    return
                numbered = under_way.popleft()
            number, journey = numbered
            try:
                next(journey)
            except StopIteration as end:
                yield number, end.value
            else:
                under_way.append(numbered)
    finally:
        _close(journey for _, journey in under_way)


def abreast(journeys: Sequence[Journey[T]]) -> Journey[list[T]]:
    """Carry journeys side by side, as one that waits where they wait, for all of them at once.

    Returns
    -------
    list
        Their results, in the order of the journeys.

    Raises
    ------
    Exception
        Whatever a journey raises; the others are closed first, so that nothing is in flight any more.
    """
    results: dict[int, T] = {}
    under_way = dict(enumerate(journeys))
    try:
        while under_way:
            for number, journey in list(under_way.items()):
                try:
                    next(journey)
                except StopIteration as end:
                    results[number] = end.value
                    del under_way[number]
            if under_way:
                yield
    finally:
        _close(under_way.values())
    return [results[number] for number in range(len(journeys))]


def _close(journeys: Iterable[Journey[T]]) -> None:
    """End journeys before their time."""
    for journey in journeys:
        # One error is told; that a second read failed too adds nothing.
        with suppress(ReadError):
            journey.close()
