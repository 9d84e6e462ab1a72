"""Re-ranking: exact where it says so, no worse than without it anywhere, and never from a damaged page."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from oracles import raw as oracle

import annserve
from annserve.build.pipeline import build
from annserve.design.options import BuildOptions
from annserve.errors import CorruptionError, InputError
from annserve.index.snapshot import open_snapshot
from annserve.report.verify import verify_segment

N, DIM, OTHER_DIM, K = 1_200, 24, 40, 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Rows that INT8 spoils (one coordinate is far larger), some of them twice; another encoder's; queries of both."""
    place = tmp_path_factory.mktemp("rerank")
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(20, DIM))[rng.integers(0, 20, N)] + 0.3 * rng.normal(size=(N, DIM))
    rows[:, 0] = 60 + rng.normal(size=N)
    rows[-5:] = rows[:5]
    queries = rows[rng.choice(N, 60)] + 0.2 * rng.normal(size=(60, DIM))
    mix = rng.normal(size=(DIM, OTHER_DIM))
    np.save(place / "rows.npy", rows.astype(np.float32))
    np.save(place / "queries.npy", queries.astype(np.float32))
    np.save(place / "other.npy", ((rows - [60, *[0] * 23]) @ mix).astype(np.float16))
    np.save(place / "other_queries.npy", ((queries - [60, *[0] * 23]) @ mix).astype(np.float32))
    return place


@pytest.fixture(scope="module")
def fine(tmp_path_factory) -> Path:
    """Rows of which INT8 keeps enough: distances differ by much more than it changes them."""
    place = tmp_path_factory.mktemp("fine")
    rows = np.random.default_rng(1).normal(size=(900, 11)) @ np.random.default_rng(2).normal(size=(11, 64))
    np.save(place / "rows.npy", rows[:800].astype(np.float32))
    np.save(place / "queries.npy", rows[800:].astype(np.float32))
    return place


def built(folder: Path, name: str, **options: object) -> Path:
    index = folder / name
    if not index.exists():
        chosen = {"calibration_queries": 200, "threads": 1, "ram": "60%", **options}
        build(folder / "rows.npy", index, BuildOptions(**chosen))
    return index


def recall(found, expected):
    return np.mean([len(set(a) & set(b)) for a, b in zip(found.tolist(), expected.tolist())]) / found.shape[1]


@pytest.mark.parametrize(
    ("metric", "codes"), [("l2", "auto"), ("ip", "auto"), ("cosine", "auto"), ("l2", "none"), ("l2", "ssd")]
)
def test_at_recall_target_1_the_answer_is_that_of_brute_force_over_the_rows_as_given(folder, metric, codes):
    """Ids, order and distances, with ties by id; the index without raw rows is far from it."""
    rows, queries = np.load(folder / "rows.npy"), np.load(folder / "queries.npy")
    expected = oracle.nearest(queries, rows, metric, K)
    with annserve.open(built(folder, f"{metric}-{codes}", metric=metric, codes=codes, rerank="float32")) as index:
        result, near = (index.search(queries, K, recall_target=target) for target in (1.0, 0.95))
        assert index.info()["raw_rows"]["own"] is True
    np.testing.assert_array_equal(result.ids, expected)
    exact = np.take_along_axis(oracle.distances(queries, rows, metric), expected, axis=1)
    np.testing.assert_allclose(result.distances, exact.astype(np.float64), rtol=1e-6, atol=1e-7)
    assert (result.stats.rows_reranked >= K).all()
    assert recall(near.ids, expected) >= 0.93


def test_replicas_have_their_raw_rows_too(folder):
    rows, queries = np.load(folder / "rows.npy"), np.load(folder / "queries.npy")
    expected = oracle.nearest(queries, rows, "l2", K)
    with annserve.open(built(folder, "replicas", codes="none", replicas=4, rerank="float32")) as index:
        assert index.report["copies"] > 1.2
        np.testing.assert_array_equal(index.search(queries, K, recall_target=1.0).ids, expected)
        assert recall(index.search(queries, K, recall_target=0.95).ids, expected) >= 0.93


def test_without_raw_rows_the_same_rows_lose_many_neighbours(folder):
    rows, queries = np.load(folder / "rows.npy"), np.load(folder / "queries.npy")
    with annserve.open(built(folder, "none", rerank="none")) as index:
        result = index.search(queries, K, recall_target=1.0)
        assert index.info()["raw_rows"] is None
    assert recall(result.ids, oracle.nearest(queries, rows, "l2", K)) < 0.9
    assert not result.stats.rows_reranked.any()


