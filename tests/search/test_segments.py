"""Several segments answer as one index would: the k nearest of all, whichever of them holds how many."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import annserve
from annserve.build.pipeline import build
from annserve.design.options import BuildOptions
from annserve.errors import CorruptionError, DeadlineError, ReadError
from annserve.index.manifest import read_current
from annserve.index.publish import publish
from annserve.index.snapshot import open_snapshot
from annserve.report.verify import verify_index
from annserve.results import SearchStats
from annserve.search.block import BlockResult, merged
from annserve.search.segments import planned_of, surprise_of

DIM, COUNTS = 16, (900, 500, 40)
METRICS = {"l2": np.uint8, "ip": np.float32, "cosine": np.float32}


def vectors(rng: np.random.Generator, count: int, dtype: type) -> np.ndarray:
    rows = rng.integers(20, 230, (12, DIM))[rng.integers(0, 12, count)] + rng.normal(0, 20, (count, DIM))
    return rows.clip(0, 255).astype(dtype)


def join(folder: Path, indexes: list[Path]) -> Path:
    """Give one index with the segments of several."""
    folder.mkdir()
    manifest = None
    for number, index in enumerate(indexes, 1):
        one = read_current(index)
        entry = replace(one.segments[0], name=f"segment-{number:06}")
        shutil.copytree(index / one.segments[0].name, folder / entry.name)
        manifest = replace(one, segments=(entry,)) if manifest is None else manifest.extended(entry, one.norm_max)
    assert manifest is not None
    publish(folder, manifest)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give a folder by metric: rows, ids and indexes of three parts, and ``joined``, which has them as segments."""
    places: dict[str, Path] = {}

    def make(metric: str) -> Path:
        if metric in places:
            return places[metric]
        place = places[metric] = tmp_path_factory.mktemp(metric)
        rng = np.random.default_rng(11)
        first = 0
        for part, count in enumerate(COUNTS):
            # Under inner product, rows of each part are longer than those before: its index space is another.
            np.save(place / f"rows{part}.npy", vectors(rng, count, METRICS[metric]) * METRICS[metric](1 + part % 2))
            np.save(place / f"ids{part}.npy", np.arange(first, first + count)[::-1])
            options = BuildOptions(
                metric=metric, ids=place / f"ids{part}.npy", ram="100%", calibration_queries=150, threads=1, seed=part
            )
            build(place / f"rows{part}.npy", place / f"index{part}", options)
            first += count
        join(place / "joined", [place / f"index{part}" for part in range(len(COUNTS))])
        return place

    return make


@pytest.fixture(scope="module")
def place(folder: Callable[[str], Path]) -> Path:
    return folder("l2")


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return vectors(np.random.default_rng(3), 60, np.uint8)


