"""Ctrl-C ends a command, even if a library swallows it or makes another error of it."""

from __future__ import annotations

import contextlib
import os
import signal

import numpy as np
import pytest
from journeys.doors import annserve

from annserve.build import segment_steps
from annserve.errors import CorruptionError


@pytest.fixture
def source(tmp_path):
    np.save(tmp_path / "rows.npy", np.random.default_rng(1).integers(0, 9, (50, 4)).astype(np.uint8))
    return tmp_path / "rows.npy"


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def swallowed() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        press_ctrl_c()


def turned_into_an_error() -> None:
    swallowed()
    raise CorruptionError("a chunk can't be decoded")


@pytest.mark.parametrize("happens", [press_ctrl_c, swallowed, turned_into_an_error])
def test_a_build_that_meets_ctrl_c_leaves_with_130_and_goes_on(source, tmp_path, monkeypatch, happens):
    join = segment_steps.join_heads

    def interrupted(*arguments, **named):
        happens()
        return join(*arguments, **named)

    monkeypatch.setattr(segment_steps, "join_heads", interrupted)
    ended = annserve("build", source, "--out", tmp_path / "index")
    assert ended.code == 130
    assert ended.err.endswith("interrupted\n")
    assert "error" not in ended.err
    monkeypatch.undo()
    assert annserve("build", source, "--out", tmp_path / "index", "--resume").code == 0


def test_the_next_command_knows_nothing_of_it(source, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        patched.setattr(segment_steps, "join_heads", lambda *arguments, **named: press_ctrl_c())
        assert annserve("build", source, "--out", tmp_path / "index").code == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert annserve("build", source, "--out", tmp_path / "index", "--restart").code == 0
