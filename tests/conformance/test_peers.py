"""Every adapter keeps the contract: built, opened anew in another process, set, asked; its answers are near enough.

A system runs where its packages are: in this interpreter, or in an environment that ``annserve bench run`` has made
under ``ANNSERVE_BENCH_CACHE``. Nothing is installed here.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from annserve.compare.cards import find_cards, points
from annserve.compare.environments import python_for
from annserve.compare.passes import load_pass
from annserve.compare.process import Worker
from annserve.errors import NotFoundError
from annserve.measure.recall import find_faults, recall_k_at_k
from annserve.measure.target import NO_ID
from annserve.measure.truth import check_truth
from annserve.vectors.truth import exact_neighbours

CARDS = find_cards(Path(__file__).resolve().parent.parent.parent / "bench/peers")
CACHE = Path(os.environ.get("ANNSERVE_BENCH_CACHE", Path.home() / ".cache/annserve-bench"))
K, N, NQ, DIM = 10, 2_000, 40, 48


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "dtype"), [("l2", "uint8"), ("cosine", "float32")])
@pytest.mark.parametrize("name", list(CARDS))
def test_an_adapter_keeps_the_contract(name, metric, dtype, tmp_path, rng):
    card = CARDS[name]
    assert card.refuses(metric, dtype) is None
    try:
        python = python_for(card, CACHE, install=False)
    except NotFoundError as error:
        pytest.skip(str(error))
    # Eight dimensions in the guise of DIM: as hard as real rows, not as hard as noise.
    surface = rng.normal(size=(N + NQ, 8)) @ rng.normal(size=(8, DIM))
    rows = np.clip(128 + 16 * surface, 0, 255).astype(np.uint8)
    rows = rows if dtype == "uint8" else rows.astype(np.float32) - 128
    base, queries = rows[:N], rows[N:]
    np.save(tmp_path / "base.npy", base)
    np.save(tmp_path / "queries.npy", queries)
    truth = check_truth(*exact_neighbours(base, queries, 50, metric, threads=1), n_queries=NQ, k=K)
    widest = {"recall_target": 0.98} if card.plans_itself else points(card.search)[-1]
    common = {"metric": metric, "parameters": points(card.build)[0], "cores": 1, "library_threads": 1}
    with Worker(card, python, tmp_path / "run", **common) as worker:
        worker.ask("build", base=str(tmp_path / "base.npy"), code_rows=500)
    with Worker(card, python, tmp_path / "run", **common) as worker:
        opened = worker.ask("open", queries=str(tmp_path / "queries.npy"), k=K, point=widest, code=True)
        worker.ask(
            "ask", queries=str(tmp_path / "queries.npy"), k=K, point=widest, recall_target=0.98, threads=1,
            schedule=None, warm_up=0, out=str(tmp_path / "pass.npz"),
        )  # fmt: skip
    assert opened["memory_after"]["pss_bytes"] > 0
    done = load_pass(tmp_path / "pass.npz")
    assert done.ids.shape == (NQ, K)
    assert (done.ids < N).all() or (done.ids[done.ids >= N] == NO_ID).all()
    faults = find_faults(done.ids, done.distances)
    assert (faults.repeated, faults.unordered) == (0, 0)
    assert recall_k_at_k(done.ids, truth, K).mean() >= 0.9