def union(place: Path, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Give the k nearest of what each part answers alone, with every page read."""
    ids, distances = [], []
    for part, count in enumerate(COUNTS):
        with annserve.open(place / f"index{part}", threads=1) as index:
            found = index.search(queries, min(k, count), recall_target=1.0)
        ids.append(found.ids)
        distances.append(found.distances)
    every_id, every = np.concatenate(ids, axis=1), np.concatenate(distances, axis=1)
    order = np.lexsort((every_id, every), axis=1)[:, :k]
    return np.take_along_axis(every_id, order, axis=1), np.take_along_axis(every, order, axis=1)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 10, 300])
def test_at_recall_1_the_answer_is_that_of_all_rows(folder, queries, metric, k):
    place = folder(metric)
    ids, distances = union(place, queries, k)
    with annserve.open(place / "joined", threads=2) as index:
        found = index.search(queries, k, recall_target=1.0)
    np.testing.assert_array_equal(found.distances, distances)
    np.testing.assert_array_equal(found.ids, ids)


def test_whole_numbers_are_found_as_by_brute_force(place, queries):
    rows = np.concatenate([np.load(place / f"rows{part}.npy") for part in range(3)]).astype(np.int64)
    ids = np.concatenate([np.load(place / f"ids{part}.npy") for part in range(3)])
    distances = ((queries[:, None].astype(np.int64) - rows) ** 2).sum(axis=2)
    order = np.array([np.lexsort((ids, row))[:10] for row in distances])
    with annserve.open(place / "joined", threads=1) as index:
        np.testing.assert_array_equal(index.search(queries, 10, recall_target=1.0).ids, ids[order])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("target", [0.8, 0.95])
def test_recall_is_what_was_asked_for(folder, queries, metric, target):
    place = folder(metric)
    with annserve.open(place / "joined", threads=1) as index:
        right = index.search(queries, 10, recall_target=1.0).ids
        found = index.search(queries, 10, recall_target=target)
        assert found.stats.pages_read.mean() < 0.8 * index.info()["pages"]
    assert np.mean([np.isin(a, b).mean() for a, b in zip(right, found.ids)]) > target - 0.03
    assert (np.diff(found.distances.astype(np.float64), axis=1) >= 0).all()


@pytest.mark.parametrize("target", [0.8, 1.0])
def test_every_row_can_be_asked_for(place, queries, target):
    with annserve.open(place / "joined", threads=1) as index:
        found = index.search(queries[:2], 1_000, recall_target=target)
    assert all(len(np.unique(ids)) == 1_000 for ids in found.ids)


def test_a_query_whose_neighbours_lie_in_the_smallest_segment_finds_them(tmp_path):
    """A tenth of the rows is first asked for 5 of 50 results; here it holds all of them. Asked once it gives 0.72."""
    rng = np.random.default_rng(5)
    indexes = []
    for part, (count, place) in enumerate(((3_600, 200), (400, 60))):
        rows = place + rng.normal(0, 30, (20, 100))[rng.integers(0, 20, count)] + rng.normal(0, 15, (count, 100))
        np.save(tmp_path / f"{part}.npy", rows.clip(0, 255).astype(np.uint8))
        np.save(tmp_path / f"ids{part}.npy", 10_000 * part + np.arange(count))
        options = BuildOptions(ids=tmp_path / f"ids{part}.npy", ram="60%", codes="none", threads=1)
        build(tmp_path / f"{part}.npy", tmp_path / f"index{part}", options)
        indexes.append(tmp_path / f"index{part}")
    with annserve.open(join(tmp_path / "joined", indexes), threads=1) as index:
        queries = rows[:40].clip(0, 255).astype(np.uint8)
        right = index.search(queries, 50, recall_target=1.0).ids
        found = index.search(queries, 50, recall_target=0.95)
    assert (right >= 10_000).all()
    assert np.mean([np.isin(a, b).mean() for a, b in zip(right, found.ids)]) > 0.88


def test_reads_of_all_segments_are_in_flight_together(place, queries, monkeypatch):
    told: list[str] = []
    with annserve.open(place / "joined", threads=1) as index:
        expected = index.search(queries[:4], 5)

        def watch(name: str, reader: object) -> object:
            real = reader.start

            def start(*arguments: object) -> object:
                told.append(f"start {name}")
                pending = real(*arguments)
                finish = pending.finish
                monkeypatch.setattr(pending, "finish", lambda: (told.append(f"finish {name}"), finish())[1])
                return pending

            monkeypatch.setattr(reader, "start", start)

        for name, engine in zip("abc", index._engine.engines):
            watch(name, engine.reader)
        found = index.search(queries[:4], 5)
    np.testing.assert_array_equal(found.ids, expected.ids)
    assert told[:6] == ["start a", "start b", "start c", "finish a", "finish b", "finish c"]


def test_a_segment_that_fails_ends_the_search_and_the_next_one_works(place, queries, monkeypatch):
    with annserve.open(place / "joined", threads=1) as index:
        expected = index.search(queries, 5).ids
        reader = index._engine.engines[1].reader
        with monkeypatch.context() as patch:

            def start(*arguments: object) -> object:
                raise ReadError("the device fails at byte 4096")

            patch.setattr(reader, "start", start)
            with pytest.raises(ReadError, match="byte 4096"):
                index.search(queries, 5)
        np.testing.assert_array_equal(index.search(queries, 5).ids, expected)
        with pytest.raises(DeadlineError):
            index.search(queries, 5, deadline=time.monotonic() - 1)


@pytest.mark.parametrize("packed", [False, True], ids=["whole", "packed"])
def test_segments_share_one_page_cache(place, queries, packed):
    with (
        annserve.open(place / "joined", threads=1) as index,
        annserve.open(place / "joined", threads=1, cache_bytes="400KB", cache_packed=packed) as cached,
    ):
        for _ in range(3):
            expected, found = index.search(queries, 5), cached.search(queries, 5, bypass_cache=True)
            np.testing.assert_array_equal(found.ids, expected.ids)
            pages = found.stats.pages_read + found.stats.pages_cached
            np.testing.assert_array_equal(pages, expected.stats.pages_read)
        assert found.stats.pages_read.sum() < 0.2 * pages.sum()
        assert cached.info()["ram_tiers"]["cache"] <= 400 << 10


def test_facts_are_those_of_all_segments(place):
    parts = []
    for part in range(3):
        with annserve.open(place / f"index{part}", threads=1) as index:
            parts.append(index.info())
    with annserve.open(place / "joined", threads=1) as index:
        info = index.info()
        assert index.pages_predicted(10, 1.0) == info["pages"]
        assert 3 < index.pages_predicted(10, 0.95) < info["pages"]
        assert list(index.reports) == ["segment-000001", "segment-000002", "segment-000003"]
    for name in ("count", "heads", "pages", "ram_bytes", "disk_bytes", "build_seconds"):
        assert info[name] == pytest.approx(sum(part[name] for part in parts)), name
    assert info["segments"] == 3
    assert info["page_fill"] == pytest.approx(sum(COUNTS) / (info["pages"] * info["page_capacity"]))


@pytest.mark.parametrize("target", [0.9, 1.0])
def test_explain_tells_of_each_segment_what_it_brought(place, queries, target):
    with annserve.open(place / "joined", threads=1) as index:
        answer = index.search(queries[:1], 10, recall_target=target)
        told = index.explain(queries[0], 10, recall_target=target)
    assert [one.ids for one in told] == [answer.ids[0].tolist()] * 3
    assert sum(page.hits for one in told for page in one.pages) == 10
    assert sum(one.k for one in told) >= 10


def test_verify_names_the_segment_that_is_damaged(place, tmp_path):
    whole = verify_index(open_snapshot(place / "joined"))
    assert (whole.rows, whole.problems) == (sum(COUNTS), [])
    copy = Path(shutil.copytree(place / "joined", tmp_path / "copy"))
    path = copy / "segment-000002" / "pages.bin"
    content = bytearray(path.read_bytes())
    content[2 * 4_096 + 100] ^= 1
    path.write_bytes(content)
    found = verify_index(open_snapshot(copy))
    assert len(found.problems) == 2  # the page, and its rows
    assert all(problem.startswith("segment-000002: ") for problem in found.problems)


def test_verify_finds_a_row_that_is_in_two_segments(place, tmp_path):
    folder = join(tmp_path / "twice", [place / "index2", place / "index0", place / "index2"])
    assert verify_index(open_snapshot(folder)).problems == [
        "segment-000003: 40 rows, 1400 first, are in an older segment too"
    ]


def test_a_reader_that_comes_while_a_version_goes_opens_the_next_one(place, tmp_path, monkeypatch):
    """The files of the version that CURRENT named are removed between the two looks at the folder."""
    from annserve.index import snapshot

    copy = Path(shutil.copytree(place / "joined", tmp_path / "copy"))
    manifest = read_current(copy)
    real = snapshot.open_segment
    entry = manifest.segments[0]

    def opened(*arguments: object) -> object:
        if (copy / "segment-000002").exists():
            publish(copy, replace(manifest, snapshot=manifest.snapshot + 1, segments=(entry,), norm_max=1.0))
            shutil.rmtree(copy / "segment-000002")
            (copy / "manifest-000003.json").unlink()
        return real(*arguments)

    monkeypatch.setattr(snapshot, "open_segment", opened)
    with annserve.open(copy, threads=1) as index:
        assert index.n_rows == COUNTS[0]
    shutil.rmtree(copy / "segment-000001")
    with pytest.raises(CorruptionError, match=r"codes\.bin is missing"):
        annserve.open(copy)


def part_of(distances: list[list[float]], first_id: int) -> BlockResult:
    array = np.sort(np.array(distances, np.float64), axis=1)
    ids = np.arange(array.size, dtype=np.uint64).reshape(array.shape) + np.uint64(first_id)
    counts = np.full((len(SearchStats.COUNTS), len(array)), first_id + 1)
    return BlockResult(ids, array, np.zeros(len(array), bool), np.zeros(len(array), bool), counts, {"read": 1.0})


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    n_queries=st.integers(1, 3),
    data=st.data(),
)
def test_merging_gives_the_nearest_of_all_parts(lengths, n_queries, data):
    """Few different distances, so that ties are met; they go by id."""
    number = st.integers(0, 3).map(float)
    parts = [
        part_of(
            data.draw(st.lists(st.lists(number, min_size=n, max_size=n), min_size=n_queries, max_size=n_queries)), at
        )
        for at, n in zip((100, 0, 300, 200), lengths)
    ]
    k = data.draw(st.integers(1, sum(lengths)))
    found = merged(parts, k)
    for query in range(n_queries):
        pairs = [(d, int(i)) for part in parts for d, i in zip(part.distances[query], part.ids[query])]
        assert list(zip(found.distances[query], found.ids[query].tolist())) == sorted(pairs)[:k]
    assert (found.counts == sum(part.counts[0, 0] for part in parts)).all()
    assert found.counts.shape == (len(SearchStats.COUNTS), n_queries)
    assert found.seconds == {"read": float(len(parts))}


@given(rows=st.lists(st.integers(1, 10_000), min_size=2, max_size=6), k=st.integers(1, 1_000))
def test_segments_are_asked_for_more_than_k_in_all(rows, k):
    shares = tuple(n / sum(rows) for n in rows)
    planned = planned_of(k, shares)
    assert sum(planned) > k
    assert all(k * share <= n + 1e-3 and n <= k * share + 2 for share, n in zip(shares, planned))
    assert all(1 <= surprise_of(k, share) <= k for share in shares)


def test_a_surprise_is_what_one_query_in_ten_would_hold_at_most():
    rng = np.random.default_rng(1)
    for k, share in ((10, 0.5), (10, 0.1), (100, 0.3)):
        held = rng.binomial(k, share, 100_000)
        at = surprise_of(k, share)
        assert (held >= at).mean() <= 0.105
        assert (held >= at - 1).mean() > 0.1