@pytest.mark.parametrize("target", [0.8, 0.9, 0.95, 0.97, 0.99])
def test_targets_that_int8_alone_could_not_reach_are_delivered(folder, target):
    rows, queries = np.load(folder / "rows.npy"), np.load(folder / "queries.npy")
    with annserve.open(built(folder, "l2-auto", metric="l2", codes="auto", rerank="float32")) as index:
        result = index.search(queries, K, recall_target=target)
        pages = index.info()["pages"]
    assert recall(result.ids, oracle.nearest(queries, rows, "l2", K)) >= target - 0.02
    assert (result.stats.rows_reranked > 0).any()
    assert result.stats.bytes_read.tolist() == (4_096 * result.stats.pages_read).tolist()
    assert result.stats.reads.max() <= result.stats.pages_read.max()
    assert pages > 3
    assert (np.diff(result.distances, axis=1) >= 0).all()


def test_auto_keeps_raw_rows_where_int8_loses_much_and_only_there(folder, fine):
    with annserve.open(built(folder, "auto", rerank="auto")) as index:
        assert index.report["neighbours_lost_to_int8"] > 0.05
        assert index.info()["raw_rows"] == {
            "dim": DIM,
            "row_type": "float32",
            "metric": "l2",
            "own": True,
            "settle_above": 0.0,
        }
    index = built(fine, "auto", codes="none")
    assert open_snapshot(index).segments[0].raw is None
    assert not list(index.rglob("raw.bin"))
    always = open_snapshot(built(fine, "always", codes="none", rerank="float16")).segments[0].raw
    assert always is not None
    assert 0.8 <= always.layout.settle_above < 1


def test_where_int8_loses_little_low_targets_look_at_nothing_again(fine):
    queries = np.load(fine / "queries.npy")
    with annserve.open(built(fine, "always", codes="none", rerank="float16")) as index:
        above = index.info()["raw_rows"]["settle_above"]
        assert not index.search(queries, K, recall_target=above).stats.rows_reranked.any()
        assert index.search(queries, K, recall_target=min(above + 0.005, 0.99)).stats.rows_reranked.any()


def test_every_reader_and_any_number_of_threads_give_the_same_answers(folder):
    index, queries = (
        built(folder, "l2-auto", metric="l2", codes="auto", rerank="float32"),
        np.load(folder / "queries.npy"),
    )
    answers = []
    for io in ("uring", "pread", "mmap"):
        for threads in (1, 3):
            try:
                opened = annserve.open(index, io=io, threads=threads)
            except InputError:
                continue
            with opened:
                answers.append(opened.search(queries, K, recall_target=0.95))
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer.ids, answers[0].ids)
        np.testing.assert_array_equal(answer.distances, answers[0].distances)
        np.testing.assert_array_equal(answer.stats.pages_read, answers[0].stats.pages_read)


def test_a_flipped_byte_of_a_raw_row_is_an_error_and_is_listed(folder, tmp_path):
    index = Path(shutil.copytree(built(folder, "l2-auto", metric="l2", codes="auto", rerank="float32"), tmp_path / "i"))
    raw = open_snapshot(index).segments[0].raw
    with raw.path.open("r+b") as file:
        for page in range(raw.n_pages):
            file.seek(raw.offset + page * 4_096 + 16 + 96 * (page % 40))
            file.write(b"\xff")
    with (
        annserve.open(index) as opened,
        pytest.raises(CorruptionError, match=r"page \d+ of .*raw\.bin is damaged: its"),
    ):
        opened.search(np.load(folder / "queries.npy"), K, recall_target=0.95)
    segment = open_snapshot(index).segments[0]
    found = verify_segment(segment)
    assert found.problems == [f"raw page {page}: its checksum is wrong" for page in range(raw.n_pages)]
    assert found.raw_pages == raw.n_pages


@pytest.mark.parametrize(("at", "message"), [(4_096, "raw.bin"), (4_100, "raw.bin"), (100, "published"), (-1, "bytes")])
def test_a_raw_file_that_does_not_fit_is_refused_on_open(folder, tmp_path, at, message):
    """Facts, header and length."""
    index = Path(shutil.copytree(built(folder, "l2-auto", metric="l2", codes="auto", rerank="float32"), tmp_path / "i"))
    (path,) = index.rglob("raw.bin")
    content = bytearray(path.read_bytes())
    if at < 0:
        del content[at:]
    else:
        content[at] ^= 2
    path.write_bytes(content)
    with pytest.raises(CorruptionError, match=message):
        annserve.open(index)


