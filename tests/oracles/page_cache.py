"""A page cache as plain as can be: lists of page numbers, counts in a dict, and no contents."""

from __future__ import annotations

from collections import Counter

CANDIDATES, COUNT_MAX, FADE_AFTER, RECENT, STEP = 8, 255, 16, 3, 2


class PlainCache:
    """Holds the numbers of up to `n_slots` pages."""

    def __init__(self, n_slots: int, n_pages: int) -> None:
        self.n_slots, self.n_pages = n_slots, n_pages
        self.least, self.most = max(n_slots // 10, 1), max(int(0.9 * n_slots), 1)
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
        if self.asked_in_turn >= self.n_slots:
            self.asked_in_turn = 0
            self.turn += 1
        self.asked += len(page_ids)
        if self.asked >= FADE_AFTER * self.n_pages:
            self.asked = 0
            self.counts = Counter({page: count // 2 for page, count in self.counts.items()})
        return [page in self for page in page_ids]

    def __contains__(self, page: int) -> bool:
        return page in self.window or page in self.main

    def keep(self, page_ids: list[int]) -> None:
        for page in page_ids:
            if page not in self:
                self.make_room()
                self.window.append(page)

    def make_room(self) -> None:
        if len(self.window) + len(self.main) < self.n_slots:
            if len(self.window) >= self.wanted:
                self.main.append(self.window.pop(0))
        elif len(self.window) < self.wanted and len(self.main) > 1:
            place = self.least_promising()
            self.main[place] = self.main[-1]
            self.main.pop()
        else:
            while len(self.window) > self.wanted + 1:
                self.main.append(self.window.pop(0))
            leaving = self.window.pop(0)
            if self.main and self.promise(self.main[place := self.least_promising()]) < self.promise(leaving):
                self.main[place] = leaving

    def least_promising(self) -> int:
        places = [(self.hand + step) % len(self.main) for step in range(min(CANDIDATES, len(self.main)))]
        self.hand = (self.hand + CANDIDATES) % len(self.main)
        return min(places, key=lambda place: self.promise(self.main[place]))

    def promise(self, page: int) -> int:
        return self.counts[page] + (RECENT if self.turn - self.turns[page] <= 1 else 0)
