"""Search over gRPC answers as the embedded door does, for every type, metric and form of request."""

from __future__ import annotations

import fake
import grpc
import numpy as np
import pytest
from serve.conftest import METRICS, Served

from annserve.client import Client
from annserve.errors import InputError, NotFoundError
from annserve.results import SearchStats
from annserve.rpc import search_pb2


@pytest.mark.parametrize("sent", ["float32", "float16", "uint8", "int8", "float64", "int64", ">f4"])
@pytest.mark.parametrize("stored", list(METRICS))
def test_every_type_of_query_finds_the_true_neighbours_of_every_type_of_row(collections, stored, sent):
    lowest = 0 if sent == "uint8" else -60
    queries = (np.arange(6 * 24).reshape(6, 24) * 7 % 151 + lowest).astype(sent)
    with Client(collections.address, collection=stored) as client:
        result = client.search(queries, 5, recall_target=1.0)
    exact = fake.exact_distances(queries, collections.rows[stored], METRICS[stored])
    assert result.ids.dtype == np.uint64
    assert result.distances.dtype == np.float32
    reported = np.take_along_axis(exact, result.ids.astype(np.int64), axis=1)
    best = np.sort(exact, axis=1)[:, :5]
    # Rows of floats are stored in eight bits, so that near ties may change places.
    scale = np.ptp(exact) if collections.rows[stored].dtype.kind == "f" else 0
    np.testing.assert_allclose(reported, best, atol=0.02 * scale + 1e-5 * np.abs(best).max())
    np.testing.assert_allclose(result.distances, best, atol=0.02 * scale + 1e-5 * np.abs(best).max())


def test_a_batch_answers_as_its_queries_one_by_one(collections):
    queries = collections.rows["uint8"][:30]
    with Client(collections.address, collection="uint8") as client:
        batch = client.search(queries, 7)
        single = [client.search(query, 7) for query in queries]
    np.testing.assert_array_equal(batch.ids, np.concatenate([one.ids for one in single]))
    np.testing.assert_array_equal(batch.distances, np.concatenate([one.distances for one in single]))


def test_every_row_finds_itself(collections):
    rows = collections.rows["uint8"]
    with Client(collections.address, collection="uint8") as client:
        result = client.search(rows, 1, recall_target=1.0)
    np.testing.assert_array_equal(result.ids[:, 0], np.arange(len(rows)))
    np.testing.assert_array_equal(result.distances, 0)


def test_counts_come_one_per_query_and_stages_in_seconds(collections):
    with Client(collections.address, collection="uint8") as client:
        stats = client.search(collections.rows["uint8"][:9], 3).stats
    for name in SearchStats.COUNTS:
        assert getattr(stats, name).shape == (9,), name
        assert getattr(stats, name).dtype == np.int64, name
    assert stats.pages_read.min() >= 1
    assert stats.seconds > 0
    assert stats.stage_seconds


def test_an_empty_batch_has_an_empty_answer(collections):
    with Client(collections.address, collection="uint8") as client:
        result = client.search(np.zeros((0, 24), np.uint8), 4)
    assert result.ids.shape == result.distances.shape == (0, 4)


def test_a_vector_typed_by_hand_has_a_readable_answer(collections, stub):
    vector = search_pb2.Vector(values=collections.rows["uint8"][3].astype(float).tolist())
    answer = stub.Search(search_pb2.SearchRequest(collection="uint8", vector=vector), timeout=10)
    assert (answer.num_queries, answer.k, len(answer.neighbors)) == (1, 10, 10)
    assert (answer.neighbors[0].id, answer.neighbors[0].distance) == (3, 0.0)
    assert [neighbor.id for neighbor in answer.neighbors] == np.frombuffer(answer.ids, "<u8").tolist()
    assert [neighbor.distance for neighbor in answer.neighbors] == np.frombuffer(answer.distances, "<f4").tolist()


