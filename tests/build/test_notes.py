"""A build that is stopped whenever it has noted how far a step has come goes on from there, to the very same index."""

from __future__ import annotations

import numpy as np
import pytest

from annserve.build.pipeline import build
from annserve.build.steps import Steps
from annserve.design.options import BuildOptions


class StopError(Exception):
    """Stands for a kill."""


def files_of(index):
    place = index / "segment-000001"
    return {path.name: path.read_bytes() for path in place.iterdir() if path.name != "report.json"}


@pytest.fixture
def often(monkeypatch):
    """Blocks so small, and notes so frequent, that a few thousand rows make many of them."""
    monkeypatch.setattr("annserve.build.steps.NOTE_SECONDS", -1.0)
    monkeypatch.setattr("annserve.build.encode._BLOCK_BYTES", 30_000)
    monkeypatch.setattr("annserve.vectors.source.CHUNK_BYTES", 16_000)
    monkeypatch.setattr("annserve.build.packing._BLOCK_BYTES", 20_000)
    monkeypatch.setattr("annserve.design.memory.PARTITION_ROWS", 900)


def test_every_long_step_goes_on_from_its_notes(tmp_path, monkeypatch, often):
    rng = np.random.default_rng(2)
    rows = (rng.normal(size=(40, 24))[rng.integers(0, 40, 3_000)] + 0.3 * rng.normal(size=(3_000, 24))).astype("f4")
    np.save(tmp_path / "rows.npy", rows)
    options = BuildOptions(ram="50%", threads=1, calibration_queries=60)
    build(tmp_path / "rows.npy", tmp_path / "whole", options)

    note, stopped = Steps.note, []

    def note_and_stop(self, name, *arguments, **arrays):
        note(self, name, *arguments, **arrays)
        # Some notes in each step are enough.
        if stopped.count(name) < 3:
            stopped.append(name)
            raise StopError

    monkeypatch.setattr(Steps, "note", note_and_stop)
    for _ in range(40):
        try:
            build(tmp_path / "rows.npy", tmp_path / "stopped", options, unfinished="resume")
            break
        except StopError:
            continue
    assert {name: stopped.count(name) for name in stopped} == {
        "bisect": 3,
        "refine": 3,
        "order": 3,
        "encode": 3,
        "hold out": 3,
    }
    assert files_of(tmp_path / "stopped") == files_of(tmp_path / "whole")
