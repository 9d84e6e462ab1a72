"""Products take one thread while they are asked to, and as many as before afterwards."""

from __future__ import annotations

from threadpoolctl import threadpool_info, threadpool_limits

from annserve.blas import without_blas_threads


def threads_of_blas():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_products_take_one_thread_until_the_block_ends():
    with threadpool_limits(3, "blas"):
        before = threads_of_blas()
        with without_blas_threads():
            assert set(threads_of_blas()) == {1}
        assert threads_of_blas() == before
        assert set(before) == {3}
