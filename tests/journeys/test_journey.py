"""From a file of vectors to answers, through the doors only, as a stranger would go."""

from __future__ import annotations

import json

import numpy as np
import pytest
from journeys.conftest import Journey
from journeys.doors import annserve, annserve_process
from serve.running import serving

import annserve as product
from annserve.client import Client

TARGETS = (0.90, 0.95, 0.98)


def recall(ids: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([np.isin(found, right).mean() for found, right in zip(ids.astype(np.int64), truth)]))


def test_inspect_says_what_went_in(journey: Journey):
    ended = annserve("inspect", journey.index, "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    count, dim = journey.base.shape
    facts = {"count": count, "dim": dim, "row_type": str(journey.base.dtype), "metric": journey.metric}
    assert {name: found["index"][name] for name in facts} == facts
    assert found["report"]["rows"] == count
    assert found["report"]["source"] == journey.source.name
    assert set(found["report"]["stage_seconds"]) >= {"stage", "refine", "link", "pack", "calibrate"}
    stored = sum(path.stat().st_size for path in (journey.index / "segment-000001").iterdir())
    assert found["index"]["disk_bytes"] == stored
    assert f"{count:,} × {dim}" in annserve("inspect", journey.index).out


def test_verify_finds_the_index_whole(journey: Journey):
    ended = annserve("verify", journey.index, "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert (found["rows"], found["problems"]) == (len(journey.base), [])


def test_recall_is_what_was_asked_for_on_queries_that_calibration_never_saw(journey: Journey):
    """At most 0.01 below each target; more is welcome."""
    with product.open(journey.index, threads=2) as index:
        found = {target: index.search(journey.queries, 10, recall_target=target) for target in TARGETS}
    delivered = {target: recall(result.ids, journey.truth) for target, result in found.items()}
    assert all(delivered[target] >= target - 0.01 for target in TARGETS), delivered
    pages = [found[target].stats.pages_read.mean() for target in TARGETS]
    assert pages == sorted(pages), "a higher target reads more"


def test_every_page_read_finds_the_exact_neighbours(journey: Journey):
    """At recall target 1 nothing is left out but what INT8 rows blur: nothing for whole numbers, or with raw rows."""
    with product.open(journey.index, threads=2) as index:
        result = index.search(journey.queries, 10, recall_target=1.0)
        info = index.info()
    more = result.stats.pages_read - info["pages"]
    assert ((more > 0) if info["raw_rows"] else (more == 0)).all()
    share = recall(result.ids, journey.truth)
    if journey.base.dtype == np.uint8 or info["raw_rows"]:
        np.testing.assert_array_equal(result.ids, journey.truth)
    else:
        assert share >= 0.985


def test_local_and_remote_answers_are_identical(journey: Journey, tmp_path):
    """Through the command line on both sides, files compared byte by byte; and by a client in one process."""
    local = annserve_process(
        "search", journey.index, journey.query_file, "-k", 10, "--out", tmp_path / "a.npy",
        "--distances", tmp_path / "ad.npy", "--threads", 2,
    )  # fmt: skip
    assert local.code == 0, local.err
    with serving(journey.index, engine="real", options=("--threads", "2")) as server:
        remote = annserve_process(
            "query", journey.query_file, "--address", server.address, "-k", 10, "--out", tmp_path / "b.npy",
            "--distances", tmp_path / "bd.npy",
        )  # fmt: skip
        assert remote.code == 0, remote.err
        with Client(server.address) as client, product.open(journey.index) as index:
            one_by_one = [client.search(query, 10) for query in journey.queries[:20]]
            assert client.info()["pages"] == index.info()["pages"]
            batch = client.search(journey.queries, 7, recall_target=0.9)
            same = index.search(journey.queries, 7, recall_target=0.9)
        code, log = server.stop()
    assert code == 0, log
    np.testing.assert_array_equal(batch.ids, same.ids)
    np.testing.assert_array_equal(batch.distances, same.distances)
    np.testing.assert_array_equal(batch.stats.pages_read, same.stats.pages_read)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    assert (tmp_path / "ad.npy").read_bytes() == (tmp_path / "bd.npy").read_bytes()
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy")[:20], np.concatenate([r.ids for r in one_by_one]))
    assert recall(np.load(tmp_path / "b.npy"), journey.truth) >= 0.94


def test_bench_measures_each_target_and_number_of_threads(journey: Journey, tmp_path):
    ended = annserve(
        "bench", "search", journey.index, "--queries", journey.query_file, "--truth", journey.truth_file,
        "--recall", "0.90,0.95,0.98", "--threads", "1,2", "--repetitions", 1, "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    report = json.loads((tmp_path / "out.json").read_text())
    loads = [(record["recall_target"], record["threads"]) for record in report["results"]]
    assert sorted(loads) == [(target, threads) for target in TARGETS for threads in (1, 2)]
    for record in report["results"]:
        assert record["recall_10_at_10"] >= record["recall_target"] - 0.01
        assert record["qps"] > 0
        assert 0 < record["latency_us_p50"] <= record["latency_us_p99"]
        assert record["bytes_read_mean"] == record["pages_read_mean"] * 4096
    facts = report["index"]
    assert (facts["count"], facts["dim"]) == journey.base.shape
    names = ("ram_bytes", "ram_bytes_per_vector", "disk_bytes", "build_seconds")
    assert all(facts[name] > 0 for name in names)


@pytest.mark.parametrize("journey", ["docstrings", "photos"], indirect=True)
def test_every_row_finds_itself(journey: Journey):
    """Every row, as a query: at target 0.95 few may be missed, and of those none at target 1, twins aside."""
    _, group = np.unique(journey.base, axis=0, return_inverse=True)
    group = group.reshape(-1)

    def lost(rows: np.ndarray, target: float) -> np.ndarray:
        result = index.search(journey.base[rows], 1, recall_target=target)
        right = group[result.ids[:, 0].astype(np.int64)] == group[rows]
        # Stored whole numbers are exact; INT8 rows lie a little beside what was given.
        assert np.abs(result.distances[right]).max(initial=0) <= (0 if journey.metric == "l2" else 2e-3)
        return rows[~right]

    with product.open(journey.index, threads=2) as index:
        missed = lost(np.arange(len(journey.base)), 0.95)
        assert len(missed) <= 0.05 * len(journey.base)
        assert len(lost(missed, 1.0)) == 0
