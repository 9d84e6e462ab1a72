"""The lookaside cache through the embedded door: no answer differs by a bit, and reads are saved."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from journeys.doors import annserve, build_index

import annserve as product
from annserve.errors import CorruptionError, InputError

DIM, ROWS = 24, 3_000
#: Room for a few tens of pages, so that what is held changes all the time.
SMALL = 320 << 10
CASES = {
    "l2": (),
    "cosine": ("--metric", "cosine"),
    "ip": ("--metric", "ip"),
    "replicas": ("--codes", "none", "--replicas", "4"),
    "raw rows": ("--rerank", "float32"),
    "codes": ("--codes", "ram", "--ram", "24B", "--metric", "cosine"),
    "segments": ("--codes", "ram", "--ram", "24B"),
}


def vectors(count: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(1).normal(0, 1, (30, DIM))
    drawn = centres[random.integers(0, 30, count)] + random.normal(0, 0.4, (count, DIM))
    drawn[: count // 20] = drawn[count // 2 : count // 2 + count // 20]  # duplicates
    return drawn.astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give an index by case; each is built once."""
    built: dict[str, Path] = {}
    place = tmp_path_factory.mktemp("lookaside")
    np.save(place / "rows.npy", vectors(ROWS, 2))
    np.save(place / "more.npy", vectors(400, 3))

    def give(case: str) -> Path:
        if case not in built:
            options = CASES[case]
            built[case] = build_index(place / "rows.npy", place / case, "--calibration-queries", "200", *options)
            if case == "segments":
                assert annserve("append", built[case], place / "more.npy", "--threads", 2).code == 0
        return built[case]

    return give


def stream(seed: int) -> np.ndarray:
    """Queries as dialogues ask them: some again, some again within rounding, some a little apart, most new."""
    random = np.random.default_rng(seed)
    new = vectors(240, 10 + seed)
    queries = [new[0]]
    for query in new[1:]:
        earlier = queries[-random.integers(1, min(len(queries), 40) + 1)]
        steps = (None, 0.0, 1e-6, 1e-4, 1e-2)
        step = steps[random.integers(0, 5)]
        queries += [query] if step is None else [query, (earlier * np.float32(1 + step)).astype(np.float32)]
    return np.array(queries)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("packed", [False, True], ids=["whole", "packed"])
@pytest.mark.parametrize("cache_bytes", [SMALL, 4 << 20])
def test_no_bit_of_an_answer_differs_and_fewer_pages_are_read(folder, case, cache_bytes, packed):
    queries = stream(0)
    grades: Counter[str] = Counter()
    read = plain = 0
    with (
        product.open(folder(case), threads=1) as off,
        product.open(folder(case), threads=1, cache_bytes=cache_bytes, cache_packed=packed) as on,
    ):
        for i, query in enumerate(queries):
            session = (b"", b"a", b"b")[i % 3]
            expected, found = off.search(query, 5), on.search(query, 5, session=session)
            np.testing.assert_array_equal(found.ids, expected.ids)
            np.testing.assert_array_equal(found.distances, expected.distances)
            (grade,) = found.stats.cache
            grades[grade] += 1
            assert (found.stats.pages_read[0] == 0) == (grade in ("repeat", "certified"))
            read, plain = read + found.stats.pages_read[0], plain + expected.stats.pages_read[0]
        assert off.search(query, 5).stats.cache == ()
        assert on.info()["ram_tiers"]["cache"] <= cache_bytes
    assert read < 0.8 * plain
    assert grades["repeat"] > 20
    assert grades["certified"] > 0
    assert grades["miss"] > 0


def test_batches_are_answered_as_single_queries_are(folder):
    """Blocks of a batch, some answers kept and others not, in one thread and in three."""
    queries = stream(1)
    with product.open(folder("l2"), threads=1) as off:
        expected = off.search(queries, 7)
    for threads, packed in ((1, False), (3, False), (3, True)):
        with product.open(folder("l2"), threads=threads, cache_bytes=SMALL, cache_packed=packed) as on:
            for part in (queries[::3], queries, queries, queries[:0], queries[:1]):
                found = on.search(part, 7)
                which = [int(np.flatnonzero((queries == query).all(axis=1))[0]) for query in part]
                np.testing.assert_array_equal(found.ids, expected.ids[which])
                np.testing.assert_array_equal(found.distances, expected.distances[which])
                assert len(found.stats.cache) == len(part)
                assert (found.stats.pages_read[found.stats.grades == 2] == 0).all()


