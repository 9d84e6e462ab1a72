"""What long work shows: on a terminal one line with rate and time left, in a log plain lines, for machines JSON."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from journeys.doors import COMMAND, annserve, annserve_process

from annserve.cli import render
from annserve.cli.render import Progress, duration_text
from annserve.events import StageFinished, StageProgressed, StageStarted

STAGES = ("stage", "link", "pack", "calibrate", "verify")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("progress") / "rows.npy"
    np.save(path, np.random.default_rng(2).integers(0, 256, (3_000, 16)).astype(np.uint8))
    return path


class Terminal:
    """A terminal of 60 columns, or a file, that keeps what is written to it."""

    def __init__(self, live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.live, self.text = live, ""
        monkeypatch.setattr(os, "get_terminal_size", lambda number: os.terminal_size((60, 24)))

    def isatty(self) -> bool:
        return self.live

    def fileno(self) -> int:
        return 2

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def shown(live: bool, monkeypatch: pytest.MonkeyPatch, *, before: int = 0) -> str:
    """Give what a stage of 1,000 rows shows, of which one is done every eighth of a second."""
    now = [100.0]
    monkeypatch.setattr(render.time, "monotonic", lambda: now[0])
    stream = Terminal(live, monkeypatch)
    progress = Progress(stream)  # type: ignore[arg-type]
    progress(StageStarted("refine", 1_000, "rows"))
    for done in range(before, 500):
        now[0] += 0.125
        progress(StageProgressed("refine", done))
    progress(StageFinished("refine", 50.0, "a note"))
    return stream.text


def test_a_terminal_shows_one_line_with_rate_and_time_left(monkeypatch):
    text = shown(True, monkeypatch)
    assert text.count("\n") == 1
    assert text.count("\r") > 400
    frames = [frame.removeprefix("\x1b[2K") for frame in re.split("[\r\n]", text)]
    assert frames[0] == "refine       …"
    assert "refine       400 / 1,000 rows  40%  ETA 1 min 15 s  8 rows/s"[:59] in frames
    assert max(len(frame) for frame in frames) < 60
    assert frames[-2] == "refine           50.0 s  a note"


def test_a_log_gets_a_plain_line_every_ten_seconds(monkeypatch):
    lines = shown(False, monkeypatch).splitlines()
    assert len(lines) == 7
    assert lines[1] == "refine       159 / 1,000 rows  16%  ETA 1 min 45 s  8 rows/s"
    assert lines[-1] == "refine           50.0 s  a note"


def test_what_a_resumed_stage_had_done_before_is_no_rate(monkeypatch):
    assert shown(False, monkeypatch, before=300).splitlines()[0].endswith("38%  ETA 1 min 18 s  8 rows/s")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3_599, "59 min 59 s"),
        (3_600, "1 h 0 min"),
        (1e6, "277 h 46 min"),
    ],
)
def test_times_are_written_as_people_read_them(seconds, text):
    assert duration_text(seconds) == text


def test_a_build_on_a_terminal_writes_over_its_lines_and_elsewhere_it_does_not(source, tmp_path):
    main, terminal = pty.openpty()
    command = [*COMMAND, "build", str(source), "--out", str(tmp_path / "index"), "--threads", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal) as build:
        os.close(terminal)
        text = b""
        while True:
            try:
                piece = os.read(main, 4_096)
            except OSError:  # how a terminal ends
                break
            if not piece:
                break
            text += piece
        assert build.stdout is not None
        said = build.stdout.read().decode()
    os.close(main)
    assert build.returncode == 0
    assert said.startswith("published ")
    for stage in STAGES:
        assert re.search(rf"\x1b\[2K{stage} +…\r".encode(), text), stage
        assert re.search(rf"\x1b\[2K{stage} +\d+\.\d s".encode(), text), stage
    plain = annserve_process("build", source, "--out", tmp_path / "other", "--threads", 2)
    assert not {"\x1b", "\r"} & set(plain.err)
    for stage in STAGES:
        assert len(re.findall(rf"^{stage} ", plain.err, re.MULTILINE)) == 1, stage


def lines_of(text: str) -> list[dict]:
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert set(line) == {"time", "event", "stage", "done", "total", "unit", "seconds", "note"}
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
    times = [datetime.fromisoformat(line["time"]) for line in lines]
    assert times == sorted(times)
    return lines


@pytest.mark.parametrize("where", ["file", "stderr"])
def test_events_are_lines_of_json(source, tmp_path, where):
    target = tmp_path / "events.jsonl"
    ended = annserve(
        "build", source, "--out", tmp_path / "index", "--events", target if where == "file" else "-", "--threads", 2
    )
    assert ended.code == 0
    lines = lines_of(target.read_text() if where == "file" else ended.err)
    assert (f"\n{STAGES[-1]} " in ended.err) == (where == "file")
    assert lines[-1]["event"] == "published"
    finished = [line["stage"] for line in lines if line["event"] == "finished"]
    assert finished == [line["stage"] for line in lines if line["event"] == "started"]
    assert set(STAGES) <= set(finished)
    staged = [line for line in lines if line["stage"] == "stage"]
    assert [line["event"] for line in staged] == ["started", "progressed", "finished"]
    assert [(line["done"], line["total"], line["unit"]) for line in staged] == [
        (None, 3_000, "rows"), (3_000, 3_000, "rows"), (None, 3_000, "rows"),
    ]  # fmt: skip
    assert staged[-1]["note"] == "3,000 rows of 16 × uint8"


def test_the_last_event_of_a_build_that_failed_says_why_and_the_next_one_goes_on_in_the_file(source, tmp_path):
    np.save(tmp_path / "bad.npy", np.full((3, 2), np.nan, np.float32))
    target = tmp_path / "events.jsonl"
    ended = annserve("build", tmp_path / "bad.npy", "--out", tmp_path / "index", "--events", target)
    assert ended.code == 2
    first = lines_of(target.read_text())
    assert (first[-1]["event"], f"error: {first[-1]['note']}") == ("failed", ended.error)
    assert annserve("build", source, "--out", tmp_path / "index", "--events", target, "--threads", 2).code == 0
    assert lines_of(target.read_text())[: len(first)] == first


def test_a_file_for_events_that_cannot_be_written_is_refused_before_the_work(source, tmp_path):
    ended = annserve("build", source, "--out", tmp_path / "index", "--events", tmp_path / "none" / "x.jsonl")
    assert ended.code == 2
    assert "x.jsonl can't be written" in ended.error
    assert not (tmp_path / "index").exists()
