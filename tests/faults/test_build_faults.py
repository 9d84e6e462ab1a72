"""A build that is killed leaves no index that opens wrongly, and goes on to the very same files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from journeys.doors import COMMAND, annserve, build_index, files_of, search_files
from journeys.killed import KILL_IN_COPIES

import annserve as product
from annserve.build import pipeline
from annserve.errors import ConflictError, NotFoundError
from annserve.storage.atomic import locked

#: Few queries to calibrate by: what must come out the same does so whatever the plan is.
QUICK = ("--calibration-queries", "400")
#: What a build says on stderr when a stage has ended, in this order; it is killed right then.
MOMENTS = (
    "stage",
    "partition",
    "bisect",
    "refine",
    "order",
    "link",
    "encode",
    "pack",
    "hold out",
    "calibrate",
    "verify",
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "rows.npy"
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(40, 96))[rng.integers(0, 40, 2_500)] + 0.5 * rng.normal(size=(2_500, 96))
    np.save(path, rows.astype(np.float32))
    return path


@pytest.fixture(scope="module")
def undisturbed(source: Path) -> dict[str, bytes]:
    """The files that decide answers, of a build that nobody killed."""
    return search_files(build_index(source, source.parent / "undisturbed", *QUICK))


def killed_build(
    source: Path, folder: Path, moment: str, number: int = signal.SIGKILL, options: tuple[str, ...] = ()
) -> int:
    """Build in a process; send it a signal as soon as it says that a stage has ended. Give its exit code."""
    command = [*COMMAND, "build", str(source), "--out", str(folder), "--threads", "2", *QUICK, *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as build:
        assert build.stderr is not None
        for line in build.stderr:
            if line.startswith(moment):
                build.send_signal(number)
                break
        build.stderr.read()
    return build.returncode


def test_a_build_killed_in_any_stage_leaves_no_index_and_goes_on(source, undisturbed, tmp_path):
    """One folder: each run goes on with what the one before left, and is killed one step later; the last is let be."""
    folder = tmp_path / "index"
    for moment in MOMENTS:
        code = killed_build(source, folder, moment, options=("--resume",))
        if (folder / "CURRENT").exists():
            # Only after the last stage can it have been too late.
            assert moment == "verify"
            assert search_files(folder) == undisturbed
            return
        assert code == -signal.SIGKILL, moment
        with pytest.raises(NotFoundError, match=r"unfinished build, no index; .*--resume"):
            product.open(folder)
        assert annserve("verify", folder).code == 2
    assert search_files(build_index(source, folder, *QUICK, "--resume")) == undisturbed
    assert sorted(path.name for path in folder.iterdir()) == [
        "CURRENT",
        "manifest-000001.json",
        "report.html",
        "segment-000001",
    ]


def test_an_unfinished_build_is_neither_lost_nor_taken_for_another(source, undisturbed, tmp_path):
    folder = tmp_path / "index"
    assert killed_build(source, folder, "bisect") == -signal.SIGKILL
    left = files_but_lock(folder)
    refused = annserve("build", source, "--out", folder, *QUICK)
    assert refused.code == ConflictError.exit_code
    assert "unfinished build with stage, partition" in refused.error
    other = annserve("build", source, "--out", folder, *QUICK, "--seed", 7, "--resume")
    assert other.code == ConflictError.exit_code
    assert "seed was 0 and is 7" in other.error
    rows = np.load(source)
    moved = source.with_name("moved.npy")
    np.save(moved, rows[::-1])
    other = annserve("build", moved, "--out", folder, *QUICK, "--resume")
    assert other.code == ConflictError.exit_code
    assert "the input isn't what it was" in other.error
    assert files_but_lock(folder) == left, "nothing of it was touched"
    assert search_files(build_index(source, folder, *QUICK, "--restart")) == undisturbed


def test_an_input_that_changes_while_it_is_read_is_told(source, tmp_path, monkeypatch):
    rows = np.load(source)
    path = tmp_path / "rows.npy"
    np.save(path, rows)
    stage = pipeline.stage

    def changed_meanwhile(*arguments, **named):
        staged = stage(*arguments, **named)
        np.save(path, rows[::-1])
        return staged

    monkeypatch.setattr(pipeline, "stage", changed_meanwhile)
    ended = annserve("build", path, "--out", tmp_path / "index")
    assert ended.code == ConflictError.exit_code
    assert "was changed while it was read" in ended.error
    assert sorted(tmp_path.iterdir()) == [path], "no step was behind it"


def files_but_lock(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in files_of(folder).items() if not name.endswith("LOCK")}


def test_the_threads_of_a_library_change_nothing(source, undisturbed, tmp_path):
    """A library's matrix product adds up in another order where more threads take part; builds have one elsewhere."""
    command = [*COMMAND, "build", str(source), "--out", str(tmp_path / "index"), "--threads", "3", *QUICK]
    subprocess.run(
        command, check=True, timeout=120, env={**os.environ, "OPENBLAS_NUM_THREADS": "4"}, capture_output=True
    )
    assert search_files(tmp_path / "index") == undisturbed


