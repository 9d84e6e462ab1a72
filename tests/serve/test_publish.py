"""States of collections, new versions published to all processes, recall measured and audited: over gRPC."""

from __future__ import annotations

import time
from pathlib import Path

import fake
import grpc
import numpy as np
import pytest
from audit.spoilt import build_index, spoil, vectors
from running import serving
from serve.conftest import rows_of

from annserve.client import AdminClient, Client
from annserve.errors import BusyError, ConflictError, CorruptionError, DeadlineError, InputError, NotFoundError
from annserve.rpc import search_pb2, search_pb2_grpc


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    photos = fake.write(folder / "photos", rows_of("uint8"))
    with serving(photos, options=("--data", str(folder / "data"), "--workers", "2", "--audit", "0.5")) as server:
        server.photos = photos
        yield server


@pytest.fixture
def admin(server):
    with AdminClient(server.address) as admin:
        yield admin


def test_a_server_tells_its_processes_and_whether_it_can_be_changed(server, photos):
    with Client(server.address) as client:
        info = client.server_info()
    assert (info["workers"], info["writable"]) == (2, True)
    with serving(photos) as plain, Client(plain.address) as client:
        assert (client.server_info()["workers"], client.server_info()["writable"]) == (1, False)


def test_collections_are_told_with_their_state(admin):
    made = admin.create_collection("notes")
    assert (made.state, made.managed) == ("empty", True)
    until = time.monotonic() + 10
    while len(told := {one.name: one for one in admin.collections()}) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    assert (told["notes"].state, told["notes"].managed, told["notes"].index) == ("empty", True, None)
    assert (told["photos"].state, told["photos"].managed, told["photos"].reason) == ("ready", False, "")
    assert told["photos"].index["count"] == 400
    assert admin.collection("photos").name == "photos"
    with pytest.raises(NotFoundError):
        admin.collection("other")
    with pytest.raises(ConflictError, match="already"):
        admin.create_collection("photos")
    with pytest.raises(InputError, match="name one of"):
        admin.collection()
    with pytest.raises(InputError, match="no index yet") as refused:
        admin.publish_version("notes")
    assert refused.value.field == "collection"
    admin.delete_collection("notes")


