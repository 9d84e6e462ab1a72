"""Answers that are kept: the right one or none, for the right asker, within the bound, whoever writes meanwhile."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.lookaside import PlainAnswers

from annserve.errors import InputError
from annserve.lookaside import store_kernels
from annserve.lookaside.lookaside import Lookaside
from annserve.lookaside.store import BYTES_LEAST
from annserve.pages.rows import quantize_queries
from annserve.spec import IndexSpec, check_cosine, check_session

SPEC = IndexSpec(4, "float32", "l2")


def keep(cache: Lookaside, queries: np.ndarray, k: int, *, salt: int = 0, **named: bytes) -> np.ndarray:
    """Let a cache have answers that follow from the queries, and give their ids."""
    asked = cache.ask(queries, k, 0.95, **named)
    ids = answer_of(queries, k, salt)
    none = np.zeros(len(queries), np.int64)
    asked.remember(quantize_queries(queries), ids, ids / 8, none + 3, none, None)
    return ids


def answer_of(queries: np.ndarray, k: int, salt: int = 0) -> np.ndarray:
    first = (queries[:, 0] * 4_096).astype(np.uint64)
    return first[:, None] + np.arange(k, dtype=np.uint64) + np.uint64(salt)


@given(
    n_bytes=st.integers(BYTES_LEAST, 60_000),
    k=st.sampled_from([1, 2, 7, 10, 100, 400]),
    skew=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40)
def test_what_is_found_is_what_was_kept_last(n_bytes, k, skew, seed):
    """Long streams over small rings: records go, wrap at the end and go round, and answers change under their keys."""
    random = np.random.default_rng(seed)
    cache, plain = Lookaside(n_bytes, SPEC), PlainAnswers()
    found = 0
    for turn in range(400):
        numbers = (300 * random.random(random.integers(1, 4)) ** skew).astype(np.int64)
        queries = np.stack([numbers, numbers + 1, numbers, numbers], axis=1).astype(np.float32)
        asked = cache.ask(queries, k, 0.95)
        for i in np.flatnonzero(asked.found):
            assert (asked.ids[i].tolist(), asked.distances[i].tolist()) == plain.find(queries[i])
        assert (asked.grades == np.where(asked.found, 2, 1)).all()
        found += asked.n_found
        left = np.unique(queries[~asked.found], axis=0)
        if len(left):
            ids = keep(cache, left, k, salt=turn)
            for query, its in zip(left, ids):
                plain.keep(query, its, its / 8)
    assert cache.ram_bytes <= n_bytes
    assert found > 0 or k >= 100


def test_an_answer_that_was_asked_for_twice_outlives_a_flood_of_others():
    cache = Lookaside(200_000, SPEC)
    popular = np.full((1, 4), 0.5, np.float32)
    for _ in range(3):
        if not cache.ask(popular, 10, 0.95).n_found:
            keep(cache, popular, 10)
    for i in range(20_000):
        keep(cache, np.full((1, 4), i + 1, np.float32), 10)
        if i % 300 == 0:
            assert cache.ask(popular, 10, 0.95).n_found == 1, i
    assert cache.counts["evictions"] > 10_000


def test_an_answer_serves_its_tenant_k_target_and_type_alone():
    cache = Lookaside(100_000, SPEC)
    query = np.ones((1, 4), np.float32)
    keep(cache, query, 10, tenant=b"a")
    assert cache.ask(query, 10, 0.95, tenant=b"a").n_found == 1
    assert cache.ask(query, 10, 0.95, tenant=b"a", session=b"s").n_found == 1
    for tenant in (b"", b"b", b"a\x00", b"a'"):
        assert cache.ask(query, 10, 0.95, tenant=tenant).n_found == 0
    assert cache.ask(query, 9, 0.95, tenant=b"a").n_found == 0
    assert cache.ask(query, 10, 0.96, tenant=b"a").n_found == 0
    assert cache.ask(query.view(np.int32).view(np.float32) * -1, 10, 0.95, tenant=b"a").n_found == 0
    assert cache.ask(query.view(np.uint8), 10, 0.95, tenant=b"a").n_found == 0
    assert Lookaside(100_000, SPEC).ask(query, 10, 0.95, tenant=b"a").n_found == 0


def test_a_million_sessions_take_no_more_memory_than_one():
    cache = Lookaside(100_000, SPEC)
    before = cache.ram_bytes
    for i in range(3_000):
        keep(cache, np.full((1, 4), i, np.float32), 10, session=b"%d" % i)
    assert cache.ram_bytes == before <= 100_000


def test_a_flood_of_one_session_leaves_the_others_what_they_asked_lately():
    """Of two sessions that ask one query for a hundred of a third, what they asked first is answered to the end."""
    cache = Lookaside(200_000, SPEC)
    flood, *quiet = sessions_of_their_own(cache, 3)
    asked = [np.arange(8, dtype=np.float32)[:, None] + np.full(4, 100 * turn, np.float32) for turn in (1, 2)]
    for name, queries in zip(quiet, asked):
        keep(cache, queries, 10, session=name)
    for i in range(2_000):
        keep(cache, np.full((1, 4), 1_000 + i, np.float32), 10, session=flood)
        if i % 100 == 0:
            for turn, name in enumerate(quiet):
                keep(cache, np.full((1, 4), -2 * i - turn - 1, np.float32), 10, session=name)
    assert cache.counts["evictions"] > 1_500
    for name, queries in zip(quiet, asked):
        assert cache.ask(queries, 10, 0.95, session=name).n_found == 8


def sessions_of_their_own(cache: Lookaside, count: int) -> list[bytes]:
    """Give names of sessions of which no two share a number."""
    found: dict[int, bytes] = {}
    for i in range(1_000):
        name = b"%d" % i
        marks = cache._kind(b"", name, 10, 0.95, "f").marks
        found.setdefault(int(marks[2] % np.uint64(cache.store.active.shape[1])), name)
    return list(found.values())[:count]


def test_a_flood_of_a_thousand_sessions_takes_one_that_asks_no_more_its_place():
    cache = Lookaside(200_000, SPEC)
    old = np.full((1, 4), 0.5, np.float32)
    keep(cache, old, 10, session=b"a")
    for i in range(3_000):
        keep(cache, np.full((1, 4), 1_000 + i, np.float32), 10, session=b"%d" % i)
    assert cache.ask(old, 10, 0.95, session=b"a").n_found == 0


def test_an_answer_too_large_for_the_cache_is_not_kept():
    cache = Lookaside(BYTES_LEAST, SPEC)
    query = np.ones((1, 4), np.float32)
    keep(cache, query, 1_000)
    assert cache.ask(query, 1_000, 0.95).n_found == 0


def test_sixteen_threads_never_see_half_an_answer():
    """Rings so small that records are overwritten while others copy them; each answer follows from its query."""
    cache = Lookaside(BYTES_LEAST, SPEC)
    wrong: list[object] = []
    hits = [0] * 16

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(1_500):
            numbers = np.floor(60 * random.random(4) ** 3).astype(np.float32)
            queries = np.repeat(numbers[:, None], 4, axis=1)
            asked = cache.ask(queries, 20, 0.95)
            expected = answer_of(queries, 20)
            good = (asked.ids == expected).all(axis=1) & (asked.distances == expected / 8).all(axis=1)
            wrong.extend(queries[asked.found & ~good].tolist())
            hits[seed] += asked.n_found
            keep(cache, queries[~asked.found], 20)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert min(hits) > 0
    assert cache.store.header[store_kernels.LOCK] == 0


def test_who_finds_the_key_taken_goes_without_and_does_not_wait():
    cache = Lookaside(100_000, SPEC)
    query = np.ones((1, 4), np.float32)
    cache.store.header[store_kernels.LOCK] = 1
    keep(cache, query, 10)
    assert cache.ask(query, 10, 0.95).n_found == 0
    cache.store.header[store_kernels.LOCK] = 0
    keep(cache, query, 10)
    cache.store.header[store_kernels.LOCK] = 1
    assert cache.ask(query, 10, 0.95).n_found == 1


def test_records_lie_where_their_picture_says():
    """The words of a record are counted once, in the module's docstring."""
    assert store_kernels.near_offset(10) == 7 + 10 + 5
    assert store_kernels.near_words(384, 6) == 5 + 48 + 6


@pytest.mark.parametrize("name", [b"x" * 129, "é" * 65, "x" * (1 << 20)])
def test_a_session_of_too_long_a_name_is_refused(name):
    with pytest.raises(InputError, match="at most 128") as caught:
        check_session(name)
    assert caught.value.field == "session"


@pytest.mark.parametrize("name", [17, None, [1, 2]])
def test_a_session_is_named_by_text_or_bytes(name):
    """Python makes 17 zero bytes of 17."""
    with pytest.raises(InputError, match="give text or bytes") as caught:
        check_session(name)
    assert caught.value.field == "session"


@pytest.mark.parametrize("cosine", [0.0, 0.49, 1.01, -1.0, float("nan"), float("inf"), "0.9"])
def test_a_cosine_outside_its_range_is_refused(cosine):
    with pytest.raises(InputError, match=r"between 0\.5 and 1") as caught:
        check_cosine(cosine)
    assert caught.value.field == "approximate_cosine"
