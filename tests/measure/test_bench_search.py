"""``annserve bench search``: the report keeps its names, the table its numbers, bad input its one line."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest
from broken_targets import ExactTarget, Padded
from click.testing import CliRunner

from annserve.cli import bench
from annserve.errors import InputError, NotFoundError, OutputError, ServerError
from annserve.measure.counters import Memory, Usage, memory_now, usage_now
from annserve.measure.machine import describe_machine, find_commit, hash_file
from annserve.measure.report import INDEX_FACTS, report_text


class Unreachable(ExactTarget):
    """A server that has gone away."""

    def search(self, queries, k=10, *, recall_target=0.95):
        raise ServerError("no server answers at 127.0.0.1:1; start one with 'annserve serve'")


@pytest.fixture
def files(tmp_path, rng):
    """Queries and truth of a small base, and the base itself."""
    base = rng.integers(0, 256, (50, 4), dtype=np.uint8)
    queries = rng.integers(0, 256, (8, 4), dtype=np.uint8)
    exact = ExactTarget(base).search(queries, 20)
    np.save(tmp_path / "q.npy", queries)
    np.save(tmp_path / "gt.npy", exact.ids.astype(np.int32))
    np.save(tmp_path / "gt.distances.npy", exact.distances)
    return tmp_path, base


@pytest.fixture
def run(files, monkeypatch):
    """Give a function that runs the command on a target over the base, and raises what it raises."""
    folder, base = files

    def run_bench(*arguments, kind=ExactTarget, inputs=("q.npy", "gt.npy")):
        def open_target(stack, index, address, io):
            if address:
                nobody = Usage(None, None), Memory(None, None)
                return bench.Opened(kind(base), lambda: nobody[0], lambda: nobody[1], {})
            return bench.Opened(kind(base), usage_now, memory_now, {"before_open": memory_now().as_dict()})

        monkeypatch.setattr(bench, "_open_target", open_target)
        options = ["--queries", str(folder / inputs[0]), "--truth", str(folder / inputs[1])]
        return CliRunner().invoke(bench.command, ["search", *options, *map(str, arguments)], catch_exceptions=False)

    return run_bench


def test_the_report_has_the_promised_names_and_numbers(run, files):
    folder, base = files
    path = folder / "out.json"
    done = run(folder, "--recall", "0.90,0.98", "--threads", "1,2", "--repetitions", 2, "--json", path)
    assert done.exit_code == 0, done.output
    report = json.loads(path.read_text())
    assert [(one["recall_target"], one["threads"]) for one in report["results"]] == [
        (0.9, 1),
        (0.9, 2),
        (0.98, 1),
        (0.98, 2),
    ]
    for record in report["results"]:
        assert record["recall_10_at_10"] == record["recall_p5"] == 1
        assert record["qps"] > 0
        assert record["latency_us_p50"] <= record["latency_us_p95"] <= record["latency_us_p99"]
        assert record["pages_read_mean"] == record["pages_read_p99"] == 3
        assert (record["reads_mean"], record["bytes_read_mean"]) == (2, 3 * 4_096)
        assert len(record["passes"]) == 2
    assert set(INDEX_FACTS) <= set(report["index"])
    assert (report["index"]["count"], report["index"]["dim"]) == base.shape
    assert report["index"]["build_seconds"] is None
    assert {"cpu", "cores", "kernel", "ram_bytes", "disk"} <= set(report["machine"])
    assert report["memory"]["after_runs"]["rss_bytes"] >= report["memory"]["after_runs"]["pss_bytes"] > 0
    assert report["settings"]["k"] == 10
    assert report["versions"]["numpy"] == np.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", report["date"])
    for name, file in (("queries", "q.npy"), ("truth", "gt.npy")):
        digest = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        assert report["inputs"][name]["sha256"] == digest


def test_recall_is_named_by_k(run, files):
    folder, _ = files
    done = run(folder, "-k", 5, "--recall", "0.9", "--threads", 1, "--json", "-")
    record = json.loads(done.stdout)["results"][0]
    assert record["recall_5_at_5"] == 1
    assert "recall_10_at_10" not in record


def test_the_table_goes_to_stdout_and_doubts_to_stderr(run, files):
    done = run(files[0], "--recall", "0.9", "--threads", 1, kind=Padded)
    header, rule, row, index = done.stdout.splitlines()
    assert header.split()[:2] == ["recall", "target"]
    assert set(rule) == {"-", " "}
    assert row.split()[:4] == ["0.9", "0.8000", "0.80", "1"]
    assert index == "50 × 4, 8.0 B of RAM a vector"
    assert "note: 24 answers hold fewer than k results" in done.stderr


def test_a_missed_target_and_the_truth_of_another_base_are_said(run, files):
    folder, _ = files
    np.save(folder / "other.npy", np.load(folder / "gt.npy") + 1_000)
    common = (folder, "--recall", "0.9", "--threads", "1,2")
    assert "0.8000 at target 0.9, more than 0.01 short" in run(*common, kind=Padded).stderr
    other = run(*common, inputs=("q.npy", "other.npy")).stderr
    assert other.count("is this the truth of this base") == 1
    assert "recall is" not in run(*common).stderr


def test_ties_count_once_their_distances_are_given(run, files):
    folder, _ = files
    nearest = np.load(folder / "gt.npy")
    distances = np.load(folder / "gt.distances.npy")
    nearest[:, [9, 10]] = nearest[:, [10, 9]]  # the truth of another engine, which broke a tie otherwise
    distances[:, 10] = distances[:, 9]
    np.save(folder / "tied.npy", nearest)
    np.save(folder / "tied.distances.npy", distances)
    common = (folder, "--recall", "0.9", "--threads", 1, "--json", "-")
    without = run(*common, inputs=("q.npy", "tied.npy"))
    beside = run(*common, "--truth-distances", folder / "tied.distances.npy", inputs=("q.npy", "tied.npy"))
    assert json.loads(without.stdout)["results"][0]["recall_10_at_10"] == pytest.approx(0.9)
    assert json.loads(beside.stdout)["results"][0]["recall_10_at_10"] == 1
    assert "truth_distances" in json.loads(beside.stdout)["inputs"]


def test_a_server_is_measured_without_claims_about_its_process(run):
    done = run("--address", "127.0.0.1:50051", "--recall", "0.9", "--threads", 1, "--json", "-")
    report = json.loads(done.stdout)
    assert report["memory"]["after_runs"] == {"rss_bytes": None, "pss_bytes": None}
    assert report["machine"]["disk"] is None
    assert report["settings"]["address"] == "127.0.0.1:50051"
    assert report["results"][0]["cpu_us_mean"] is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "either an INDEX folder or --address"),
        (("here", "--address", "a:1"), "either an INDEX folder or --address"),
        (("here", "--recall", "0.9;0.95"), "--recall is '0.9;0.95'"),
        (("here", "--recall", "0.5"), "recall_target is 0.5"),
        (("here", "--threads", "1,0"), "at least 1"),
        (("here", "--threads", "two"), "--threads is 'two'"),
        (("here", "-k", "21"), "20 neighbours a query, but k is 21"),
        (("here", "-k", "0"), "k is 0"),
        (("here", "--repetitions", "0"), "repetitions is 0"),
    ],
)
def test_a_wrong_option_is_named(run, arguments, says):
    with pytest.raises(InputError) as caught:
        run(*arguments)
    assert says in str(caught.value)


def test_a_missing_file_is_named(run):
    with pytest.raises(NotFoundError, match=r"nowhere\.npy"):
        run("here", inputs=("nowhere.npy", "gt.npy"))


def test_a_report_that_cannot_be_written_is_refused_before_the_run(run, files):
    class NeverAsked(ExactTarget):
        def search(self, queries, k=10, *, recall_target=0.95):
            raise AssertionError("the measurement began")

    with pytest.raises(OutputError, match="missing"):
        run(files[0], "--json", files[0] / "missing" / "out.json", kind=NeverAsked)


def test_a_failed_run_leaves_the_old_report_alone(run, files):
    path = files[0] / "out.json"
    path.write_text("old")
    with pytest.raises(ServerError, match="no server answers"):
        run(files[0], "--json", path, kind=Unreachable)
    assert path.read_text() == "old"
    assert {file.name for file in files[0].iterdir()} == {"gt.distances.npy", "gt.npy", "out.json", "q.npy"}


def test_what_json_has_no_number_for_becomes_null():
    text = report_text({"a": np.float32("nan"), "b": [np.int64(3), float("inf")], "c": {1: np.array([1.5])}})
    assert json.loads(text) == {"a": None, "b": [3, None], "c": {"1": [1.5]}}


def test_the_hash_of_a_folder_changes_with_names_and_contents(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store/a").write_text("one")
    first = hash_file(tmp_path / "store")
    (tmp_path / "store/a").rename(tmp_path / "store/b")
    second = hash_file(tmp_path / "store")
    (tmp_path / "store/b").write_text("two")
    assert len({first, second, hash_file(tmp_path / "store")}) == 3


def test_the_disk_described_is_the_one_that_holds_the_path(tmp_path):
    machine = describe_machine(tmp_path)
    assert 1 <= machine["cores_usable"] <= machine["cores"]
    assert machine["ram_bytes"] > 2**28
    assert machine["disk"]["file_system"] is not None
    assert describe_machine()["disk"] is None


def test_there_is_no_commit_outside_a_repository(tmp_path):
    assert find_commit(tmp_path) is None
