"""Versions are swapped with no failed call, and what can't be trusted is set aside while the rest is served."""

from __future__ import annotations

import shutil
import threading

import fake
import numpy as np
import pytest

from annserve.catalog import follow
from annserve.catalog.catalog import Catalog, State
from annserve.catalog.follow import Follower
from annserve.errors import CorruptionError, InputError, NotFoundError, ReadError, ServerError

ROWS = np.eye(20, 4, dtype=np.float32)


@pytest.fixture
def followed(tmp_path):
    """A catalog of two collections, and what keeps it in step with their folders."""
    places = {name: fake.write(tmp_path / name, ROWS) for name in ("one", "two")}
    catalog = Catalog()
    follower = Follower(catalog, lambda: places, fake.open)
    follower.look()
    return places, catalog, follower


def test_a_new_version_takes_its_place_and_the_old_one_closes_after_its_last_call(followed):
    places, catalog, follower = followed
    first = catalog.lease("one")
    also = catalog.lease("one")
    fake.publish(places["one"], ROWS, 2)
    follower.look()
    with catalog.lease("one") as second:
        assert (first.snapshot, second.snapshot) == (1, 2)
    first.release()
    assert not first.collection.closed
    also.release()
    assert first.collection.closed
    assert not second.collection.closed
    follower.look()
    assert catalog.lease("one").collection is second.collection


def test_a_version_that_cannot_be_opened_leaves_the_one_before_it_served(followed):
    places, catalog, follower = followed
    fake.publish(places["one"], ROWS, 0)
    follower.look()
    standing = catalog.standing("one")
    assert (standing.state, "damaged" in standing.reason) == (State.READY, True)
    assert catalog.lease("one").snapshot == 1
    fake.publish(places["one"], ROWS, 3)
    follower.look()
    assert catalog.standing("one").reason == ""
    assert catalog.lease("one").snapshot == 3


def test_a_damaged_collection_is_quarantined_with_its_reason_until_it_is_whole(tmp_path):
    places = {name: fake.write(tmp_path / name, ROWS) for name in ("good", "bad")}
    fake.publish(places["bad"], ROWS, 0)
    catalog = Catalog()
    told = []
    catalog.listen(lambda standing: told.append((standing.name, standing.state)))
    follower = Follower(catalog, lambda: places, fake.open)
    follower.look()
    assert catalog.lease("good").snapshot == 1
    with pytest.raises(CorruptionError, match="damaged"):
        catalog.lease("bad")
    assert ("bad", State.QUARANTINED) in told
    fake.publish(places["bad"], ROWS, 5)
    follower.look()
    assert catalog.lease("bad").snapshot == 5
    assert told[-1] == ("bad", State.READY)


def test_a_collection_that_fails_as_nobody_foresaw_is_set_aside_and_the_others_are_served(tmp_path):
    places = {name: fake.write(tmp_path / name, ROWS) for name in ("bad", "good")}
    (places["bad"] / "fake.json").write_text("no JSON")
    catalog = Catalog()
    follower = Follower(catalog, lambda: places, fake.open)
    follower.look()
    assert catalog.lease("good").snapshot == 1
    assert catalog.standing("bad").state is State.QUARANTINED
    with pytest.raises(ServerError, match="opening it failed: JSONDecodeError"):
        catalog.lease("bad")


def test_what_a_device_failed_to_give_is_tried_again_and_what_is_damaged_is_not(tmp_path, monkeypatch):
    places = {name: fake.write(tmp_path / name, ROWS) for name in ("away", "damaged")}
    errors = {"away": ReadError("the device doesn't answer"), "damaged": CorruptionError("damaged")}
    opened = []

    def open_index(folder):
        opened.append(folder.name)
        if errors.get(folder.name):
            raise errors[folder.name]
        return fake.open(folder)

    catalog = Catalog()
    follower = Follower(catalog, lambda: places, open_index)
    for _ in range(3):
        follower.look()
    assert opened == ["away", "damaged"]
    monkeypatch.setattr(follow, "AGAIN_SECONDS", 0.0)
    follower._again["away"] = 0.0
    follower.look()
    assert catalog.standing("away").state is State.QUARANTINED
    errors["away"] = None
    follower.look()
    assert catalog.lease("away").snapshot == 1
    follower.look()
    assert opened == ["away", "damaged", "away", "away"]


def test_a_collection_deleted_and_made_anew_between_two_looks_is_another_one(followed):
    """Who listens, as the auditor, learns that the first is gone."""
    places, catalog, follower = followed
    gone = []
    catalog.listen(lambda standing: gone.append(standing.name) if standing.gone else None)
    first = catalog.lease("one")
    shutil.rmtree(places["one"])
    places["one"].mkdir()
    follower.look()
    assert gone == ["one"]
    assert catalog.standing("one").state is State.EMPTY
    first.release()
    assert first.collection.closed


def test_collections_come_and_go_with_their_folders(followed, tmp_path):
    places, catalog, follower = followed
    places["three"] = tmp_path / "three"
    places["three"].mkdir()
    follower.look()
    assert catalog.standing("three").state == State.EMPTY
    with pytest.raises(ServerError, match="no index yet"):
        catalog.lease("three")
    held = catalog.lease("two")
    shutil.rmtree(places.pop("two"))
    follower.look()
    with pytest.raises(NotFoundError, match="there is one, three"):
        catalog.lease("two")
    assert not held.collection.closed
    held.release()
    assert held.collection.closed
    with pytest.raises(InputError, match="name one of"):
        catalog.lease("")


def test_no_call_fails_and_none_is_answered_by_a_closed_version_while_versions_fly_by(followed):
    places, catalog, follower = followed
    failures, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            try:
                with catalog.lease("one") as version:
                    version.collection.search(ROWS[:1], 1)
            except BaseException as error:
                failures.append(error)
                return

    callers = [threading.Thread(target=ask) for _ in range(6)]
    for caller in callers:
        caller.start()
    for snapshot in range(2, 60):
        fake.publish(places["one"], ROWS, snapshot)
        follower.look()
    stop.set()
    for caller in callers:
        caller.join()
    assert failures == []
    assert catalog.lease("one").snapshot == 59
