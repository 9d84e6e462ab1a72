"""A server with a data folder: collections are made, built and searched over gRPC, whichever worker is asked."""

from __future__ import annotations

import time

import numpy as np
import pytest
from running import serving

from annserve.client import AdminClient, Client
from annserve.config import ServeConfig
from annserve.errors import InputError, NotFoundError, OutputError, ServerError
from annserve.serve.places import check_places, places_of


def test_a_collection_is_made_built_searched_and_removed_through_any_worker(tmp_path, rng):
    rows = rng.integers(0, 256, (800, 16)).astype(np.uint8)
    with serving(engine="real", options=("--data", str(tmp_path / "data"), "--workers", "2")) as server:
        np.save(tmp_path / "data" / "inputs" / "rows.npy", rows)
        with AdminClient(server.address) as admin:
            admin.create_collection("photos")
        with AdminClient(server.address) as admin:
            job = admin.wait(admin.start("build", "photos", input="rows.npy").job_id)
        assert job.state == "succeeded", job
        until = time.monotonic() + 20
        for _ in range(6):
            with Client(server.address, collection="photos") as client:
                while True:
                    try:
                        found = client.search(rows[7], 1, recall_target=1.0)
                        break
                    except ServerError:
                        assert time.monotonic() < until
                        time.sleep(0.1)
                assert found.ids[0, 0] == 7
        with AdminClient(server.address) as admin:
            admin.delete_collection("photos")
        time.sleep(1)
        for _ in range(4):
            with Client(server.address, collection="photos") as client:
                try:
                    client.search(rows[7], 1)
                except NotFoundError:
                    continue
                raise AssertionError("it is served still")
        code, log = server.stop()
    assert code == 0, log
    for method in ("CreateCollection", "StartJob", "DeleteCollection"):
        assert log.count(f"method=/annserve.v1.AdminService/{method} ") == 1, "a change is one line of the log"


def test_without_a_data_folder_changes_are_refused_with_the_reason(photos):
    refusal = pytest.raises(OutputError, match="--data")
    with serving(photos) as server, AdminClient(server.address) as admin, refusal:
        admin.create_collection("more")


def test_a_folder_of_a_named_collections_name_is_refused_at_the_start_and_harms_nobody_later(tmp_path, photos):
    """It was made by hand while the server ran."""
    config = ServeConfig(collections={"photos": photos}, data=tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "more").mkdir()
    with pytest.raises(InputError, match="give another name"):
        check_places(config)
    assert places_of(config) == {"photos": photos, "more": tmp_path / "more"}
