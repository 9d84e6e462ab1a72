"""``annserve admin`` and ``annserve query`` before a running server: collections, jobs, and what an answer cost."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from journeys.doors import annserve_process
from serve.running import serving


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory):
    data = tmp_path_factory.mktemp("admin") / "data"
    (data / "inputs").mkdir(parents=True)
    np.save(data / "inputs" / "rows.npy", np.random.default_rng(5).normal(size=(300, 8)).astype(np.float32))
    with serving(engine="real", options=("--data", str(data), "--cache", "1MiB", "--workers", "1")) as server:
        yield server.address


def admin(address: str, *words: str, code: int = 0):
    ended = annserve_process("admin", words[0], "--address", address, *words[1:])
    assert ended.code == code, ended
    return ended


def test_a_collection_is_made_built_searched_and_removed(address: str, tmp_path: Path):
    admin(address, "create", "docs")
    assert "empty" in admin(address, "list").out
    built = admin(address, "start", "build", "docs", "input=rows.npy", "metric=cosine", "skip_invalid=true", "--watch")
    assert "build of docs: succeeded" in built.out
    assert "calibrate" in built.err, "stages are shown as they go by"
    published = json.loads(admin(address, "publish", "docs", "--json").out)
    assert (published["name"], published["state"], published["index"]["count"]) == ("docs", "ready", 300)
    assert "300 × 8 float32, cosine" in admin(address, "list").out

    np.save(tmp_path / "queries.npy", np.random.default_rng(6).normal(size=(3, 8)).astype(np.float32))
    asked = ["query", str(tmp_path / "queries.npy"), "--address", address, "--session", "s"]
    annserve_process(*asked)
    assert "answers by cache: 3 repeat" in annserve_process(*asked).err
    assert json.loads(annserve_process(*asked, "--json").out)["stats"]["cache"] == ["repeat"] * 3

    started = json.loads(admin(address, "start", "verify", "docs", "queries=20", "--json").out)
    assert started["options"] == {"queries": 20}
    assert "verify of docs: succeeded" in admin(address, "watch", started["job_id"]).out
    cancelled = json.loads(admin(address, "cancel", started["job_id"], "--json").out)
    assert cancelled["state"] == "succeeded", "a job that has ended stays as it is"
    listed = [json.loads(line) for line in admin(address, "jobs", "--json").out.splitlines()]
    assert [job["kind"] for job in listed] == ["verify", "build"]
    table = admin(address, "jobs", "--collection", "docs").out.splitlines()
    assert [line.split()[0] for line in table[2:]] == [job["job_id"] for job in listed], "a line each"
    assert table[2].split("succeeded  ")[1].startswith("docs is whole")
    admin(address, "delete", "docs", "--yes")
    until = time.monotonic() + 5  # workers notice within a second, on a quiet machine
    while annserve_process("admin", "list", "--json", "--address", address).out:
        assert time.monotonic() < until


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["start", "build", "none", "inputs=x"], "a build has no option 'inputs'; there are input, "),
        (["start", "compact", "none", "seed=1"], "a compact has no option 'seed'; it has none"),
        (["start", "build", "none", "seed=one"], "seed is 'one'; give a whole number"),
        (["start", "build", "none", "skip_invalid=yes"], "skip_invalid is 'yes'; give true or false"),
        (["create", "../etc"], "can't be the name of a collection"),
        (["watch", "none"], "there is no job 'none'"),
        (["delete", "none", "--yes"], "there is no collection 'none'"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(address, words, said):
    ended = admin(address, *words, code=2)
    assert said in ended.err
    assert ended.err.count("\n") == 1


def test_a_job_that_fails_is_a_failure_of_the_command_that_watches_it(address):
    admin(address, "create", "poor")
    ended = admin(address, "start", "build", "poor", "input=rows.npy", "column=none", "--watch", code=4)
    assert "build of poor: failed" in ended.out
    assert "is failed; 'annserve admin resume' goes on with it" in ended.err
    admin(address, "delete", "poor", "--yes")