WRONG = {
    "dimension": (np.ones((2, 23)), {}, "dimension 23, but the index has 24"),
    "NaN": (np.vstack([np.ones(24), np.full(24, np.nan)]), {}, "row 1 of the queries holds NaN"),
    "infinity": (np.full((1, 24), np.inf), {}, "row 0 of the queries holds NaN or infinity"),
    "zero vector": (np.zeros((1, 24)), {}, "zero vector"),
    "no dimension": (np.zeros((3, 0)), {}, "dim is 0"),
    "k of 0": (np.ones((1, 24)), {"k": 0}, "k is 0; it must be at least 1"),
    "negative k": (np.ones((1, 24)), {"k": -3}, "k is -3"),
    "k beyond the rows": (np.ones((1, 24)), {"k": 401}, "k is 401, but the index holds 400 rows"),
    "low recall target": (np.ones((1, 24)), {"recall_target": 0.3}, "recall_target is 0.3"),
    "recall target NaN": (np.ones((1, 24)), {"recall_target": float("nan")}, "recall_target is nan"),
    "three axes": (np.ones((1, 2, 24)), {}, "3 axes"),
    "text": (np.array([["a"] * 24]), {}, "give numbers"),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_what_cannot_be_searched_is_refused_with_the_reason_and_the_server_serves_on(collections, case):
    queries, options, message = WRONG[case]
    with Client(collections.address, collection="float32") as client:
        with pytest.raises(InputError, match=message) as refused:
            client.search(queries, **options)
        assert refused.value.field
        assert_serves(collections)


def test_a_refusal_names_the_field_for_clients_in_any_language(stub, collections):
    request = search_pb2.SearchRequest(collection="uint8", matrix=matrix(np.ones((1, 24))), k=0)
    error = refusal(stub, request)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = detail(error, "BadRequest").field_violations
    info = detail(error, "ErrorInfo")
    assert (violation.field, info.domain, info.reason) == ("k", "annserve", "INPUT_ERROR")
    assert info.metadata["field"] == "k"


def test_an_unknown_collection_is_not_found_and_the_answer_names_those_there_are(collections):
    with Client(collections.address, collection="nowhere") as client:
        with pytest.raises(NotFoundError, match="'nowhere' is served here; there is float16, float32"):
            client.search(np.ones((1, 24)))
        with pytest.raises(NotFoundError):
            client.info()


def test_several_collections_and_no_name_is_a_question_back(collections):
    with Client(collections.address) as client, pytest.raises(InputError, match="name one of"):
        client.search(np.ones((1, 24)))


def test_a_name_beyond_measure_does_not_burst_the_headers_of_the_answer(stub, collections):
    error = refusal(stub, search_pb2.SearchRequest(collection="🜁" * 100_000, matrix=matrix(np.ones((1, 24)))))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert error.details().endswith("there is float16, float32, int8, uint8")


LIES = {
    "no queries": (search_pb2.SearchRequest(), "holds no queries"),
    "empty vector": (search_pb2.SearchRequest(vector=search_pb2.Vector()), "has 0 values"),
    "no type": (
        search_pb2.SearchRequest(matrix=search_pb2.Matrix(dim=24, data=bytes(96))),
        "row_type 0 is unknown",
    ),
    "type of the future": (
        search_pb2.SearchRequest(matrix=search_pb2.Matrix(dim=24, row_type=77, data=bytes(96))),
        "row_type 77 is unknown",
    ),
    "half a row": (
        search_pb2.SearchRequest(matrix=search_pb2.Matrix(dim=24, row_type=1, data=bytes(97))),
        "97 bytes, which isn't a multiple of the 96",
    ),
    "dim of 0": (search_pb2.SearchRequest(matrix=search_pb2.Matrix(row_type=1, data=bytes(96))), "dim is 0"),
    "negative dim": (
        search_pb2.SearchRequest(matrix=search_pb2.Matrix(dim=-24, row_type=1, data=bytes(96))),
        "dim is -24",
    ),
    "dim beyond memory": (
        search_pb2.SearchRequest(matrix=search_pb2.Matrix(dim=2**31 - 1, row_type=1)),
        "dim is 2147483647",
    ),
    "more queries than a request may hold": (
        search_pb2.SearchRequest(matrix=search_pb2.Matrix(dim=24, row_type=3, data=bytes(24 * 16_385))),
        "16385 queries; at most 16384",
    ),
    "an answer beyond the limit": (
        search_pb2.SearchRequest(matrix=search_pb2.Matrix(dim=24, row_type=3, data=bytes(24 * 16_000)), k=400),
        "takes up to 78080000 bytes, but a message may have 67108864",
    ),
}


@pytest.mark.parametrize("case", list(LIES))
def test_sizes_that_lie_are_refused_before_they_are_used(stub, collections, case):
    request, message = LIES[case]
    request.collection = "uint8"
    error = refusal(stub, request)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert message in error.details()
    assert detail(error, "BadRequest").field_violations[0].field
    assert_serves(collections)


def assert_serves(collections: Served) -> None:
    with Client(collections.address, collection="uint8") as client:
        assert client.search(collections.rows["uint8"][5], 1, recall_target=1.0).ids[0, 0] == 5


def matrix(queries: np.ndarray) -> search_pb2.Matrix:
    data = queries.astype("<f4").tobytes()
    return search_pb2.Matrix(row_type=search_pb2.ROW_TYPE_FLOAT32, dim=queries.shape[1], data=data)


def refusal(stub, request) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as refused:
        stub.Search(request, timeout=10)
    return refused.value


def detail(error: grpc.RpcError, name: str):
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    message = getattr(error_details_pb2, name)()
    assert any(packed.Unpack(message) for packed in rpc_status.from_call(error).details), name
    return message


def test_an_answer_and_an_error_go_by_the_id_that_the_message_brought_or_by_one_of_the_server(stub):
    asked = {"collection": "uint8", "k": 1, "vector": search_pb2.Vector(values=[0] * 24)}
    named, call = stub.Search.with_call(search_pb2.SearchRequest(**asked, request_id="order 66"), timeout=10)
    assert named.request_id == dict(call.trailing_metadata())["x-request-id"] == "order 66"
    unnamed, call = stub.Search.with_call(search_pb2.SearchRequest(**asked), timeout=10)
    assert len(unnamed.request_id) == 32
    assert dict(call.trailing_metadata())["x-request-id"] == unnamed.request_id
    with pytest.raises(grpc.RpcError) as refused:
        stub.Search(search_pb2.SearchRequest(**asked | {"k": -1}, request_id="order 67"), timeout=10)
    assert dict(refused.value.trailing_metadata())["x-request-id"] == "order 67"
    for wrong in ("x" * 65, "two\nlines", "zwölf"):
        with pytest.raises(grpc.RpcError, match="64 printable ASCII characters"):
            stub.Search(search_pb2.SearchRequest(**asked, request_id=wrong), timeout=10)
