"""Each way to be wrong shows in the numbers, and shows as what it is."""

from __future__ import annotations

import os

import broken_targets as broken
import numpy as np
import pytest

from annserve.measure.counters import Usage, usage_now
from annserve.measure.runner import Load, run_loads
from annserve.measure.summary import summarize
from annserve.measure.truth import check_truth
from annserve.results import SearchStats

K = 10
FAULTS = ("answers_padded", "answers_repeated_id", "answers_unordered", "answers_changed")
N_QUERIES = 60


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(3)
    return rng.integers(0, 256, (200, 6), dtype=np.uint8), rng.integers(0, 256, (N_QUERIES, 6), dtype=np.uint8)


@pytest.fixture(scope="module")
def truth(vectors):
    base, queries = (array.astype(np.int64) for array in vectors)
    distances = ((queries[:, None] - base) ** 2).sum(axis=2)
    ids = np.argsort(distances, axis=1, kind="stable")[:, :30]
    return check_truth(ids, np.take_along_axis(distances, ids, axis=1), n_queries=N_QUERIES, k=K)


@pytest.fixture
def measured(vectors, truth):
    base, queries = vectors

    def measure(kind, threads=1, repetitions=2):
        load = Load(0.95, threads)
        passes = run_loads(kind(base), queries, [load], k=K, repetitions=repetitions)
        return summarize(load, passes[load], truth, k=K)

    return measure


def test_a_right_target_is_found_right(measured):
    record = measured(broken.ExactTarget, threads=2)
    assert record["recall_10_at_10"] == record["recall_p5"] == record["recall_1_at_1"] == 1
    assert (record["recall_target"], record["threads"]) == (0.95, 2)
    assert [record[name] for name in FAULTS] == [0, 0, 0, 0]
    assert (record["pages_read_mean"], record["reads_mean"]) == (3, 2)
    assert record["bytes_read_mean"] == record["bytes_read_p99"] == 3 * broken.PAGE_BYTES


def test_answers_of_other_queries_lose_their_recall(measured):
    assert measured(broken.ShuffledQueries)["recall_10_at_10"] < 0.5


def test_shuffled_ranks_keep_recall_but_are_unordered(measured):
    record = measured(broken.ShuffledRanks)
    assert record["recall_10_at_10"] == 1
    assert record["answers_unordered"] >= 0.99 * 2 * N_QUERIES


def test_ids_beside_the_wrong_distances_lose_the_first_place(measured):
    record = measured(broken.ShuffledIds)
    assert record["recall_10_at_10"] == 1
    assert record["answers_unordered"] == 0
    assert record["recall_1_at_1"] < 0.5


def test_one_wrong_id_in_a_hundred_costs_one_point_of_recall(measured):
    record = measured(broken.OnePercentWrong)
    assert record["recall_10_at_10"] == pytest.approx(0.99)
    assert record["recall_p5"] == pytest.approx(0.9)


@pytest.mark.parametrize("kind", [broken.Padded, broken.Narrow])
def test_missing_results_are_missed(measured, kind):
    record = measured(kind)
    assert record["recall_10_at_10"] == pytest.approx(0.8)
    assert record["answers_padded"] == 2 * N_QUERIES
    assert record["answers_unordered"] == 0


def test_a_repeated_row_counts_once_and_is_counted(measured):
    record = measured(broken.Repeating)
    assert record["recall_10_at_10"] == pytest.approx(0.9)
    assert record["answers_repeated_id"] == 2 * N_QUERIES


def test_answers_that_change_from_pass_to_pass_are_counted(measured):
    assert measured(broken.Inconstant)["answers_changed"] > 0


def test_doubled_reads_double_the_counts(measured):
    right, doubled = measured(broken.ExactTarget), measured(broken.DoubledReads)
    for name in ("pages_read", "reads", "bytes_read"):
        assert doubled[f"{name}_mean"] == 2 * right[f"{name}_mean"]
        assert doubled[f"{name}_p99"] == 2 * right[f"{name}_p99"]


def test_a_target_without_counts_has_none(measured):
    record = measured(broken.Uncounted)
    assert record["pages_read_mean"] is record["bytes_read_p95"] is record["device_bytes_ratio"] is None
    assert record["recall_10_at_10"] == 1


@pytest.fixture
def direct_file(tmp_path):
    """A file of 64 pages that can be read past the page cache, where the kernel counts such reads."""
    path = tmp_path / "pages"
    path.write_bytes(os.urandom(64 * broken.PAGE_BYTES))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        pytest.skip(f"needs a file system with O_DIRECT under {tmp_path}")
    before = usage_now().device_bytes_read
    read_page(descriptor, 0)
    after = usage_now().device_bytes_read
    if before is None or after is None or after == before:
        os.close(descriptor)
        pytest.skip("needs a kernel that counts direct reads in /proc/self/io")
    yield descriptor
    os.close(descriptor)


def read_page(descriptor, page):
    import mmap

    with mmap.mmap(-1, broken.PAGE_BYTES) as aligned:
        assert os.preadv(descriptor, [aligned], page * broken.PAGE_BYTES) == broken.PAGE_BYTES


@pytest.mark.parametrize(("reads", "ratio"), [(1, 1.0), (2, 2.0)])
def test_reads_that_go_uncounted_are_seen_by_the_kernel(vectors, truth, direct_file, reads, ratio):
    """Each query claims one page; the second target reads it twice."""

    class Reading(broken.ExactTarget):
        def search(self, queries, k=10, *, recall_target=0.95):
            for _ in range(reads):
                read_page(direct_file, self.n_calls % 64)
            return super().search(queries, k, recall_target=recall_target)

        def stats(self, nq):
            return SearchStats(*[np.full(nq, count, np.int64) for count in (1, 1, broken.PAGE_BYTES, 1, 1)])

    load = Load(0.95, 2)
    passes = run_loads(Reading(vectors[0]), vectors[1], [load], k=K, repetitions=2)
    inside = summarize(load, passes[load], truth, k=K)
    assert inside["device_bytes_ratio"] == pytest.approx(ratio, rel=0.01)
    passes = run_loads(Reading(vectors[0]), vectors[1], [load], k=K, witness=lambda: Usage(None, None))
    outside = summarize(load, passes[load], truth, k=K)
    assert outside["device_bytes_ratio"] is outside["cpu_us_mean"] is None
