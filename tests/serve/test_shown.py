"""What a running server tells of itself: health of each collection, metrics of all workers, one page, no secrets."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from running import RunningServer, run, serving

from annserve.client import AdminClient, Client
from annserve.errors import AnnserveError, CorruptionError

DIM = 12
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of a few rows, as a build leaves it."""
    folder = tmp_path_factory.mktemp("built")
    np.save(folder / "rows.npy", np.random.default_rng(5).normal(size=(300, DIM)).astype(np.float32))
    ended = run("build", str(folder / "rows.npy"), "--out", str(folder / "index"), engine="real")
    assert ended.returncode == 0, ended.stderr
    return folder / "index"


def copy(built: Path, place: Path) -> Path:
    shutil.copytree(built, place)
    return place


def damage(file: Path, kind: str) -> None:
    data = bytearray(file.read_bytes())
    if kind == "a flipped bit":
        data[len(data) // 2] ^= 1
    file.write_bytes(data if kind == "a flipped bit" else data[: len(data) // 2])


@contextmanager
def shown(*folders: Path, engine: str = "real", options: tuple[str, ...] = ()):
    """A server with its page on a free port; gives it and the page's address."""
    with serving(*folders, engine=engine, options=("--http-listen", "127.0.0.1:0", *options)) as server:
        yield server, server.status_url()


def read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read()


def metric(url: str, name: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(read(url + "metrics").decode()):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    return None


def told(url: str) -> dict[str, dict]:
    return {one["name"]: one for one in json.loads(read(url + "status.json"))["collections"]}


def health_of(server: RunningServer, service: str) -> tuple[int, str]:
    with grpc.insecure_channel(server.address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer, call = stub.Check.with_call(health_pb2.HealthCheckRequest(service=service), timeout=10)
        return answer.status, dict(call.trailing_metadata()).get("annserve-reason", "")


def wait(seen, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("kind", ["a flipped bit", "a cut"])
def test_a_damaged_index_is_quarantined_with_its_reason_and_the_other_serves(built, tmp_path, kind):
    good, bad = copy(built, tmp_path / "good"), copy(built, tmp_path / "bad")
    damage(bad / "segment-000001" / "heads.bin", kind)
    with shown(good, bad, options=("--workers", "2")) as (server, url):
        with Client(server.address, collection="good") as client:
            assert client.search(np.ones(DIM), 3).ids.shape == (1, 3)
        with Client(server.address, collection="bad") as client:
            with pytest.raises(CorruptionError, match=r"heads\.bin") as refused:
                client.search(np.ones(DIM), 3)
            assert refused.value.path == Path("heads.bin")
        with AdminClient(server.address, collection="bad") as admin:
            assert "heads.bin" in admin.collection().reason
            for text in (str(refused.value), admin.collection().reason, read(url + "status.json").decode()):
                assert str(tmp_path) not in text, "where files lie is nobody's business but the server's"
        assert health_of(server, "collections/good") == (SERVING, "")
        status, reason = health_of(server, "collections/bad")
        assert (status, "heads.bin" in reason) == (NOT_SERVING, True)
        assert str(tmp_path) not in reason, "a probe needs no key, and learns no path"
        assert health_of(server, "")[0] == SERVING
        page = told(url)
        assert (page["good"]["state"], page["good"]["reason"]) == ("ready", "")
        assert page["bad"]["state"] == "quarantined"
        assert "heads.bin" in page["bad"]["reason"]
        assert metric(url, "annserve_collection_fault", collection="bad") == 1
        assert metric(url, "annserve_collection_fault", collection="good") == 0
        assert metric(url, "annserve_collection_workers", collection="bad", state="quarantined") == 2
        assert metric(url, "annserve_collection_workers", collection="good", state="ready") == 2
        assert str(bad / "segment-000001" / "heads.bin") in server.stop()[1]


def test_a_damaged_new_version_is_told_of_and_the_old_one_serves_on(built, tmp_path, rng):
    """The version is published whole and then placed, damaged, where the server looks; then as it should be."""
    place, aside = copy(built, tmp_path / "photos"), copy(built, tmp_path / "aside")
    np.save(tmp_path / "more.npy", rng.normal(size=(60, DIM)).astype(np.float32))
    assert run("append", str(aside), str(tmp_path / "more.npy"), engine="real").returncode == 0
    with shown(place) as (server, url), Client(server.address) as client:
        assert client.search(np.ones(DIM), 1).ids.shape == (1, 1)
        (new,) = {path.name for path in aside.glob("segment-*")} - {"segment-000001"}
        shutil.copytree(aside / new, place / new)
        damage(place / new / "pages.bin", "a cut")
        for manifest in aside.glob("manifest-*"):
            shutil.copy(manifest, place)
        shutil.copy(aside / "CURRENT", place / "CURRENT.new")
        (place / "CURRENT.new").replace(place / "CURRENT")
        wait(lambda: told(url)["photos"]["reason"])
        assert told(url)["photos"]["state"] == "ready"
        assert "pages.bin" in told(url)["photos"]["reason"]
        assert told(url)["photos"]["info"]["count"] == 300
        assert metric(url, "annserve_collection_fault", collection="photos") == 1
        status, reason = health_of(server, "collections/photos")
        assert (status, "pages.bin" in reason) == (SERVING, True)
        assert client.search(np.ones(DIM), 1).ids.shape == (1, 1)

        shutil.copy(aside / new / "pages.bin", place / new / "pages.bin")
        shutil.copy(aside / "CURRENT", place / "CURRENT.new")
        (place / "CURRENT.new").replace(place / "CURRENT")
        wait(lambda: metric(url, "annserve_rows", collection="photos") == 360)
        assert told(url)["photos"]["reason"] == ""
        assert metric(url, "annserve_collection_fault", collection="photos") == 0


def test_a_build_is_shown_with_its_progress_and_its_collection_from_its_making_to_its_end(tmp_path, rng):
    np.save(tmp_path / "rows.npy", rng.normal(size=(2_000, DIM)).astype(np.float32))
    with shown(options=("--data", str(tmp_path / "data"))) as (server, url), AdminClient(server.address) as admin:
        shutil.copy(tmp_path / "rows.npy", tmp_path / "data" / "inputs")
        admin.create_collection("notes")
        wait(lambda: told(url).get("notes", {}).get("state") == "empty")
        assert metric(url, "annserve_collection_fault", collection="notes") == 0
        job = admin.start("build", "notes", input="rows.npy")
        stages, state = set(), ""
        while state not in ("succeeded", "failed"):
            (one,) = json.loads(read(url + "status.json"))["jobs"]
            state = one["state"]
            stages.add(one["stage"])
        assert (one["job_id"], one["kind"], one["collection"], state) == (job.job_id, "build", "notes", "succeeded")
        assert len(stages) > 3, "stage after stage was seen"
        assert metric(url, "annserve_jobs", state="succeeded") == 1
        wait(lambda: told(url)["notes"]["state"] == "ready")
        admin.delete_collection("notes")
        wait(lambda: "notes" not in told(url))


def test_counts_of_all_workers_add_up_and_those_of_a_killed_one_stay(photos):
    with shown(photos, engine="fake", options=("--workers", "2")) as (server, url):
        assert metric(url, "annserve_queries_total", collection="photos") == 0
        assert metric(url, "grpc_server_handled_total", grpc_method="Search", grpc_code="OK") == 0
        answered = 0
        for _ in range(6):  # each a connection of its own, which the kernel deals to one of the two
            with Client(server.address) as client:
                client.search(np.zeros((5, 24)), 3)
                with pytest.raises(AnnserveError):
                    client.search(np.zeros(3), 3)
                # What was answered before is counted, whichever worker answered it.
                assert metric(url, "annserve_queries_total", collection="photos") == (answered := answered + 5)
        failed = {"grpc_method": "Search", "grpc_code": "INVALID_ARGUMENT"}
        assert metric(url, "grpc_server_handled_total", **failed) == 6
        assert metric(url, "annserve_search_seconds_count", collection="photos") == 6
        assert metric(url, "annserve_ram_bytes", collection="photos", tier="heads") == 4096
        processes = json.loads(read(url + "status.json"))["server"]["processes"]
        assert [one["name"] for one in processes] == ["supervisor", "worker-0", "worker-1"]
        os.kill(processes[1]["pid"], signal.SIGKILL)
        wait(lambda: metric(url, "annserve_worker_restarts_total") == 1)
        wait(lambda: metric(url, "annserve_collection_workers", collection="photos", state="ready") == 2)
        assert metric(url, "annserve_queries_total", collection="photos") == 30


def test_without_the_setting_there_is_no_page_and_a_public_one_takes_guard(photos):
    with serving(photos) as server:
        code, _ = server.stop()
        assert code == 0
        assert server.process.stdout is not None
    refused = run("serve", str(photos), "--listen", "127.0.0.1:0", "--http-listen", "0.0.0.0:0")
    assert (refused.returncode, "--insecure" in refused.stderr) == (2, True)


def test_the_page_in_a_browser_shows_a_live_server(built, tmp_path, browser):
    good, bad = copy(built, tmp_path / "good"), copy(built, tmp_path / "bad")
    damage(bad / "segment-000001" / "heads.bin", "a cut")
    with shown(good, bad) as (server, url), Client(server.address, collection="good") as client:
        browser.go_online()
        browser.show(url)
        deadline = time.monotonic() + 15
        speed = "parseFloat(document.querySelector('[data-collection=good] b')?.textContent) > 0"
        while not browser.value(speed):
            assert time.monotonic() < deadline
            client.search(np.ones((20, DIM)), 3)
        assert browser.exceptions() == []
        assert browser.value("document.querySelector('[data-collection=bad] .state').textContent") == "quarantined"
        assert "heads.bin" in browser.value("document.querySelector('[data-collection=bad] .reason').textContent")
        assert len(browser.picture()) > 20_000


def test_a_name_that_is_another_sites_gets_nothing(photos):
    with shown(photos, engine="fake") as (_, url):
        request = urllib.request.Request(url + "status.json", headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request, timeout=10)
        assert re.match(r"http://127\.0\.0\.1:\d+/$", url)
