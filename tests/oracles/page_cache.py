"""A page cache as plain as can be: lists of page numbers, counts and units in dicts, and no contents."""

from __future__ import annotations

from collections import Counter, defaultdict
from math import isqrt

import numpy as np

CANDIDATES, COUNT_MAX, FADE_AFTER, UNITS, SETTLED_AFTER = 32, 255, 16, 16, 4
WEIGHTS, LIFTS, LRU = (2, 6, 20, 64), (77, 512, 256, 256), 4
FADING = [round(256 * 0.5 ** (age / 16)) for age in range(128)] + [0]
ONE = np.float32(1)


class Expectations:
    """What follows in sessions, by regions of pages."""

    def __init__(self, n_regions: int, n_sessions: int, n_pages: int) -> None:
        self.n_regions, self.n_sessions, self.n_pages = n_regions, n_sessions, n_pages
        self.scale = (n_regions << 32) // n_pages
        self.follows = np.zeros((n_regions, n_regions), np.int64)
        self.expected = np.zeros(n_regions, np.float32)
        self.asked_in = np.zeros(n_regions, np.float32)
        self.lifts = np.zeros(n_regions, np.int64)
        self.sessions: dict[int, tuple[int, int, list[int]]] = {}
        self.heard, self.gap = 0, 0

    def region(self, page: int) -> int:
        return (page * self.scale) >> 32

    def learn(self, before: list[int], after: list[int]) -> None:
        for region in after:
            for earlier in before:
                if self.follows[earlier, region] == 255:
                    self.follows[earlier] //= 2
                self.follows[earlier, region] += 1

    def expect(self, session: int, page_ids: list[int]) -> None:
        n = min(len(page_ids), 16)
        if n == 0:
            return
        now = [self.region(page_ids[i * len(page_ids) // n]) for i in range(n)]
        key = max((session * 0x9E3779B97F4A7C15 % 2**64) >> 32, 1)
        known, heard, before = self.sessions.get(key % self.n_sessions, (0, 0, []))
        if known == key:
            self.gap += (((self.heard - heard) << 8) - self.gap) >> 6
            self.learn(before, now)
        self.sessions[key % self.n_sessions] = key, self.heard, now
        self.heard += 1
        self.expected *= np.float32(0.5 ** (256 / max(self.gap, 256)))
        for region, times in Counter(now).items():
            self.asked_in[region] += np.float32(times)
            seen = np.float32(self.follows[region].sum() + 2)
            self.expected += self.follows[region].astype(np.float32) * (np.float32(times) / (seen * np.float32(n)))
        total = np.float32(1e-9)
        for one in self.expected:
            total += one
        scale = np.float32(16) * np.float32(self.asked_in.sum()) / total
        self.lifts = np.minimum(self.expected * scale / (self.asked_in + ONE) + np.float32(0.01), 16_000).astype(int)


class PlainCache:
    """Holds the numbers of up to `whole` pages, or of more, up to twice as many, where some are packed."""

    def __init__(self, whole: int, n_pages: int, page_bytes: int = 4_096) -> None:
        self.whole, self.n_pages = whole, n_pages
        memory = whole * page_bytes
        n_regions = max(min(isqrt(memory // 64), n_pages, 256), 1)
        self.sessions = Expectations(n_regions, max(min(memory // (256 * 25), 4_096), 16), n_pages)
        self.units: dict[int, int] = {}
        self.pages: list[int] = []
        self.settled: set[int] = set()
        self.counts: Counter[int] = Counter()
        self.lately: Counter[int] = Counter()
        self.ticks: defaultdict[int, int] = defaultdict(int)
        self.hand = self.asked = self.tick = self.asked_in_tick = self.leader = 0
        self.sample = (whole // 256).bit_length()
        self.room = max(whole >> self.sample, 1)
        self.fading = self.room.bit_length() + 2
        self.shadows: list[list[int]] = [[] for _ in range(LRU + 1)]
        self.hands, self.errors = [0] * (LRU + 1), [0] * (LRU + 1)

    def fetch(self, queries: list[list[int]], session: int) -> list[bool]:
        page_ids = [page for query in queries for page in query]
        for page in page_ids:
            self.counts[page] = min(self.counts[page] + 1, COUNT_MAX)
            self.lately[page] = min((self.faded(page) >> 8) + 4, COUNT_MAX)
            self.ticks[page] = self.tick
        self.asked_in_tick += len(page_ids)
        ask = max(self.whole // 32, 1)
        self.tick, self.asked_in_tick = self.tick + self.asked_in_tick // ask, self.asked_in_tick % ask
        self.asked += len(page_ids)
        if self.asked >= FADE_AFTER * self.n_pages:
            self.asked = 0
            self.counts = Counter({page: count // 2 for page, count in self.counts.items()})
            self.sessions.asked_in /= 2
        for query in queries if session else []:
            self.sessions.expect(session, query)
        for page in page_ids:
            if page * 2654435761 % 2**32 % 2**self.sample == 0:
                self.judge(page)
        best = self.errors.index(min(self.errors))
        if 50 * self.errors[best] < 49 * self.errors[self.leader]:
            self.leader = best
        return [page in self.units for page in page_ids]

    def faded(self, page: int) -> int:
        return self.lately[page] * FADING[min(self.tick - self.ticks[page], 128)]

    def promise(self, page: int, policy: int) -> int:
        if policy == LRU:
            return self.ticks[page] - self.tick
        raised = LIFTS[policy] * int(self.sessions.lifts[self.sessions.region(page)]) >> 4
        return self.counts[page] * (256 + raised) + (WEIGHTS[policy] * self.faded(page) >> 2)

    def judge(self, page: int) -> None:
        for policy, shadow in enumerate(self.shadows):
            self.errors[policy] -= self.errors[policy] >> self.fading
            if page in shadow:
                continue
            self.errors[policy] += 1 << 20
            if len(shadow) < self.room:
                shadow.append(page)
                continue
            places = [(self.hands[policy] + step) % self.room for step in range(min(16, self.room))]
            self.hands[policy] = (self.hands[policy] + 16) % self.room
            place = min(places, key=lambda place: self.promise(shadow[place], policy))
            if self.promise(shadow[place], policy) < self.promise(page, policy):
                shadow[place] = page

    def __contains__(self, page: int) -> bool:
        return page in self.units

    def keep(self, page_ids: list[int]) -> list[int]:
        settled: list[int] = []
        for page in page_ids:
            if page not in self.units and self.make_room(page, settled, 2 * len(page_ids)):
                self.pages.append(page)
                self.units[page] = UNITS
                self.settled.discard(page)
        return settled

    def shrink(self, page: int, n_units: int) -> None:
        if page in self.units:
            self.units[page] = min(self.units[page], n_units)

    def has_room(self) -> bool:
        return sum(self.units.values()) + UNITS <= self.whole * UNITS and len(self.units) < 2 * self.whole

    def make_room(self, page: int, settled: list[int], most: int) -> bool:
        worth = False
        while not self.has_room():
            place = self.least_promising(settled, most)
            worth = worth or self.promise(self.pages[place], self.leader) < self.promise(page, self.leader)
            if not worth:
                return False
            gone, last = self.pages[place], self.pages.pop()
            if gone != last:
                self.pages[place] = last
            del self.units[gone]
        return True

    def least_promising(self, settled: list[int], most: int) -> int:
        places = [(self.hand + step) % len(self.pages) for step in range(min(CANDIDATES, len(self.pages)))]
        self.hand = (self.hand + CANDIDATES) % len(self.pages)
        chosen = min(places, key=lambda place: self.promise(self.pages[place], self.leader))
        for place in places:
            page = self.pages[place]
            old = self.tick - self.ticks[page] >= SETTLED_AFTER
            if place != chosen and page not in self.settled and len(settled) < most and old:
                self.settled.add(page)
                settled.append(page)
        return chosen
