"""While a server refuses, a client sends little more than it takes; else nothing is held back."""

from __future__ import annotations

import random

import pytest

from annserve.client.throttle import FEW, HELD_BACK_MOST, SECONDS, SURPLUS, Throttle

WAITING = 20


class Server:
    """Takes so many calls a second, `WAITING` of which may wait, and refuses the rest; its clock moves by calls."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.throttle = Throttle(lambda: self.now, random.Random(5).random)

    def load(self, rate: float, takes: float, seconds: float) -> tuple[float, float]:
        """Ask at a rate for so long; give the calls a second that were sent, and accepted."""
        sent, room = [0, 0], 0.0
        for _ in range(int(rate * seconds)):
            self.now += 1 / rate
            room = min(room + takes / rate, WAITING)
            if self.throttle.holds_back():
                continue
            taken = room >= 1.0
            room -= taken
            sent[0] += 1
            sent[1] += taken
            self.throttle.accepted() if taken else self.throttle.refused(70)
        return sent[0] / seconds, sent[1] / seconds


@pytest.mark.parametrize("times", [3, 6])
def test_little_more_is_sent_than_is_taken_and_nothing_of_that_is_lost(times):
    server = Server()
    server.load(200 * times, 200, 2 * SECONDS)
    sent, accepted = server.load(200 * times, 200, 2 * SECONDS)
    assert sent == pytest.approx(SURPLUS * 200, rel=0.1)
    assert accepted == pytest.approx(200, rel=0.05)
    assert server.throttle.retry_after_ms == 70


def test_nothing_is_held_back_where_all_is_taken_or_few_calls_are_refused():
    server = Server()
    assert server.load(200, 250, SECONDS)[0] == 200
    assert server.load(200, 180, 2 * SECONDS)[0] == 200  # a tenth is refused
    few = Server()
    for _ in range(FEW):
        assert not few.throttle.holds_back()
        few.throttle.refused(10)
    assert not few.throttle.holds_back()


def test_a_server_that_has_room_again_is_soon_asked_again():
    server = Server()
    sent, accepted = server.load(600, 0, 3 * SECONDS)
    assert (1 - HELD_BACK_MOST) * 600 * 0.8 < sent < (1 - HELD_BACK_MOST) * 600 * 1.5
    assert not accepted
    server.load(600, 700, 4 * SECONDS)
    assert server.load(600, 700, 1.0)[0] == 600
