"""Segments become one that answers as they did: not a row, an id or a bit of a stored row is another."""

from __future__ import annotations

import json
import signal
import subprocess

import numpy as np
import pytest
from journeys.doors import COMMAND, annserve, files_of
from update.conftest import KINDS, NEW, OLD, options_for

import annserve as product
from annserve.errors import CorruptionError, OutputError
from annserve.index.snapshot import Snapshot, open_snapshot
from annserve.report.verify import verify_index
from annserve.update import compact as journey
from annserve.update.append import AppendOptions, append
from annserve.update.compact import CompactOptions, compact
from annserve.update.stored import StoredRawRows, stored_rows

ONE = ["CURRENT", "manifest-000003.json", "report.html", "segment-000003"]


def stored_by_id(snapshot: Snapshot) -> dict[int, tuple[bytes, ...]]:
    """Give what is stored of every row: elements, scale, error, and its raw row."""
    found = {}
    for segment in snapshot.segments:
        raw = StoredRawRows(segment, segment.raw) if segment.raw is not None else None
        for first, rows in stored_rows(segment):
            places = first * segment.spec.page_capacity + rows.places
            again = raw.take(places) if raw is not None else np.zeros((len(places), 0))
            parts = (rows.stored.elements, rows.stored.scales, rows.stored.errors, again)
            for number, id_ in enumerate(rows.ids.tolist()):
                found[id_] = tuple(part[number].tobytes() for part in parts)
        if raw is not None:
            raw.close()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_stored_bit_by_bit_as_they_were_and_answers_are_the_same(make_appended, kind):
    """At recall target 1; under inner product the second segment has rows that the first one's space couldn't hold."""
    case = make_appended(kind)
    before = stored_by_id(open_snapshot(case.index))
    with product.open(case.index, threads=1) as index:
        expected = index.search(case.queries, 10, recall_target=1.0)
        done = compact(case.index, CompactOptions(threads=1))
        # The version that was opened is there as long as somebody has it open.
        np.testing.assert_array_equal(index.search(case.queries, 10, recall_target=1.0).ids, expected.ids)
    assert done is not None
    assert (done.rows, done.segments, done.snapshot) == (OLD + NEW, 1, 3)
    assert sorted(path.name for path in case.index.iterdir()) == ONE
    snapshot = open_snapshot(case.index)
    assert stored_by_id(snapshot) == before
    assert verify_index(snapshot).problems == []
    with product.open(case.index, threads=1) as index:
        found = index.search(case.queries, 10, recall_target=1.0)
        rough = index.search(case.queries, 10, recall_target=0.9)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.distances, expected.distances)
    assert np.mean([np.isin(a, b).mean() for a, b in zip(expected.ids, rough.ids)]) > 0.87


def test_rows_can_be_added_again_and_compacted_again(make_appended):
    """The second time too, floats are what they were stored as first."""
    case = make_appended("float32-ip")
    before = stored_by_id(open_snapshot(case.index))
    compact(case.index, CompactOptions(threads=1))
    append(case.index, case.source, options_for(case))
    compact(case.index, CompactOptions(threads=1))
    after = stored_by_id(open_snapshot(case.index))
    assert {id_: after[id_] for id_ in before} == before
    assert sorted(after) == list(range(OLD + 2 * NEW))


def test_an_index_of_one_segment_is_left_alone(make_case):
    case = make_case("uint8-l2")
    before = files_of(case.index)
    ended = annserve("compact", case.index)
    assert (ended.code, ended.out) == (0, f"{case.index} has one segment: there is nothing to do\n")
    assert files_of(case.index) == before


def test_a_dry_run_says_what_it_would_take_and_does_nothing(make_appended):
    case = make_appended("float32-l2-raw")
    before = files_of(case.index)
    told = json.loads(annserve("compact", case.index, "--dry-run", "--json").out)
    assert (told["segments"], told["rows"]) == (2, OLD + NEW)
    assert files_of(case.index) == before
    assert "compacting makes one of about" in annserve("compact", case.index, "--dry-run").out
    largest = 0

    def watch(event: object) -> None:
        nonlocal largest
        largest = max(largest, sum(path.stat().st_size for path in case.index.rglob("*") if path.is_file()))

    compact(case.index, CompactOptions(threads=1), watch)
    assert open_snapshot(case.index).n_pages == pytest.approx(told["pages_after"], rel=0.1)
    assert largest - sum(map(len, before.values())) < 1.3 * told["disk_bytes"]


def test_a_disk_without_room_is_told_before_the_work(make_appended, monkeypatch):
    case = make_appended("uint8-l2")
    before = files_of(case.index)
    monkeypatch.setattr(journey, "free_bytes", lambda folder: 9_999)
    with pytest.raises(OutputError, match=r"has 9\.8 KiB free"):
        compact(case.index)
    assert files_of(case.index) == before


def test_a_damaged_page_ends_it_and_nothing_is_lost(make_appended):
    case = make_appended("float16-cosine")
    path = case.index / "segment-000002" / "pages.bin"
    content = bytearray(path.read_bytes())
    content[4_096 + 300] ^= 1
    path.write_bytes(content)
    before = files_of(case.index)
    with pytest.raises(CorruptionError, match=r"segment-000002/pages\.bin is damaged: page 0"):
        compact(case.index)
    assert files_of(case.index) == before


@pytest.mark.parametrize("moment", ["restage", "verify"])
def test_a_compaction_that_is_killed_leaves_all_segments(make_appended, moment):
    case = make_appended("uint8-l2")
    command = [*COMMAND, "compact", str(case.index), "--threads", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(moment):
                process.send_signal(signal.SIGKILL)
                break
        process.stderr.read()
    if process.returncode != 0:
        with product.open(case.index, threads=1) as index:
            assert index.info()["segments"] == 2
        assert annserve("verify", case.index).code == 0
        ended = annserve("compact", case.index, "--threads", 1)
        assert ended.out.startswith(f"compacted {case.index} into segment-000003: {OLD + NEW} rows")
    assert sorted(path.name for path in case.index.iterdir()) == ONE


def test_what_is_told_is_taken_in_place_of_what_was(make_appended):
    case = make_appended("uint8-l2")
    compact(case.index, CompactOptions(codes="none", threads=1))
    append(case.index, case.source, AppendOptions(threads=1))
    assert [segment.codes for segment in open_snapshot(case.index).segments] == [None, None]
