"""An explanation is of the very search that anyone gets: same answer, same costs, every result accounted for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from journeys.doors import annserve, build_index

from annserve import collection
from annserve.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clustered rows, three queries, and an index with codes and one without."""
    place = tmp_path_factory.mktemp("explain")
    rng = np.random.default_rng(3)
    centres = rng.integers(0, 256, (40, 32))
    points = centres[rng.integers(0, 40, 6_003)] + rng.normal(0, 25, (6_003, 32))
    points = np.clip(points, 0, 255).astype(np.uint8)
    np.save(place / "rows.npy", points[:6_000])
    np.save(place / "queries.npy", points[6_000:])
    for codes in ("auto", "none"):
        build_index(place / "rows.npy", place / codes, "--ram", "50%", "--codes", codes, "--calibration-queries", 200)
    return place


@pytest.mark.parametrize("codes", ["auto", "none"])
@pytest.mark.parametrize("recall_target", [0.9, 0.98, 1.0])
def test_an_explained_query_answers_and_costs_what_a_search_does(folder, codes, recall_target):
    queries = np.load(folder / "queries.npy")
    with collection.open(folder / codes, threads=1) as index:
        for query in queries:
            result = index.search(query, 10, recall_target=recall_target)
            (told,) = index.explain(query, 10, recall_target=recall_target)
            assert told.ids == result.ids[0].tolist()
            np.testing.assert_allclose(told.distances, result.distances[0], rtol=1e-6)
            for name in ("pages_read", "reads", "bytes_read", "heads_visited", "rows_scored"):
                assert getattr(told, name) == getattr(result.stats, name)[0], name
            scanned = 0 if told.codes is None else told.codes.page_codes + told.codes.row_codes
            assert scanned == result.stats.codes_scanned[0]
            assert (told.codes is not None) == (codes == "auto" and recall_target < 1)
            assert set(told.seconds) == set(result.stats.stage_seconds)


@pytest.mark.parametrize("codes", ["auto", "none"])
def test_every_result_comes_from_a_page_that_is_told(folder, codes):
    with collection.open(folder / codes, threads=1) as index:
        (told,) = index.explain(np.load(folder / "queries.npy")[0], 25, recall_target=0.95)
    assert len(told.pages) == told.pages_read
    assert sum(page.hits for page in told.pages) == 25
    assert sum(page.rows for page in told.pages) == told.rows_scored
    assert sorted(page.best_place for page in told.pages if page.hits)[0] == 1
    assert len({page.posting for page in told.pages}) <= told.postings_ranked <= told.heads


def test_promises_add_up_to_what_was_wanted_and_fall_from_page_to_page(folder):
    with collection.open(folder / "auto", threads=1) as index:
        (told,) = index.explain(np.load(folder / "queries.npy")[1], 10, recall_target=0.95)
    codes = told.codes
    worths = [page.worth for page in told.pages]
    assert worths == sorted(worths, reverse=True)
    assert codes.hits_promised == pytest.approx(sum(worths))
    assert codes.hits_promised - worths[-1] < codes.hits_wanted <= codes.hits_promised <= codes.hits_expected + 1e-3
    assert codes.page_codes == codes.pages_passed_over + codes.pages_rated
    assert {page.rank for page in told.pages} <= set(range(1, codes.pages_rated + 1))
    # The threshold is an estimate of the k-th distance, in the same unit.
    assert codes.threshold == pytest.approx(told.distances[-1], rel=0.3)


def test_a_query_whose_pages_hold_too_few_rows_is_told_with_its_rounds(folder):
    with collection.open(folder / "none", threads=1) as index:
        (told,) = index.explain(np.load(folder / "queries.npy")[0], 1_000, recall_target=0.8)
        assert told.ids == index.search(np.load(folder / "queries.npy")[0], 1_000, recall_target=0.8).ids[0].tolist()
    assert told.rounds >= 1
    assert sum(page.hits for page in told.pages) == 1_000


def test_the_table_names_stages_pages_and_answer(folder):
    ended = annserve("explain", folder / "auto", "--query", f"{folder / 'queries.npy'}:2", "-k", 3)
    assert ended.code == 0, ended.err
    for word in ("navigate", "rate", "choose", "read", "score", "promised", "in all", "answer", "#3"):
        assert word in ended.out
    assert "promised" not in annserve("explain", folder / "none", "--query", folder / "queries.npy").out


def test_more_than_one_query_is_refused(folder):
    with collection.open(folder / "auto", threads=1) as index, pytest.raises(InputError, match="3 queries were given"):
        index.explain(np.load(folder / "queries.npy"))


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("queries.npy:3", "holds 3 vectors, counted from 0; there is no query 3"),
        ("nothing.npy:0", "there is no file"),
        ("narrow.npy", "query have dimension 5, but the index has 32"),
    ],
)
def test_a_query_that_is_none_is_an_error_that_says_so(folder, query, words):
    np.save(folder / "narrow.npy", np.zeros((2, 5), np.float32))
    ended = annserve("explain", folder / "auto", "--query", folder / query)
    assert ended.code == 2
    assert words in ended.error