class TestAnotherEncoder:
    """Vectors of another dimension, type and metric, which rank what the first ones find."""

    def index(self, folder: Path) -> Path:
        return built(folder, "other", rerank_with=folder / "other.npy", rerank_metric="cosine")

    def test_all_rows_as_candidates_give_the_ranking_of_the_other_encoder(self, folder):
        other, asked = np.load(folder / "other.npy"), np.load(folder / "other_queries.npy")
        with annserve.open(self.index(folder)) as index:
            result = index.search(
                np.load(folder / "queries.npy"), K, recall_target=1.0, rerank_queries=asked, rerank_candidates=1_000
            )
        # 200 rows of 1,200 aren't candidates; the nearest are.
        np.testing.assert_array_equal(result.ids, oracle.nearest(asked, other, "cosine", K))
        exact = np.take_along_axis(oracle.distances(asked, other, "cosine"), result.ids.astype(int), axis=1)
        np.testing.assert_allclose(result.distances, exact.astype(float), atol=1e-6)
        assert (result.stats.rows_reranked == 1_000).all()

    def test_candidates_are_those_that_the_first_stage_finds(self, folder):
        """Against the index's own answer with as many results; those are put in another order."""
        queries, other = np.load(folder / "queries.npy"), np.load(folder / "other.npy")
        asked = np.load(folder / "other_queries.npy")
        with annserve.open(self.index(folder)) as index:
            first = index.search(queries, 30, recall_target=0.9)
            result = index.search(queries, K, recall_target=0.9, rerank_queries=asked, rerank_candidates=30)
            default = index.search(queries, K, recall_target=0.9, rerank_queries=asked)
        assert (default.stats.rows_reranked == 10 * K).all()
        assert (result.stats.rows_reranked == 30).all()
        assert (result.stats.pages_read > first.stats.pages_read).all()
        agreed = 0
        for i, ids in enumerate(first.ids.astype(int)):
            ranked = np.sort(ids)[oracle.nearest(asked[i : i + 1], other[np.sort(ids)], "cosine", K)[0]]
            agreed += len(set(ranked) & set(result.ids[i].astype(int)))
        assert agreed >= 0.98 * K * len(queries)

    def test_without_second_queries_the_answer_is_that_of_the_first_stage(self, folder):
        queries = np.load(folder / "queries.npy")
        with annserve.open(self.index(folder)) as index, annserve.open(built(folder, "none", rerank="none")) as plain:
            for target in (0.9, 1.0):
                a, b = (one.search(queries, K, recall_target=target) for one in (index, plain))
                np.testing.assert_array_equal(a.ids, b.ids)
                np.testing.assert_array_equal(a.stats.pages_read, b.stats.pages_read)

    def test_what_does_not_fit_is_refused(self, folder):
        queries, asked = np.load(folder / "queries.npy"), np.load(folder / "other_queries.npy")
        with annserve.open(self.index(folder)) as index:
            for options, message in [
                ({"rerank_queries": asked[:3]}, "3 rerank_queries for 60 queries"),
                ({"rerank_queries": queries}, "dimension 24, but the index has 40"),
                ({"rerank_queries": asked * np.nan}, "row 0 of the rerank_queries holds NaN"),
                ({"rerank_queries": asked * 0}, "zero vector"),
                ({"rerank_candidates": 20}, "without rerank_queries"),
                ({"rerank_queries": asked, "rerank_candidates": 9}, "between k = 10 and 1000"),
                ({"rerank_queries": asked, "rerank_candidates": 1_001}, "between k = 10 and 1000"),
                ({"rerank_queries": asked, "rerank_candidates": 20.5}, "whole number"),
            ]:
                with pytest.raises(InputError, match=message):
                    index.search(queries, K, **options)
        with annserve.open(built(folder, "none", rerank="none")) as index, pytest.raises(InputError, match="keeps no"):
            index.search(queries, K, rerank_queries=asked)


def test_a_build_refuses_raw_rows_that_do_not_fit_before_any_work(folder, tmp_path):
    np.save(tmp_path / "short.npy", np.ones((5, 3), np.float32))
    np.save(tmp_path / "bytes.npy", np.ones((N, 3), np.uint8))
    np.save(tmp_path / "huge.npy", np.full((N, 3), 1e6, np.float32))
    for source, options, message in [
        (folder / "rows.npy", {"rerank_with": tmp_path / "short.npy"}, "5 vectors, but there are 1,200 rows"),
        (folder / "rows.npy", {"rerank_with": tmp_path / "none.npy"}, "no file"),
        (tmp_path / "bytes.npy", {"rerank": "float32"}, "uint8 rows are stored exactly"),
        (tmp_path / "huge.npy", {"rerank": "float16"}, r"row \d+ holds 1e\+06, which float16 can't"),
    ]:
        with pytest.raises((InputError, LookupError), match=message):
            build(source, tmp_path / "index", BuildOptions(calibration_queries=10, threads=1, **options))
        assert not (tmp_path / "index").exists()
    for options, message in [
        ({"rerank": "int4"}, "rerank is 'int4'; use one of auto, none"),
        ({"rerank": "none", "rerank_with": tmp_path / "short.npy"}, "leave one of them out"),
        ({"rerank_metric": "l2"}, "rerank_with names none"),
        ({"rerank_with": tmp_path / "short.npy", "rerank_metric": "l1"}, "rerank_metric is 'l1'"),
    ]:
        with pytest.raises(InputError, match=message):
            BuildOptions(**options)
