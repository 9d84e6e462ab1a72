"""New rows are found with the old ones, under ids of their own; whatever goes wrong, the index is as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journeys.doors import COMMAND, annserve, files_of
from journeys.killed import KILL_IN_COPIES
from update.conftest import KINDS, NEW, OLD, options_for

import annserve as product
from annserve.build.pipeline import build
from annserve.design.options import BuildOptions
from annserve.errors import ConflictError, CorruptionError, InputError, OutputError
from annserve.index.manifest import read_current
from annserve.index.publish import publish
from annserve.index.segment import Segment
from annserve.index.snapshot import open_snapshot
from annserve.report.verify import verify_index
from annserve.storage.atomic import locked
from annserve.update import append as journey
from annserve.update.append import AppendOptions, append
from annserve.update.versions import next_version

SEGMENTS = ["segment-000001", "segment-000002"]


@pytest.mark.parametrize("kind", KINDS)
def test_old_and_new_rows_are_found_as_by_brute_force(make_case, make_appended, kind):
    """At recall target 1: exactly where integers or raw rows are kept, as far as INT8 tells else."""
    case = make_appended(kind)
    with product.open(case.index, threads=1) as index:
        assert index.n_rows == OLD + NEW
        found = index.search(case.queries, 10, recall_target=1.0).ids
        more = index.search(case.rows[::7], 1, recall_target=1.0).ids[:, 0]
    nearest = case.nearest(10)
    same = np.mean([np.isin(a, b).mean() for a, b in zip(found, nearest)])
    exact = case.old.dtype == np.uint8 or kind == "float32-l2-raw"
    assert same == 1 if exact else same > 0.98
    if exact:
        np.testing.assert_array_equal(found, nearest)
    assert (found >= OLD).any()
    if case.metric != "ip":  # there a longer row may be nearer than itself
        assert (more == np.arange(0, OLD + NEW, 7)).mean() > 0.97
    snapshot = open_snapshot(case.index)
    assert verify_index(snapshot).problems == []
    assert files_of(case.index / SEGMENTS[0]) == files_of(make_case(kind).index / SEGMENTS[0])
    require_one_kind(*snapshot.segments)
    assert sorted(path.name for path in case.index.iterdir()) == [
        "CURRENT",
        "manifest-000002.json",
        "report.html",
        *SEGMENTS,
    ]


def require_one_kind(old: Segment, new: Segment) -> None:
    """Hold what a new segment was built like against the old one."""
    assert (old.codes is None, old.vicinities is None) == (new.codes is None, new.vicinities is None)
    if old.codes is not None and new.codes is not None:
        assert old.codes.row_book.code_bytes == new.codes.row_book.code_bytes
    assert (old.raw is None) == (new.raw is None)
    if old.raw is not None and new.raw is not None:
        assert (old.raw.layout.spec, old.raw.layout.own) == (new.raw.layout.spec, new.raw.layout.own)
    assert (old.copies > 1) == (new.copies > 1)
    ram = [segment.report["ram_bytes_per_vector_predicted"] for segment in (old, new)]
    assert ram[0] == pytest.approx(ram[1], rel=0.02)


def test_a_second_encoder_ranks_rows_of_both_segments(make_appended):
    case = make_appended("uint8-l2-other")
    others = np.concatenate([np.load(case.source.with_name(name)) for name in ("old_other.npy", "other.npy")])
    asked = np.arange(0, OLD + NEW, 23)
    with product.open(case.index, threads=1) as index:
        found = index.search(case.rows[asked], 3, recall_target=1.0, rerank_queries=others[asked])
    np.testing.assert_array_equal(found.ids[:, 0], asked)
    np.testing.assert_allclose(found.distances[:, 0], 0, atol=1e-6)


def test_segments_that_disagree_on_a_second_encoder_are_refused(make_appended):
    """The work of a faulty writer: distances of two metrics would be merged."""
    case = make_appended("uint8-l2-other")
    manifest = read_current(case.index)
    first, second = manifest.segments
    bare = replace(second, files={name: facts for name, facts in second.files.items() if name != "raw.bin"})
    publish(case.index, replace(manifest, snapshot=3, segments=(first, bare)))
    with pytest.raises(CorruptionError, match="another encoder in 1 of 2 segments"):
        product.open(case.index)


def test_ids_go_on_from_the_largest_or_are_those_of_a_file(make_case, tmp_path):
    case = make_case("uint8-l2")
    np.save(tmp_path / "ids.npy", np.arange(NEW) * 3 + 5_000)
    done = append(case.index, case.source, options_for(case, ids=tmp_path / "ids.npy"))
    assert (done.rows, done.rows_in_all, done.segments, done.snapshot) == (NEW, OLD + NEW, 2, 2)
    append(case.index, case.source, options_for(case))
    with product.open(case.index, threads=1) as index:
        found = index.search(case.new[:4], 2, recall_target=1.0).ids
    assert found.tolist() == [[5_000 + 3 * i, 5_000 + 3 * (NEW - 1) + 1 + i] for i in range(4)]
    manifest = read_current(case.index)
    assert [segment.name for segment in manifest.segments] == [*SEGMENTS, "segment-000003"]


def test_an_id_that_is_there_is_refused_and_named_with_its_row(make_case, tmp_path):
    case = make_case("uint8-l2")
    before = files_of(case.index)
    ids = np.arange(NEW) + OLD
    ids[[40, 9]] = [3, OLD - 1]
    np.save(tmp_path / "ids.npy", ids)
    with pytest.raises(InputError, match=f"id {OLD - 1} of row 9, and 1 more: the index has such rows already"):
        append(case.index, case.source, options_for(case, ids=tmp_path / "ids.npy"))
    assert files_of(case.index) == before


def test_ids_that_would_pass_the_largest_are_refused(tmp_path):
    np.save(tmp_path / "rows.npy", np.eye(4, dtype=np.float32))
    np.save(tmp_path / "ids.npy", np.array([5, 6, 7, 2**64 - 4], np.uint64))
    build(tmp_path / "rows.npy", tmp_path / "index", BuildOptions(ids=tmp_path / "ids.npy", ram="900%", codes="none"))
    with pytest.raises(InputError, match="would pass"):
        append(tmp_path / "index", tmp_path / "rows.npy")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.ones((3, 7), np.uint8), "vectors of dimension 7, but the index is of uint8 and 24"),
        (np.ones((3, 24), np.float32), "holds float32 vectors"),
        (np.ones((0, 24), np.uint8), "holds no rows"),
    ],
)
def test_vectors_of_another_kind_are_refused(make_case, tmp_path, rows, message):
    case = make_case("uint8-l2")
    before = files_of(case.index)
    np.save(tmp_path / "rows.npy", rows)
    with pytest.raises(InputError, match=message):
        append(case.index, tmp_path / "rows.npy")
    assert files_of(case.index) == before


def test_a_row_that_cannot_be_indexed_is_named_and_the_index_is_as_it_was(make_case, tmp_path):
    case = make_case("float16-cosine")
    before = files_of(case.index)
    rows = case.new.copy()
    rows[17] = 0
    np.save(tmp_path / "rows.npy", rows)
    with pytest.raises(InputError, match="row 17"):
        append(case.index, tmp_path / "rows.npy")
    assert files_of(case.index) == before
    done = append(case.index, tmp_path / "rows.npy", AppendOptions(skip_invalid=True, threads=1))
    assert done.rows == NEW - 1
    with product.open(case.index, threads=1) as index:
        found = index.search(rows[18:20], 1, recall_target=1.0).ids[:, 0]
    assert found.tolist() == [OLD + 18, OLD + 19], "numbers of the input, whatever is left out"


def test_another_encoder_is_asked_for_where_the_index_keeps_one_and_refused_elsewhere(make_case, tmp_path):
    case = make_case("uint8-l2-other")
    with pytest.raises(InputError, match="rerank_with must name"):
        append(case.index, case.source)
    np.save(tmp_path / "other.npy", np.ones((NEW, 5), np.float32))
    with pytest.raises(InputError, match="dimension 5, but the index keeps float32 of 12"):
        append(case.index, case.source, AppendOptions(rerank_with=tmp_path / "other.npy"))
    plain = make_case("uint8-l2")
    with pytest.raises(InputError, match="leave rerank_with out"):
        append(plain.index, case.source, AppendOptions(rerank_with=tmp_path / "other.npy"))


def test_a_reader_keeps_its_version_and_sees_the_new_one_by_opening_anew(make_case):
    case = make_case("float32-ip")
    with product.open(case.index, threads=1) as old:
        before = old.search(case.queries, 10, recall_target=1.0).ids
        append(case.index, case.source, options_for(case))
        np.testing.assert_array_equal(old.search(case.queries, 10, recall_target=1.0).ids, before)
        assert old.info()["snapshot"] == 1
    with product.open(case.index, threads=1) as new:
        assert new.info()["snapshot"] == 2
        assert (new.search(case.queries, 10, recall_target=1.0).ids != before).any()


def test_a_second_writer_is_refused_and_disturbs_nothing(make_case):
    case = make_case("uint8-l2")
    work = case.index / ".build"
    work.mkdir()
    with locked(work):
        before = files_of(case.index)
        with pytest.raises(ConflictError, match=f"written by process {os.getpid()}"):
            append(case.index, case.source)
        assert annserve("compact", case.index).code == ConflictError.exit_code
        assert files_of(case.index) == before
    append(case.index, case.source, options_for(case))


def test_a_version_that_came_in_between_is_not_overwritten(make_case, monkeypatch):
    case = make_case("uint8-l2")
    real = journey.build_segment

    def slow(*arguments, **options):
        entry = real(*arguments, **options)
        manifest = read_current(case.index)
        journey.publish_after(case.index, manifest, type(manifest)(9, manifest.spec, 1.0, manifest.segments))
        return entry

    monkeypatch.setattr(journey, "build_segment", slow)
    with pytest.raises(ConflictError, match="moved on from snapshot 1 to 9"):
        append(case.index, case.source, options_for(case))
    assert sorted(path.name for path in case.index.iterdir()) == [
        "CURRENT",
        "manifest-000009.json",
        "report.html",
        SEGMENTS[0],
    ]
    assert verify_index(open_snapshot(case.index)).rows == OLD


@pytest.mark.parametrize("moment", ["ids", "pack", "verify"])
def test_an_append_that_is_killed_leaves_the_old_index_and_the_next_one_works(make_case, moment):
    """kill -9 as soon as a stage has ended, of the real command; what it left is gone after the next."""
    case = make_case("uint8-l2")
    command = [*COMMAND, "append", str(case.index), str(case.source), "--threads", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(moment):
                process.send_signal(signal.SIGKILL)
                break
        process.stderr.read()
    if process.returncode == 0:
        assert moment == "verify", "only after the last stage can it have been too late"
        return
    with product.open(case.index, threads=1) as index:
        assert index.n_rows == OLD
    assert annserve("verify", case.index).code == 0
    assert annserve("append", case.index, case.source, "--threads", 1).code == 0
    assert sorted(path.name for path in case.index.iterdir()) == [
        "CURRENT",
        "manifest-000002.json",
        "report.html",
        *SEGMENTS,
    ]


#: Appends; then publishes in copies of the folder: the i-th process is killed before its i-th call of the system.
PUBLISH = (
    KILL_IN_COPIES
    + """
