"""A page cache as plain as can be: lists of page numbers, counts in a dict, and no contents."""

from __future__ import annotations

from collections import Counter

CANDIDATES, COUNT_MAX, FADE_AFTER, RECENT = 8, 255, 16, 3


class PlainCache:
    """Holds the numbers of up to `n_window` + `n_main` pages."""

    def __init__(self, n_window: int, n_main: int, n_pages: int) -> None:
        self.n_window, self.n_main, self.n_pages = n_window, n_main, n_pages
        self.window: list[int] = []  # oldest first
        self.main: list[int] = []
        self.counts: Counter[int] = Counter()
        self.turns: dict[int, int] = {}
        self.hand = self.asked = self.turn = self.asked_in_turn = 0

    def fetch(self, page_ids: list[int]) -> list[bool]:
        for page in page_ids:
            self.counts[page] = min(self.counts[page] + 1, COUNT_MAX)
            self.turns[page] = self.turn
        self.asked_in_turn += len(page_ids)
        if self.asked_in_turn >= self.n_window + self.n_main:
            self.asked_in_turn = 0
            self.turn += 1
        self.asked += len(page_ids)
        if self.asked >= FADE_AFTER * self.n_pages:
            self.asked = 0
            self.counts = Counter({page: count // 2 for page, count in self.counts.items()})
        return [page in self.window or page in self.main for page in page_ids]

    def keep(self, page_ids: list[int]) -> None:
        for page in page_ids:
            if page in self.window or page in self.main:
                continue
            self.window.append(page)
            if len(self.window) <= self.n_window:
                continue
            leaving = self.window.pop(0)
            if len(self.main) < self.n_main:
                self.main.append(leaving)
                continue
            places = [(self.hand + step) % self.n_main for step in range(min(CANDIDATES, self.n_main))]
            self.hand = (self.hand + CANDIDATES) % self.n_main
            rarest = min(places, key=lambda place: self.promise(self.main[place]))
            if self.promise(self.main[rarest]) < self.promise(leaving):
                self.main[rarest] = leaving

    def promise(self, page: int) -> int:
        return self.counts[page] + (RECENT if self.turn - self.turns[page] <= 1 else 0)
