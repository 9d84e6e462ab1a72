"""What an index may be, and what may be asked of it: anything else is an error that says which value and why."""

from __future__ import annotations

import numpy as np
import pytest

from annserve.errors import InputError
from annserve.spec import (
    DIM_MAX,
    K_MAX,
    RECALL_TARGETS,
    IndexSpec,
    check_k,
    check_recall_target,
    check_vectors,
    first_invalid_row,
)

SPEC = IndexSpec(3, "float32", "l2")


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("dim", {"dim": 0}),
        ("dim", {"dim": -4}),
        ("dim", {"dim": DIM_MAX + 1}),
        ("row_type", {"row_type": "float64"}),
        ("metric", {"metric": "hamming"}),
        ("page_bytes", {"page_bytes": 4_095}),
        ("page_bytes", {"page_bytes": -4_096}),
        ("page_bytes", {"page_bytes": 6_000}),
        ("page_bytes", {"page_bytes": 4_096, "dim": 5_000}),
    ],
)
def test_a_spec_that_cannot_be_is_refused_by_its_field(field, changed):
    with pytest.raises(InputError) as caught:
        IndexSpec(**{"dim": 8, "row_type": "float32", "metric": "l2", **changed})
    assert caught.value.field == field
    if field in changed:
        assert str(changed[field]) in str(caught.value)


@pytest.mark.parametrize("row_type", ["uint8", "int8", "float16", "float32"])
@pytest.mark.parametrize("dim", [1, 2, 127, 4_072, DIM_MAX])
def test_the_smallest_page_that_holds_a_row_is_taken(row_type, dim):
    spec = IndexSpec(dim, row_type, "l2")
    assert spec.page_bytes % 4_096 == 0
    assert spec.page_capacity >= 1
    assert 16 + spec.slot_bytes > spec.page_bytes - 4_096
    assert spec.slot_bytes == 8 + (0 if spec.lossless else 8) + dim


def test_a_page_never_holds_more_rows_than_its_count_can_say():
    assert IndexSpec(1, "uint8", "l2", 16 * 4_096).page_capacity < 2**16


def test_a_spec_comes_back_from_the_manifest():
    for spec in (IndexSpec(5, "uint8", "ip", 8_192), SPEC):
        assert IndexSpec(**spec.as_dict()) == spec


@pytest.mark.parametrize(
    ("row_type", "metric", "stored", "space", "space_dim"),
    [
        ("uint8", "l2", "uint8", "uint8", 7),
        ("int8", "l2", "int8", "int8", 7),
        ("uint8", "cosine", "uint8", "float32", 7),
        ("float16", "l2", "int8", "float32", 7),
        ("float32", "ip", "int8", "float32", 8),
    ],
)
def test_types_follow_from_the_spec(row_type, metric, stored, space, space_dim):
    spec = IndexSpec(7, row_type, metric)
    assert (spec.stored_dtype, spec.space_dtype, spec.space_dim) == (stored, space, space_dim)


@pytest.mark.parametrize("k", [0, -1, 11, K_MAX + 1, 2.0, "3", None, True])
def test_a_k_that_cannot_be_answered_is_refused(k):
    with pytest.raises(InputError, match="k is ") as caught:
        check_k(k, 10 if k != K_MAX + 1 else 10**6)
    assert caught.value.field == "k"


def test_a_k_of_any_integer_type_is_taken():
    assert check_k(1, 1) == 1
    assert type(check_k(np.int16(10), 10)) is int
    assert check_k(K_MAX, 10**6) == K_MAX


@pytest.mark.parametrize("target", [0.0, 0.79, 0.995, 1.01, -1.0, float("nan"), float("inf"), "high", None])
def test_a_recall_target_that_was_not_calibrated_is_refused(target):
    with pytest.raises(InputError, match="recall_target"):
        check_recall_target(target)


@pytest.mark.parametrize("target", [*RECALL_TARGETS, 1.0, 1, 0.93, np.float32(0.9)])
def test_a_recall_target_that_can_be_planned_for_is_taken(target):
    assert check_recall_target(target) == target


@pytest.mark.parametrize(
    ("vectors", "reason"),
    [
        (np.zeros((2, 4)), "dimension 4, but the index has 3"),
        (np.zeros((2, 3, 1)), "3 axes"),
        (5.0, "0 axes"),
        (np.zeros((1, 3), complex), "type complex128"),
        (np.zeros((1, 3), bool), "type bool"),
        ([["a", "b", "c"]], "type <U1"),
        ([[1.0, 2.0], [1.0]], "not a matrix of numbers"),
        ([[0, 0, 0], [0, np.nan, 0]], "row 1 of the queries holds NaN"),
        ([[np.inf, 0, 0]], "row 0 of the queries holds NaN or infinity"),
        ([[1e300, 0, 0]], "row 0 of the queries holds NaN or infinity"),
        ([[1e16, 0, 0]], "beyond 1e15"),
    ],
)
def test_vectors_that_do_not_fit_are_refused_and_the_row_is_named(vectors, reason):
    with np.errstate(all="raise"), pytest.raises(InputError, match=reason) as caught:
        check_vectors(vectors, SPEC)
    assert caught.value.field == "queries"


def test_a_zero_vector_is_refused_under_cosine_alone():
    zeros = np.zeros((2, 3), np.float32)
    zeros[0] = 1e-40
    for metric in ("l2", "ip"):
        check_vectors(zeros, IndexSpec(3, "float32", metric))
    with pytest.raises(InputError, match="row 1 of the queries is a zero vector"):
        check_vectors(zeros, IndexSpec(3, "float32", "cosine"))
    assert first_invalid_row(np.zeros((1, 3), np.uint8), "cosine")[0] == 0


def test_vectors_become_what_the_engine_trusts():
    one = check_vectors([1, 2, 3], SPEC)
    assert one.shape == (1, 3)
    assert one.dtype == np.float32
    strided = check_vectors(np.zeros((8, 6))[::2, ::2], SPEC)
    assert strided.flags.c_contiguous
    lossless = IndexSpec(3, "uint8", "l2")
    assert check_vectors(np.zeros((1, 3), np.uint8), lossless).dtype == np.uint8
    for given in (np.frombuffer(bytes(6), np.uint8).reshape(2, 3), np.zeros((3, 2), np.uint8).T):
        assert check_vectors(given, lossless).flags.carray
    assert check_vectors(np.zeros((1, 3), np.int8), lossless).dtype == np.float32
    assert check_vectors(np.zeros((1, 3), np.int8), SPEC).dtype == np.float32
    assert check_vectors(np.zeros((0, 3)), SPEC).shape == (0, 3)
