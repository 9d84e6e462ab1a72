"""What a request asks of the cache: over gRPC as in the process, and no answer of one key for another."""

from __future__ import annotations

import shutil
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from running import serving

from annserve.build.pipeline import build
from annserve.client import Client
from annserve.design.options import BuildOptions
from annserve.errors import InputError
from annserve.guard.keys import new_key
from annserve.update.append import append

N, DIM = 600, 16


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache-served")
    np.save(folder / "rows.npy", np.random.default_rng(3).normal(size=(N, DIM)).astype(np.float32))
    build(folder / "rows.npy", folder / "index", BuildOptions(calibration_queries=50, threads=1, metric="cosine"))
    return folder / "index"


def test_a_served_cache_grades_its_answers_by_key_and_counts_them(index, tmp_path):
    # Of one name, for keys are told apart by their ids.
    keys = [new_key(tmp_path / "keys.json", "rag", "read")[1] for _ in range(2)]
    query = np.random.default_rng(4).normal(size=(1, DIM)).astype(np.float32)
    options = ("--cache", "1MiB", "--keys", str(tmp_path / "keys.json"), "--workers", "1")
    with serving(index, engine="real", options=options) as server:
        one, other = (Client(server.address, api_key=key) for key in keys)
        first = one.search(query, session="dialogue-17")
        again = one.search(query, session=b"another")
        # A server warms up with searches of its own, so that pages may be there already.
        assert first.stats.cache != ("repeat",)
        assert again.stats.cache == ("repeat",)
        np.testing.assert_array_equal(again.ids, first.ids)
        np.testing.assert_array_equal(again.distances, first.distances)
        assert other.search(query).stats.cache != ("repeat",)
        assert one.search(query, bypass_cache=True).stats.cache == ()
        moved = one.search(query * np.float32(1.001), session="dialogue-17", approximate_cosine=0.9)
        assert moved.stats.cache == ("approximate",)
        with pytest.raises(InputError, match="at most 128"):
            one.search(query, session="x" * 129)
        with pytest.raises(InputError, match=r"between 0\.5 and 1"):
            one.search(query, approximate_cosine=0.2)
        one.close()
        other.close()


def test_a_server_without_a_cache_says_nothing_of_one(index):
    query = np.ones((1, DIM), np.float32)
    with serving(index, engine="real", options=("--workers", "1")) as server, Client(server.address) as client:
        assert client.search(query, session="s").stats.cache == ()
        assert client.search(query, session="s").stats.cache == ()


def test_what_caches_save_is_told_and_goes_on_over_versions(index, tmp_path):
    """A new version has a new cache, which counts anew; a counter of the server never falls."""
    shutil.copytree(index, tmp_path / "copy")
    queries = np.random.default_rng(4).normal(size=(8, DIM)).astype(np.float32)
    options = ("--cache", "1MiB", "--workers", "1", "--http-listen", "127.0.0.1:0")
    with serving(tmp_path / "copy", engine="real", options=options) as server, Client(server.address) as client:
        url = server.status_url()
        for _ in range(5):
            client.search(queries)
        saved = until(lambda: counted(url, "annserve_cache_pages_saved_total"))
        assert counted(url, 'annserve_cache_answers_total{collection="copy",grade="repeat"}') >= 16
        assert 16 << 10 < counted(url, "annserve_cache_bytes") <= 1 << 20
        append(tmp_path / "copy", index.parent / "rows.npy")
        until(lambda: client.info()["count"] == 2 * N)
        for _ in range(5):
            client.search(queries)
        assert until(lambda: counted(url, "annserve_cache_pages_saved_total") > saved)


def counted(url: str, series: str) -> float:
    """Give the sum of the series whose line begins like this."""
    with urllib.request.urlopen(url + "metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(series))


def until(ask):
    """Give what `ask` gives once it gives something."""
    deadline = time.monotonic() + 10
    while not (given := ask()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return given
