"""Steps of a build: recorded when they are done, gone on with by the next process, refused to another build."""

from __future__ import annotations

import time
from contextlib import suppress

import numpy as np
import pytest

from annserve.build.steps import CHECKPOINT, Steps, unfinished_steps
from annserve.errors import ConflictError, CorruptionError
from annserve.events import StageFinished, StageStarted, ignore

ASKED = {"annserve_version": "1", "options": {"seed": 0, "ram": "25%"}, "inputs": {}}


def test_a_step_is_behind_only_when_its_block_ended(tmp_path):
    steps = Steps(tmp_path, ASKED, ignore)
    with steps.step("one", 3) as facts:
        facts["found"] = 7
        assert steps.to_do("one")
    with pytest.raises(RuntimeError), steps.step("two"):
        raise RuntimeError
    assert not steps.to_do("one")
    assert steps.to_do("two")
    assert unfinished_steps(tmp_path) == ["one"]

    heard = []
    again = Steps(tmp_path, ASKED, heard.append)
    assert [type(event) for event in heard] == [StageStarted, StageFinished]
    assert heard[1].note == "done before"
    assert again.facts("one") == {"found": 7}
    assert list(again.costs("seconds")) == list(again.costs("cpu_seconds")) == ["one"]
    assert again.costs("peak_rss_bytes")["one"] > 10 << 20
    assert again.to_do("two")


def test_steps_keep_their_order(tmp_path):
    steps = Steps(tmp_path, ASKED, ignore)
    for name in ("stage", "bisect", "a later one"):
        with steps.step(name):
            pass
    assert unfinished_steps(tmp_path) == ["stage", "bisect", "a later one"]


def test_arrays_come_back_all_or_by_name(tmp_path):
    steps = Steps(tmp_path, ASKED, ignore)
    steps.keep("one", numbers=np.arange(5), table=np.ones((2, 3), np.float32))
    assert set(steps.kept("one")) == {"numbers", "table"}
    assert np.array_equal(steps.kept("one", "numbers")["numbers"], np.arange(5))
    damaged = bytearray((tmp_path / "one.bin").read_bytes())
    damaged[4096] ^= 1
    (tmp_path / "one.bin").write_bytes(bytes(damaged))
    with pytest.raises(CorruptionError):
        steps.kept("one", "numbers")
    assert steps.kept("one", "table")["table"].sum() == 6


def test_time_before_an_interruption_counts(tmp_path):
    steps = Steps(tmp_path, ASKED, ignore)
    with suppress(RuntimeError), steps.step("long"):
        time.sleep(0.2)
        steps.note("long", {"round": 3})
        raise RuntimeError
    again = Steps(tmp_path, ASKED, ignore)
    assert again.noted("long") == {"round": 3}
    with again.step("long"):
        time.sleep(0.1)
        again.note("long", {"round": 4})
    assert 0.3 <= again.costs("seconds")["long"] < 0.3 + 5
    assert again.noted("long") == {}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (ASKED | {"annserve_version": "2"}, "annserve 1 began it, and this is 2"),
        (ASKED | {"options": {"seed": 5, "ram": "25%"}}, "seed was 0 and is 5"),
        (ASKED | {"options": {"seed": 0, "ram": "9B"}}, "ram was '25%' and is '9B'"),
    ],
)
def test_another_build_is_refused_in_words(tmp_path, asked, said):
    with Steps(tmp_path, ASKED, ignore).step("one"):
        pass
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(ConflictError, match=said):
        Steps(tmp_path, asked, ignore)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_damaged_checkpoint_is_told(tmp_path):
    with Steps(tmp_path, ASKED, ignore).step("one"):
        pass
    text = (tmp_path / CHECKPOINT).read_bytes().replace(b"25%", b"24%")
    (tmp_path / CHECKPOINT).write_bytes(text)
    with pytest.raises(CorruptionError, match="damaged"):
        Steps(tmp_path, ASKED, ignore)