def test_a_query_that_was_asked_before_is_answered_at_once(folder):
    with product.open(folder("cosine"), cache_bytes=SMALL) as index:
        query = vectors(1, 77)
        first, again = index.search(query, session="dialogue-17"), index.search(query, session="dialogue-17")
        assert first.stats.cache == ("miss",)
        assert again.stats.cache == ("repeat",)
        assert again.stats.pages_read[0] == again.stats.heads_visited[0] == 0
        np.testing.assert_array_equal(again.ids, first.ids)
        np.testing.assert_array_equal(again.distances, first.distances)
        bypassed = index.search(query, bypass_cache=True)
        assert bypassed.stats.cache == ()
        assert bypassed.stats.heads_visited[0] > 0


def test_what_is_still_to_be_kept_is_there_for_who_asks_for_it(folder):
    """A query's pages and answer wait for the next read; nobody sees that, and what a caller does to an answer."""
    with product.open(folder("codes"), threads=1, cache_bytes=4 << 20) as index:
        query, other = vectors(2, 79)[:, None]
        first = index.search(query)
        assert index._cache.pages.n_held == 0, "else this shows nothing"
        ids, read = first.ids.copy(), int(first.stats.pages_read[0])
        first.ids[:] = 0
        first.stats.grades[:] = 0
        near = index.search(2 * query)
        assert near.stats.cache == ("certified",)
        assert near.stats.pages_cached[0] == read
        np.testing.assert_array_equal(near.ids, ids)
        near.ids[:] = near.distances[:] = 0
        again = index.search(query)
        assert again.stats.cache == ("repeat",)
        np.testing.assert_array_equal(again.ids, ids)
        again_near = index.search(2 * query)
        assert again_near.stats.cache == ("repeat",)
        np.testing.assert_array_equal(again_near.ids, ids)
        index.search(other)
        assert index.search(other).stats.cache == ("repeat",)
        assert index.cache_counts()["repeats"] == 3


def test_a_page_in_ram_that_is_damaged_gives_no_answer(folder):
    with product.open(folder("codes"), threads=1, cache_bytes=4 << 20) as index:
        query = vectors(1, 80)
        index.search(query)
        index.cache_counts()  # keeps what is to be kept
        index._cache.pages._memory[:] ^= 1
        with pytest.raises(CorruptionError, match="its checksum is wrong"):
            index.search(2 * query)


def test_only_a_request_that_allows_it_gets_another_queries_answer(folder):
    with product.open(folder("cosine"), threads=1, cache_bytes=SMALL) as index:
        query = vectors(1, 78)
        moved = query + np.float32(0.02)
        first = index.search(query)
        found = index.search(moved, approximate_cosine=0.9)
        assert found.stats.cache == ("approximate",)
        np.testing.assert_array_equal(found.ids, first.ids)
        assert index.search(moved).stats.cache != ("approximate",)
        with pytest.raises(InputError, match="approximate_cosine is"):
            index.search(query, approximate_cosine=1.5)
        with pytest.raises(InputError, match="session has 1048576 bytes"):
            index.search(query, session="x" * (1 << 20))