from annserve.index.manifest import read_current
from annserve.update import append as journey, versions

real = journey.publish_after

def publish_after(folder, before, after):
    def publish(copy):
        real(copy, before, after)
        versions._clear(copy, read_current(copy))

    kill_in_copies(folder, publish, ("open", "fsync", "replace", "pwrite", "unlink"))
    real(folder, before, after)

journey.publish_after = publish_after
journey.append(sys.argv[1], sys.argv[2], journey.AppendOptions(threads=1))
"""
)


def test_an_append_killed_while_it_publishes_leaves_the_old_version_or_the_new_one(make_case):
    case = make_case("uint8-l2")
    command = [sys.executable, "-c", PUBLISH, str(case.index), str(case.source)]
    subprocess.run(command, check=True, timeout=120)
    folders = sorted(case.index.parent.glob("killed-*"))
    seen = []
    for folder in folders:
        snapshot = open_snapshot(folder)
        assert verify_index(snapshot).problems == []
        seen.append(snapshot.manifest.n_rows)
    assert len(seen) > 10
    assert seen == sorted(seen)
    assert {seen[0], seen[-1]} == {OLD, OLD + NEW}
    # A writer that comes after clears up, whichever version it finds.
    for folder in (folders[0], folders[seen.index(OLD + NEW) - 1], folders[-2]):
        with next_version(folder) as (manifest, _):
            named = {segment.name for segment in manifest.segments}
            assert {path.name for path in folder.glob("segment-*")} == named


def test_a_device_that_fills_up_leaves_the_old_index(make_case):
    case = make_case("uint8-l2")
    before = files_of(case.index)
    code = (
        "import resource, sys; from annserve.cli.main import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000)); main()"
    )
    command = [sys.executable, "-c", code, "append", str(case.index), str(case.source)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == OutputError.exit_code, ended.stderr
    assert files_of(case.index) == before


def test_a_folder_without_an_index_is_refused(tmp_path):
    np.save(tmp_path / "rows.npy", np.eye(4, dtype=np.float32))
    ended = annserve("append", tmp_path / "nothing", tmp_path / "rows.npy")
    assert (ended.code, (tmp_path / "nothing").exists()) == (2, False)
    assert "there is no index" in ended.error


def test_the_command_tells_what_it_did_and_inspect_shows_the_segments(make_case):
    case = make_case("uint8-l2")
    ended = annserve("append", case.index, case.source, "--threads", 1)
    assert ended.code == 0, ended.err
    assert ended.out.startswith(f"appended {NEW} rows to {case.index} as {SEGMENTS[1]}: {OLD + NEW} rows in 2 segments")
    shown = annserve("inspect", case.index)
    assert shown.code == 0, shown.err
    assert all(name in shown.out for name in (*SEGMENTS, "old.npy", "new.npy"))
    assert "segment 2 of 2" in annserve("explain", case.index, "--query", case.source).out


@given(sizes=st.lists(st.integers(1, 60), min_size=2, max_size=3), seed=st.integers(0, 2**16), k=st.integers(1, 20))
@settings(max_examples=4)
def test_any_parts_answer_like_one_set(tmp_path_factory, sizes, seed, k):
    """Few places, so that many rows are equal: ties go by id across segments."""
    folder = Path(tmp_path_factory.mktemp("parts"))
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 3, (sum(sizes), 3)).astype(np.uint8)
    for number, part in enumerate(np.split(rows, np.cumsum(sizes)[:-1])):
        np.save(folder / f"{number}.npy", part)
        if number == 0:
            build(folder / "0.npy", folder / "index", BuildOptions(ram="9000%", codes="none", threads=1))
        else:
            append(folder / "index", folder / f"{number}.npy", AppendOptions(threads=1))
    k = min(k, len(rows))
    with product.open(folder / "index", threads=1) as index:
        found = index.search(rows[:9], k, recall_target=1.0)
        harder = index.search(rows[:9], k, recall_target=0.9)
    distances = ((rows[:9, None].astype(int) - rows) ** 2).sum(axis=2)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(found.ids, order)
    assert all(len(np.unique(ids)) == k for ids in harder.ids)
