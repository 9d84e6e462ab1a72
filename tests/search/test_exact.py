"""A scan scores every row whatever the size of its batches, holds few pages, and can be paused or ended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from oracles import raw as oracle

import annserve
from annserve.build.pipeline import build
from annserve.design.options import BuildOptions
from annserve.errors import DeadlineError
from annserve.search import engine, exact

GOLDEN = sorted((Path(__file__).parents[1] / "golden" / "v1").iterdir())
K = 10


class EndedError(Exception):
    pass


@pytest.mark.parametrize("batch", [1, 3, 1_024])
@pytest.mark.parametrize("folder", GOLDEN, ids=lambda folder: folder.name)
def test_batches_of_any_size_give_the_same_exact_answer(folder, batch, monkeypatch):
    """Over all metrics, row types, replicas, raw rows and segments; the golden answers came from all pages at once."""
    for module in (engine, exact):
        monkeypatch.setattr(module, "SCAN_PAGES", batch)
    queries = np.load(folder / "queries.npy")
    with annserve.open(folder / "index", threads=1) as index:
        found, info = index.search_exact(queries, K), index.info()
        asked = index.search(queries, K, recall_target=1.0)
    np.testing.assert_array_equal(found.ids, np.load(folder / "ids.npy"))
    np.testing.assert_allclose(found.distances, np.load(folder / "distances.npy"), rtol=3e-7, atol=1e-7)
    np.testing.assert_array_equal(asked.ids, found.ids)
    assert (found.stats.pages_read >= info["pages"]).all()
    assert (found.stats.rows_scored >= info["count"]).all()


def test_pages_are_held_a_batch_at_a_time(monkeypatch):
    """However many queries share the scan."""
    folder = next(folder for folder in GOLDEN if folder.name == "uint8-l2")
    frames = []
    taken = engine.Engine._take_frames

    def noted(self, count):
        frames.append(count)
        return taken(self, count)

    for module in (engine, exact):
        monkeypatch.setattr(module, "SCAN_PAGES", 2)
    monkeypatch.setattr(engine.Engine, "_take_frames", noted)
    with annserve.open(folder / "index") as index:
        assert index.info()["pages"] > 4
        index.search_exact(np.load(folder / "queries.npy"), K)
    assert frames == [2]


def test_a_scan_pauses_between_batches_and_an_error_there_ends_it(monkeypatch):
    for module in (engine, exact):
        monkeypatch.setattr(module, "SCAN_PAGES", 2)
    folder = next(folder for folder in GOLDEN if folder.name == "float32-ip-segments")
    queries, pauses = np.load(folder / "queries.npy"), []
    with annserve.open(folder / "index") as index:
        index.search_exact(queries, K, between=lambda: pauses.append(1))

        def end():
            raise EndedError

        for _ in range(2):
            with pytest.raises(EndedError):
                index.search_exact(queries, K, between=end)
        np.testing.assert_array_equal(index.search_exact(queries, K).ids, np.load(folder / "ids.npy"))
        # Segments go abreast, so there are as many pauses as the largest of them has batches.
        assert len(pauses) >= index.info()["pages"] / 2 / index.info()["segments"]


def test_a_deadline_is_heeded_between_batches(monkeypatch):
    """The clock passes it after the first batch."""
    for module in (engine, exact):
        monkeypatch.setattr(module, "SCAN_PAGES", 1)
    folder = GOLDEN[0]
    times = iter(range(1_000_000))
    with annserve.open(folder / "index", threads=1) as index:
        monkeypatch.setattr("annserve.search.clock.time.monotonic", lambda: float(next(times)))
        with pytest.raises(DeadlineError, match="was spent before stage"):
            index.search(np.load(folder / "queries.npy")[:1], K, recall_target=1.0, deadline=12.0)
        assert next(times) > 12


def test_no_query_gets_no_answer():
    with annserve.open(GOLDEN[0] / "index") as index:
        dim = index.info()["dim"]
        assert index.search_exact(np.zeros((0, dim), np.float32), 3).ids.shape == (0, 3)


def test_candidates_of_another_encoder_are_the_nearest_of_all_batches(tmp_path, monkeypatch):
    """Not of each batch: a row that only its batch puts among them would be ranked too."""
    rng = np.random.default_rng(5)
    rows, other = rng.normal(size=(600, 8)).astype(np.float32), rng.normal(size=(600, 6)).astype(np.float32)
    queries, asked = rng.normal(size=(4, 8)).astype(np.float32), rng.normal(size=(4, 6)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "other.npy", other)
    build(tmp_path / "rows.npy", tmp_path / "index", BuildOptions(rerank_with=tmp_path / "other.npy", threads=1))
    answers = []
    for batch in (1, 1_024):
        for module in (engine, exact):
            monkeypatch.setattr(module, "SCAN_PAGES", batch)
        with annserve.open(tmp_path / "index", threads=1) as index:
            assert index.info()["pages"] > 2
            answers.append(index.search(queries, 5, recall_target=1.0, rerank_queries=asked, rerank_candidates=20))
    np.testing.assert_array_equal(answers[0].ids, answers[1].ids)
    assert (answers[0].stats.rows_reranked == 20).all()
    near = oracle.nearest(queries, rows, "l2", 20)
    for i, among in enumerate(near):
        among = np.sort(among)
        best = among[oracle.nearest(asked[i : i + 1], other[among], "l2", 5)[0]]
        assert len(set(best) & set(answers[0].ids[i].astype(int))) >= 4  # INT8 may swap the 20th and 21st