def test_a_new_version_is_not_answered_from_the_old_ones_cache(folder, tmp_path):
    """Who has the old version open keeps its answers; who opens the new one begins anew."""
    place = tmp_path / "index"
    np.save(tmp_path / "rows.npy", vectors(600, 4))
    np.save(tmp_path / "more.npy", vectors(5, 5))
    build_index(tmp_path / "rows.npy", place, "--calibration-queries", "100")
    query = np.load(tmp_path / "more.npy")[:1]
    with product.open(place, threads=1, cache_bytes=SMALL) as old:
        before = old.search(query, 1)
        assert annserve("append", place, tmp_path / "more.npy", "--threads", 2).code == 0
        with product.open(place, threads=1, cache_bytes=SMALL) as new:
            after = new.search(query, 1)
            assert after.stats.cache == ("miss",)
            assert after.distances[0, 0] < before.distances[0, 0]
            assert old.search(query, 1).stats.cache == ("repeat",)
            assert old.search(query, 1).ids[0, 0] == before.ids[0, 0]


def test_versions_published_under_running_look_ups_answer_for_themselves(tmp_path):
    """Threads search what is current, repeats and all; each answer is that of the version that was asked."""
    place = tmp_path / "index"
    np.save(tmp_path / "rows.npy", vectors(600, 4))
    build_index(tmp_path / "rows.npy", place, "--calibration-queries", "100")
    queries = vectors(30, 6)
    versions = [product.open(place, threads=1, cache_bytes=SMALL)]
    answers: list[list[tuple[int, int, np.ndarray, np.ndarray]]] = [[] for _ in range(4)]
    done = threading.Event()

    def look_up(mine: list[tuple[int, int, np.ndarray, np.ndarray]]) -> None:
        random = np.random.default_rng()
        while not done.is_set():
            version, i = len(versions) - 1, int(random.integers(len(queries)))
            found = versions[version].search(queries[i], 3, session="s")
            mine.append((version, i, found.ids[0], found.distances[0]))

    threads = [threading.Thread(target=look_up, args=(mine,)) for mine in answers]
    for thread in threads:
        thread.start()
    try:
        # The new version has a nearer row for every query.
        np.save(tmp_path / "more.npy", queries + np.float32(0.01))
        assert annserve("append", place, tmp_path / "more.npy", "--threads", 1).code == 0
        versions.append(product.open(place, threads=1, cache_bytes=SMALL))
        time.sleep(0.5)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    expected = [version.search(queries, 3, bypass_cache=True) for version in versions]
    seen: Counter[int] = Counter()
    for version, i, ids, distances in (one for mine in answers for one in mine):
        np.testing.assert_array_equal(ids, expected[version].ids[i])
        np.testing.assert_array_equal(distances, expected[version].distances[i])
        seen[version] += 1
    assert sorted(seen) == [0, 1]
    assert (expected[0].ids[:, 0] != expected[1].ids[:, 0]).all()
    assert all(version.cache_counts()["repeats"] > 0 for version in versions)
    for version in versions:
        version.close()


def test_a_cache_too_small_for_a_page_is_refused(folder):
    with pytest.raises(InputError, match="give at least") as caught:
        product.open(folder("l2"), cache_bytes=1_000)
    assert caught.value.field == "cache_bytes"


def test_sixteen_threads_share_a_cache_and_get_the_answers_without_one(folder):
    queries = stream(2)
    with product.open(folder("l2"), threads=1) as off:
        expected = off.search(queries, 5)
    wrong: list[int] = []
    with product.open(folder("l2"), threads=1, cache_bytes=SMALL) as on:

        def work(seed: int) -> None:
            random = np.random.default_rng(seed)
            for i in (len(queries) * random.random(120) ** 2).astype(int).tolist():
                found = on.search(queries[i], 5, session=b"%d" % (seed % 3))
                same = (found.ids == expected.ids[i]).all() and (found.distances == expected.distances[i]).all()
                wrong.extend([] if same else [i])

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_packed_pages_make_room_for_more(folder):
    """A cache of a few pages, asked for more of them than it holds whole."""
    queries, n_bytes, read = stream(2), 60 << 10, []
    for packed in (False, True):
        with product.open(folder("codes"), threads=1, cache_bytes=n_bytes, cache_packed=packed) as on:
            found = [on.search(query, 5, bypass_cache=True).stats.pages_read[0] for query in queries]
            assert on.info()["ram_tiers"]["cache"] <= n_bytes
        read.append(sum(found))
    assert read[1] < 0.95 * read[0]