#: Builds, then publishes in copies of the folder: the i-th is killed before its i-th call of the system.
PUBLISH = (
    KILL_IN_COPIES
    + """
from annserve.build import pipeline
from annserve.design.options import BuildOptions

real = pipeline.publish

def publish(folder, manifest):
    kill_in_copies(folder, lambda copy: real(copy, manifest), ("open", "fsync", "replace", "pwrite"))
    real(folder, manifest)

pipeline.publish = publish
pipeline.build(sys.argv[1], sys.argv[2], BuildOptions(threads=2, calibration_queries=400))
"""
)


def test_a_build_killed_while_it_publishes_leaves_all_or_nothing(source, undisturbed, tmp_path):
    """Killed before each open, write, sync and rename of publishing in turn."""
    command = [sys.executable, "-c", PUBLISH, str(source), str(tmp_path / "index")]
    subprocess.run(command, check=True, timeout=120)
    assert search_files(tmp_path / "index") == undisturbed
    folders = sorted(tmp_path.glob("killed-*"))
    whole = [(folder / "CURRENT").exists() for folder in folders]
    assert len(folders) >= 10
    assert whole == sorted(whole), "once published, it stays so"
    assert 2 <= sum(whole) < len(folders) - 4
    for folder, published in zip(folders, whole):
        if published:
            assert annserve("verify", folder).code == 0
        else:
            with pytest.raises(NotFoundError, match="unfinished build"):
                product.open(folder)
        assert search_files(folder) == undisturbed
    # The last moment before it, with everything there but the name.
    last = folders[whole.index(True) - 1]
    assert search_files(build_index(source, last, *QUICK, "--resume")) == undisturbed
    assert annserve("verify", last).code == 0


@pytest.mark.parametrize("moment", ["refine", "pack"])
def test_an_interrupted_build_leaves_with_130_and_goes_on(source, undisturbed, tmp_path, moment):
    assert killed_build(source, tmp_path / "deep" / "index", moment, signal.SIGINT) == 130
    assert search_files(build_index(source, tmp_path / "deep" / "index", *QUICK, "--resume")) == undisturbed


def test_a_build_interrupted_in_its_first_step_removes_what_it_made(source, tmp_path):
    command = [*COMMAND, "build", str(source), "--out", str(tmp_path / "deep" / "index")]
    slow = "import annserve.build.pipeline as p, time; p._stage = lambda *_: print(flush=True) or time.sleep(60); "
    code = f"{slow}from annserve.cli.main import main; main()"
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", code, *command[3:]], **quiet) as build:
        assert build.stdout is not None
        build.stdout.readline()
        assert (tmp_path / "deep" / "index" / ".build").exists()
        build.send_signal(signal.SIGINT)
    assert build.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_two_builds_in_one_folder_are_one_too_many(source, tmp_path):
    """The second is refused and disturbs nothing; the lock ends with its holder."""
    folder = tmp_path / "index"
    work = folder / ".build"
    work.mkdir(parents=True)
    with locked(work):
        ended = annserve("build", source, "--out", folder)
        assert ended.code == ConflictError.exit_code
        assert f"is being written by process {os.getpid()}" in ended.error
        assert set(files_of(folder)) == {".build/LOCK"}
    build_index(source, folder, *QUICK)


@pytest.mark.parametrize("kib", [4, 200, 500, 900])
def test_a_device_that_fills_up_while_building_loses_no_step(source, undisturbed, tmp_path, kib):
    """No file may grow beyond so many KiB: the staged rows, rows in order, then the pages don't fit."""
    code = (
        "import resource, sys; from annserve.cli.main import main;"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({kib << 10}, {kib << 10})); main()"
    )
    folder = tmp_path / "index"
    command = [sys.executable, "-c", code, "build", str(source), "--out", str(folder), *QUICK]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if ended.returncode == 0:
        assert annserve("verify", folder).code == 0
        return
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("error: ")
    assert "can't be written" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert search_files(build_index(source, folder, *QUICK, "--resume")) == undisturbed
