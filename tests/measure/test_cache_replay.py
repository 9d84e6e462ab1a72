"""Caches that are replayed: known streams, relations between policies, and traces that were recorded or broken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journeys.doors import annserve, build_index

import annserve as product
from annserve.errors import InputError, NotFoundError
from annserve.measure.cache_policies import POLICIES, Stream
from annserve.measure.cache_trace import CacheTrace, answered, predictions, read_trace


def stream(pages: list[int], bits: list[int] | None = None) -> Stream:
    """One page a query, and nobody in particular asks."""
    return Stream(pages, bits or [0] * len(pages), range(len(pages) + 1), [0] * len(pages))


@given(
    asked=st.lists(st.integers(0, 12), max_size=120),
    size=st.integers(2, 8),
    seed=st.integers(0, 9),
)
@settings(max_examples=60)
def test_no_policy_misses_less_than_belady_or_more_than_all(asked, size, seed):
    """Whatever the bits say; and every page is missed when it is asked for the first time."""
    bits = np.random.default_rng(seed).integers(0, 2, len(asked)).tolist()
    misses = {name: policy(stream(asked, bits), size) for name, policy in POLICIES.items()}
    assert min(misses.values()) == misses["belady"]
    assert len(set(asked)) <= misses["belady"]
    assert max(misses.values()) <= len(asked)


def test_policies_do_what_the_literature_says_of_a_loop():
    """A loop one page longer than the cache: LRU misses always, Belady's optimum in one of so many."""
    asked = list(range(11)) * 40
    misses = {name: policy(stream(asked), 10) for name, policy in POLICIES.items()}
    assert misses["lru"] == misses["clock"] == len(asked)
    assert misses["belady"] < 60


@pytest.mark.parametrize(("name", "share"), [("discard", 0.9), ("phase", 0.95)])
def test_true_bits_help_and_false_ones_cost_little(name, share):
    """Pages that never return among ones that always do: the bit tells them apart, or lies."""
    random = np.random.default_rng(2)
    asked, bits = [], []
    for i in range(6_000):
        once = i % 2
        asked.append(100 + i if once else int(random.integers(0, 30)))
        bits.append(once)
    plain = POLICIES["lru"](stream(asked, bits), 32)
    assert POLICIES[name](stream(asked, bits), 32) < share * plain
    assert POLICIES[name](stream(asked, [1 - bit for bit in bits]), 32) < 1.15 * plain


def test_answers_are_kept_from_the_second_time_on():
    first = np.array([0, 0, 0, 3, 3, 0, 3], np.int64)
    nothing = np.zeros(0, np.uint32)
    trace = CacheTrace(nothing, nothing.astype(np.uint8), np.zeros(8, np.int64), first, first, 10, 4_096)
    assert answered(trace, 2).tolist() == [False, False, True, False, False, True, True]
    assert answered(trace, 1).tolist() == [False, False, True, False, False, False, False]
    assert not answered(trace, 0).any()


def test_a_trace_holds_the_pages_that_searches_read(tmp_path: Path):
    """Recorded by one command, replayed by another; in another order it is the same queries."""
    random = np.random.default_rng(6)
    np.save(tmp_path / "rows.npy", random.normal(size=(1_500, 16)).astype(np.float32))
    queries = random.normal(size=(40, 16)).astype(np.float32)[random.integers(0, 40, 90)]
    np.save(tmp_path / "queries.npy", queries)
    index = build_index(tmp_path / "rows.npy", tmp_path / "index", "--calibration-queries", "100", "--rerank", "none")
    sessions = np.repeat(np.array([7, 3, 7], np.int32), 30)
    np.save(tmp_path / "sessions.npy", sessions)
    vectors = (index, tmp_path / "queries.npy", "--sessions", tmp_path / "sessions.npy")
    ended = annserve("bench", "trace", *vectors, "--out", tmp_path / "trace.npz")
    assert ended.code == 0, ended.err
    trace = read_trace(tmp_path / "trace.npz")
    with product.open(index, threads=1) as opened:
        np.testing.assert_array_equal(np.diff(trace.offsets), opened.search(queries).stats.pages_read)
    assert all((queries[i] == queries[first]).all() for i, first in enumerate(trace.first))
    assert all(
        sorted(ranks.tolist()) == list(range(len(ranks))) for ranks in np.split(trace.ranks, trace.offsets[1:-1])
    )
    assert len(predictions(trace)) == len(trace.pages)
    assert trace.sessions.tolist() == [2] * 30 + [1] * 30 + [2] * 30
    order = random.permutation(90)
    other = trace.reordered(order)
    for i, query in enumerate(order.tolist()):
        pages = trace.pages[trace.offsets[query] : trace.offsets[query + 1]]
        np.testing.assert_array_equal(other.pages[other.offsets[i] : other.offsets[i + 1]], pages)
        assert (queries[order[other.first[i]]] == queries[query]).all()
        assert other.sessions[i] == trace.sessions[query]
    np.save(tmp_path / "sessions.npy", sessions[1:])
    assert "90 queries" in annserve("bench", "trace", *vectors, "--out", tmp_path / "none.npz").error
    ended = annserve("bench", "trace", *vectors, "--out", tmp_path / "nowhere" / "trace.npz")
    assert (ended.code, "create the folder" in ended.error) == (2, True)
    ended = annserve("bench", "cache", tmp_path / "trace.npz", "--share", "0.2", "--json")
    assert ended.code == 0, ended.err
    (record,) = json.loads(ended.out)
    assert set(record["missed"]) == set(POLICIES)
    assert record["missed"]["belady"] == min(record["missed"].values())
    assert 0 < record["repeats"] < 1
    assert "belady" in annserve("bench", "cache", tmp_path / "trace.npz").out


@pytest.mark.parametrize("share", ["0", "1.5", "many", "0.1,,"])
def test_a_share_that_cannot_be_is_refused(tmp_path, share):
    assert "--share is" in annserve("bench", "cache", tmp_path / "none.npz", "--share", share).error


def test_what_is_no_trace_is_refused(tmp_path: Path):
    with pytest.raises(NotFoundError, match="bench trace"):
        read_trace(tmp_path / "none.npz")
    (tmp_path / "noise.npz").write_bytes(b"no archive")
    good = {
        "pages": np.array([1, 2], np.uint32),
        "ranks": np.array([0, 1], np.uint8),
        "offsets": np.array([0, 2], np.int64),
        "first": np.array([0], np.int64),
        "sessions": np.array([0], np.int64),
        "n_pages": np.array(3),
        "page_bytes": np.array(4_096),
    }
    np.savez(tmp_path / "good.npz", **good)
    assert len(read_trace(tmp_path / "good.npz")) == 1
    bad = [
        {"pages": np.array([1, 3], np.uint32)},
        {"offsets": np.array([0, 3], np.int64)},
        {"first": np.array([1], np.int64)},
        {"sessions": np.array([0, 0], np.int64)},
        {"ranks": np.array([0], np.uint8)},
        {"pages": np.array([1.0, 2.0])},
        {"n_pages": np.array([3, 4])},
    ]
    for i, change in enumerate(bad):
        np.savez(tmp_path / f"bad{i}.npz", **(good | change))
    for name in ("noise", *(f"bad{i}" for i in range(len(bad)))):
        with pytest.raises(InputError, match="no trace"):
            read_trace(tmp_path / f"{name}.npz")