def test_once_a_version_is_published_every_process_answers_from_it(server, admin):
    """Each answer comes over a connection of its own, so that every process is asked."""
    for snapshot in range(2, 8):
        fake.publish(server.photos, rows_of("uint8")[:, ::-1].copy(), snapshot)
        published = admin.publish_version("photos", snapshot)
        assert published.index["snapshot"] == snapshot
        for number in range(6):
            options = [("annserve.test", number), ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
            with grpc.insecure_channel(server.address, options) as channel:
                matrix = search_pb2.Matrix(row_type=3, dim=24, data=bytes(24))
                request = search_pb2.SearchRequest(collection="photos", matrix=matrix, k=1)
                answer = search_pb2_grpc.SearchServiceStub(channel).Search(request)
            assert answer.snapshot == snapshot


def test_publishing_takes_the_time_that_it_needs(server):
    with AdminClient(server.address, timeout=1e-9) as hasty:
        with pytest.raises(DeadlineError):
            hasty.collection("photos")
        assert hasty.publish_version("photos").state == "ready"


def test_another_version_than_the_expected_one_is_told(server, admin):
    newest = admin.publish_version("photos").index["snapshot"]
    with pytest.raises(ConflictError, match=f"version {newest} of 'photos' is the newest, not {newest + 7}"):
        admin.publish_version("photos", newest + 7)


def test_a_damaged_version_is_refused_and_the_one_before_serves_on(server, admin):
    before = admin.publish_version("photos").index["snapshot"]
    fake.publish(server.photos, rows_of("uint8"), 0)
    with pytest.raises(CorruptionError, match="is damaged"):
        admin.publish_version("photos")
    told = admin.collection("photos")
    assert (told.state, told.index["snapshot"]) == ("ready", before)
    assert "is damaged" in told.reason
    with Client(server.address, collection="photos") as client:
        assert client.search(np.zeros(24), 1).ids.shape == (1, 1)
    fake.publish(server.photos, rows_of("uint8"), before + 1)
    admin.publish_version("photos", before + 1)


class TestMeasuring:
    @pytest.fixture
    @staticmethod
    def client(server):
        with Client(server.address, collection="photos") as client:
            yield client

    def test_recall_is_measured_on_queries_of_the_caller(self, client):
        found = client.measure_recall(rows_of("uint8")[:40], 5, recall_target=0.9, confidence=0.99)
        assert (found.k, found.recall_target, found.queries, found.confidence) == (5, 0.9, 40, 0.99)
        assert found.recall == found.recall_high == 1.0  # the engine of these tests is exact
        assert 0.95 < found.recall_low < 1
        assert found.query_recalls.tolist() == [1.0] * 40
        assert found.pages_mean == 3.0

    def test_live_queries_are_sampled_audited_and_told(self, server, admin):
        """Each search goes over a connection of its own, so that the process that `admin` asks is asked too."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with Client(server.address, collection="photos") as client:
                client.search(rows_of("uint8")[:64], 5, recall_target=0.9)
            audits = [one for one in admin.collection("photos").audits if one["recall_target"] == 0.9]
            if audits:
                break
            time.sleep(0.1)
        (audit,) = audits
        assert (audit["recall"], audit["recall_high"]) == (1.0, 1.0)
        assert audit["queries"] >= 1
        while time.monotonic() < until:
            with Client(server.address, collection="photos") as client:
                try:
                    found = client.measure_recall(live=10, k=5)
                    break
                except InputError:
                    continue
        assert 1 <= found.queries <= 10

    @pytest.mark.parametrize(
        ("asked", "field"),
        [
            ({"queries": np.zeros((0, 24))}, "queries"),
            ({"queries": np.zeros((1_001, 24))}, "queries"),
            ({"queries": np.zeros((1, 24)), "k": 0}, "k"),
            ({"queries": np.zeros((1, 24)), "k": 401}, "k"),
            ({"queries": np.zeros((1, 24)), "recall_target": 0.5}, "recall_target"),
            ({"queries": np.zeros((1, 24)), "confidence": 1.0}, "confidence"),
            ({"queries": np.zeros((1, 24)), "confidence": float("nan")}, "confidence"),
            ({"queries": np.zeros((1, 23))}, "queries"),
            ({"live": 0}, "live"),
            ({"live": 100_000}, "live"),
        ],
    )
    def test_what_can_not_be_measured_is_refused_by_field(self, client, asked, field):
        with pytest.raises(InputError) as refused:
            client.measure_recall(**asked)
        assert refused.value.field == field

    def test_without_live_queries_that_is_said(self, photos):
        with serving(photos, options=("--audit", "0")) as quiet, Client(quiet.address) as client:
            client.search(np.zeros(24), 1)
            with pytest.raises(InputError, match="has been sampled yet") as refused:
                client.measure_recall(live=5)
            assert refused.value.field == "live"

    def test_one_measurement_at_a_time_and_it_ends_with_its_caller(self, slower):
        with serving(slower) as server, Client(server.address, timeout=0.7) as hasty:
            with pytest.raises(DeadlineError):
                hasty.measure_recall(np.zeros((1, 24)))
            with Client(server.address, timeout=1.0) as other, pytest.raises((BusyError, DeadlineError)):
                other.measure_recall(np.zeros((1, 24)))
            with Client(server.address, timeout=20.0) as patient:
                assert patient.measure_recall(np.zeros((1, 24))).recall == 1.0


@pytest.mark.slow
def test_a_spoilt_calibration_is_seen_and_cured_by_a_running_server(tmp_path: Path):
    """The whole way: a real index whose plan falls short, a real server, a client that asks and asks."""
    index = build_index(tmp_path)
    spoil(index, tmp_path / "notes")
    options = ("--audit", "0.5", "--hold-recall", "--workers", "1")
    with serving(tmp_path / "notes", engine="real", options=options) as server, Client(server.address) as client:
        before = client.measure_recall(vectors(300, 3), recall_target=0.95)
        assert before.recall_high < 0.95
        until, seed = time.monotonic() + 60, 10
        held = before
        while time.monotonic() < until and held.recall < 0.945:
            for _ in range(20):
                client.search(vectors(32, seed), recall_target=0.95)
                seed += 1
            time.sleep(0.5)
            held = client.measure_recall(vectors(300, 3), recall_target=0.95)
        assert held.recall >= 0.945
        assert held.pages_mean > before.pages_mean
        code, log = server.stop()
    assert "recall is corrected" in log
    assert code == 0
