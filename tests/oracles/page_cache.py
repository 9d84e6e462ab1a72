"""A page cache as plain as can be: lists of page numbers, counts and units in dicts, and no contents."""

from __future__ import annotations

from collections import Counter

CANDIDATES, COUNT_MAX, FADE_AFTER, RECENT, STEP, MARGIN, UNITS = 8, 255, 16, 3, 2, 3, 16


class PlainCache:
    """Holds the numbers of up to `whole` pages, or of more, up to twice as many, where some are packed."""

    def __init__(self, whole: int, n_pages: int) -> None:
        self.whole, self.n_pages = whole, n_pages
        self.least, self.most = max(whole // 10, 1), max(int(0.9 * whole), 1)
        self.units: dict[int, int] = {}
        self.wanted = self.least
        self.window: list[int] = []  # oldest first
        self.main: list[int] = []
        self.counts: Counter[int] = Counter()
        self.turns: dict[int, int] = {}
        self.hand = self.asked = self.turn = self.asked_in_turn = 0

    def fetch(self, page_ids: list[int]) -> list[bool]:
        for page in page_ids:
            self.counts[page] = min(self.counts[page] + 1, COUNT_MAX)
            now = self.turns.get(page) == self.turn
            self.turns[page] = self.turn
            if page in self.main and not now:
                self.wanted = max(self.wanted - STEP, self.least)
            elif page not in self and now:
                self.wanted = min(self.wanted + STEP, self.most)
        self.asked_in_turn += len(page_ids)
        if self.asked_in_turn >= self.whole:
            self.asked_in_turn = 0
            self.turn += 1
        self.asked += len(page_ids)
        if self.asked >= FADE_AFTER * self.n_pages:
            self.asked = 0
            self.counts = Counter({page: count // 2 for page, count in self.counts.items()})
        return [page in self for page in page_ids]

    def __contains__(self, page: int) -> bool:
        return page in self.window or page in self.main

    def keep(self, page_ids: list[int]) -> list[int]:
        settled: list[int] = []
        for page in page_ids:
            if page not in self:
                self.make_room(settled)
                self.window.append(page)
                self.units[page] = UNITS
        return settled[: 2 * len(page_ids)]

    def shrink(self, page: int, n_units: int) -> None:
        if page in self.main:
            self.units[page] = min(self.units[page], n_units)

    def has_room(self) -> bool:
        return sum(self.units.values()) + UNITS <= self.whole * UNITS and len(self.units) < 2 * self.whole

    def make_room(self, settled: list[int]) -> None:
        def settle() -> None:
            settled.append(self.window[0])
            self.main.append(self.window.pop(0))

        if self.has_room() and len(self.window) >= self.wanted:
            settle()
        while not self.has_room():
            if len(self.window) < self.wanted and len(self.main) > 1:
                gone = self.take_from_main(self.least_promising())
            else:
                while len(self.window) > self.wanted + 1:
                    settle()
                gone = self.window[0]
                if self.main:
                    place = self.least_promising()
                    if self.promise(self.main[place]) + MARGIN < self.promise(gone):
                        gone = self.take_from_main(place)
                        settle()
                if gone in self.window:
                    self.window.remove(gone)
            del self.units[gone]

    def take_from_main(self, place: int) -> int:
        gone, last = self.main[place], self.main.pop()
        if gone != last:
            self.main[place] = last
        return gone

    def least_promising(self) -> int:
        places = [(self.hand + step) % len(self.main) for step in range(min(CANDIDATES, len(self.main)))]
        self.hand = (self.hand + CANDIDATES) % len(self.main)
        return min(places, key=lambda place: self.promise(self.main[place]))

    def promise(self, page: int) -> int:
        return self.counts[page] + (RECENT if self.turn - self.turns[page] <= 1 else 0)
