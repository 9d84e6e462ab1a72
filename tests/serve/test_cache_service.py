"""What a request asks of the cache: over gRPC as in the process, and no answer of one key for another."""

from __future__ import annotations

import shutil
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from running import serving, wait_until

import annserve
from annserve.build.pipeline import build
from annserve.client import AdminClient, Client
from annserve.design.options import BuildOptions
from annserve.errors import InputError
from annserve.guard.keys import new_key
from annserve.results import SearchResult
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


def test_versions_published_under_look_ups_answer_for_themselves(index, tmp_path):
    """Each answer is that of one version, for all queries of a call, and of the newest that was published before it.

    A new version has rows nearer to every query than any before, and a new cache, which counts anew; a counter of the
    server never falls.
    """
    place = tmp_path / "copy"
    shutil.copytree(index, place)
    queries = np.random.default_rng(4).normal(size=(24, DIM)).astype(np.float32)
    options = ("--cache", "1MiB", "--workers", "1", "--http-listen", "127.0.0.1:0", "--data", str(tmp_path / "data"))
    with serving(place, engine="real", options=options) as server, AdminClient(server.address) as admin:
        url, published, done = server.status_url(), [answers(place, queries)], threading.Event()
        seen: list[list[tuple[int, np.ndarray, SearchResult]]] = [[] for _ in range(3)]
        threads = [threading.Thread(target=look_up, args=(server, queries, published, done, mine)) for mine in seen]
        for thread in threads:
            thread.start()
        saved = []
        try:
            for version in (1, 2):
                saved.append(wait_until(lambda: counted(url, "annserve_cache_pages_saved_total") > 0 and told(url)))
                assert 16 << 10 < counted(url, "annserve_cache_bytes") <= 1 << 20
                np.save(tmp_path / "more.npy", queries + np.float32(0.02 / version))
                append(place, tmp_path / "more.npy")
                expected = answers(place, queries)
                admin.publish_version("copy")
                published.append(expected)
                held = len(seen[0])
                wait_until(lambda least=held + 30: len(seen[0]) > least)
            saved.append(told(url))
        finally:
            done.set()
            for thread in threads:
                thread.join()
    assert saved == sorted(saved)
    repeats = [0, 0, 0]
    for least, which, found in (one for mine in seen for one in mine):
        versions = [
            version
            for version, (ids, distances) in enumerate(published)
            if (found.ids == ids[which]).all() and (found.distances == distances[which]).all()
        ]
        assert len(versions) == 1, which
        assert versions[0] >= least
        repeats[versions[0]] += found.stats.cache.count("repeat")
    assert min(repeats) > 0


def answers(place: Path, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give what the newest version answers, without a server and a cache."""
    with annserve.open(place, threads=1) as opened:
        found = opened.search(queries, 3)
    return found.ids, found.distances


def look_up(server, queries, published, done, mine) -> None:
    """Ask for queries, some again and again, and note how many versions had been published before each call."""
    random = np.random.default_rng(len(mine))
    with Client(server.address) as client:
        while not done.is_set():
            which = np.minimum(random.geometric(0.2, 3), len(queries)) - 1
            least = len(published) - 1
            mine.append((least, which, client.search(queries[which], 3, session="s")))


def told(url: str) -> tuple[float, float]:
    """Give the pages that caches saved, and the answers that were there."""
    repeats = 'annserve_cache_answers_total{collection="copy",grade="repeat"}'
    return counted(url, "annserve_cache_pages_saved_total"), counted(url, repeats)


def counted(url: str, series: str) -> float:
    """Give the sum of the series whose line begins like this."""
    with urllib.request.urlopen(url + "metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(series))
