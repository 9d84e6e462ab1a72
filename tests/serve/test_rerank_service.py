"""A second query, by another encoder, does over gRPC what it does in the process; what is wrong with it is named."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest
from running import RunningServer, serving

import annserve
from annserve.build.pipeline import build
from annserve.client import Client
from annserve.design.options import BuildOptions
from annserve.errors import InputError
from annserve.rpc import search_pb2, search_pb2_grpc

N, DIM, OTHER_DIM = 300, 16, 20


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rerank-served")
    rng = np.random.default_rng(3)
    np.save(folder / "rows.npy", rng.integers(0, 256, (N, DIM)).astype(np.uint8))
    np.save(folder / "other.npy", rng.normal(size=(N, OTHER_DIM)).astype(np.float16))
    options = BuildOptions(
        codes="none", rerank_with=folder / "other.npy", rerank_metric="ip", calibration_queries=50, threads=1
    )
    build(folder / "rows.npy", folder / "index", options)
    return folder / "index"


@pytest.fixture(scope="module")
def server(index: Path):
    with serving(index, engine="real") as running:
        yield running


@pytest.fixture
def queries() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    return rng.integers(0, 256, (50, DIM)).astype(np.uint8), rng.normal(size=(50, OTHER_DIM)).astype(np.float32)


@pytest.mark.parametrize("candidates", [None, 5, 40])
def test_the_client_answers_as_the_index_in_the_process(index, server: RunningServer, queries, candidates):
    first, second = queries
    asked = {"recall_target": 0.9, "rerank_queries": second, "rerank_candidates": candidates}
    with annserve.open(index) as opened, Client(server.address) as client:
        expected, found = opened.search(first, 5, **asked), client.search(first, 5, **asked)
        assert client.info()["raw_rows"] == opened.info()["raw_rows"]
        plain = client.search(first, 5, recall_target=0.9)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.distances, expected.distances)
    assert found.stats.rows_reranked.tolist() == [candidates or 50] * len(first)
    assert not plain.stats.rows_reranked.any()
    assert plain.stats.cache == (), "this server has no cache"


def test_a_batch_cut_into_requests_takes_its_second_queries_along(server, queries, monkeypatch):
    first, second = queries
    with Client(server.address) as client:
        whole = client.search(first, 5, rerank_queries=second)
        monkeypatch.setattr("annserve.client.parts.REQUEST_QUERIES", 7)
        cut = client.search(first, 5, rerank_queries=second)
    np.testing.assert_array_equal(cut.ids, whole.ids)


def test_two_vectors_that_people_type_are_taken_too(server, queries):
    first, second = queries
    request = search_pb2.SearchRequest(
        vector=search_pb2.Vector(values=first[0]), rerank_vector=search_pb2.Vector(values=second[0]), k=3
    )
    with grpc.insecure_channel(server.address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        answer = search_pb2_grpc.SearchServiceStub(channel).Search(request)
    with Client(server.address) as client:
        expected = client.search(first[:1], 3, rerank_queries=second[:1])
    assert [one.id for one in answer.neighbors] == expected.ids[0].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rerank_queries": np.ones((49, OTHER_DIM))}, "49 rerank_queries for 50 queries"),
        ({"rerank_queries": np.ones((50, 3))}, "dimension 3, but the index has 20"),
        ({"rerank_queries": np.full((50, OTHER_DIM), np.nan)}, "holds NaN"),
        ({"rerank_queries": "text"}, "rerank_queries have"),
        ({"rerank_candidates": 20}, "without rerank_queries"),
        ({"rerank_queries": np.ones((50, OTHER_DIM)), "rerank_candidates": 4}, "between k = 5 and 300"),
        ({"rerank_queries": np.ones((50, OTHER_DIM)), "rerank_candidates": 301}, "between k = 5 and 300"),
        ({"rerank_queries": np.ones((50, OTHER_DIM)), "rerank_candidates": 1_001}, "at most 1000"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(server, queries, change, message):
    with Client(server.address) as client:
        with pytest.raises(InputError, match=message) as refused:
            client.search(queries[0], 5, **change)
        assert refused.value.field in ("rerank_queries", "rerank_candidates")
        client.search(queries[0], 5)
