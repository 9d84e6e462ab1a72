"""A job measures what it names, says what it leaves out, goes on where it was, and sees broken systems."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from jobs import job_text

from annserve.compare import job, stages
from annserve.compare.results import read_results, rows_of
from annserve.compare.verdict import compare
from annserve.errors import InputError, NotFoundError
from annserve.measure.faults import faults_of


def rows_by(folder, **wanted):
    rows = rows_of(read_results(folder))
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def test_each_target_gets_its_cheapest_setting(run):
    outcome, results = run(job_text("exact", loads="rounds = 2\nthreads = [1, 2]"))
    assert (len(outcome.done), outcome.left_out) == (1, {})
    loose, tight = rows_by(results, target=0.4, threads=1), rows_by(results, target=0.9, threads=2)
    assert [row["point"] for row in loose + tight] == [{"share": 0.5}, {"share": 1.0}]
    assert tight[0]["recall"] == 1
    assert 0.3 < loose[0]["recall"] < 0.7
    assert (tight[0]["pages_read_mean"], tight[0]["threads"]) == (14, 2)
    assert len(tight[0]["passes"]) == 2
    frontier = rows_by(results, target=None)
    assert [row["point"] for row in frontier] == [{"share": 0.25}]


def test_what_asks_for_more_than_plenty_is_not_tried(run):
    grid = "[systems.search]\nshare = [0.25, 1.0, 2.0, 0.5]\n"
    _, results = run(job_text("exact", loads="rounds = 1") + grid)
    tried = [record["point"]["share"] for record in read_results(results)[0]["tuned"]]
    assert tried == [0.25, 1.0, 0.5]


def test_tuning_queries_count_in_no_result(run):
    _, results = run(job_text("exact", loads="rounds = 1\ntuning_share = 0.2"))
    result = read_results(results)[0]
    assert result["dataset"]["queries"] == 40
    assert len(result["tuned"]) == 3


def test_open_and_cold_loads_are_measured_beside_closed_ones(run):
    loads = "rounds = 2\nopen_shares = [0.5]\nopen_recall_target = 0.9\nopen_seconds = 0.2\ncold = true"
    _, results = run(job_text("exact", loads=loads))
    (opened,) = rows_by(results, load="open")
    assert opened["target"] == 0.9
    assert opened["recall"] == 1
    assert opened["rate"] > 0
    assert opened["latency_us_p50"] > 0
    assert {row["target"] for row in rows_by(results, load="cold")} == {0.4, 0.9}


def test_what_reads_past_the_page_cache_is_cold_at_one_target(run):
    _, results = run(job_text("direct", loads="rounds = 1\ncold = true"))
    assert [row["target"] for row in rows_by(results, load="cold")] == [0.4]


def test_a_result_says_what_it_came_from(run):
    _, results = run(job_text("exact"))
    result = read_results(results)[0]
    assert set(result["dataset"]["sha256"]) == {"base", "queries", "truth"}
    assert result["machine"]["cores"] > 0
    assert "numpy" in result["versions"]
    assert result["built"]["disk_bytes"] >= 400 * 8
    assert result["memory"]["before_open"]["pss_bytes"] > 0
    assert result["settings"]["build"] == {}


@pytest.mark.parametrize("broken", ["shuffled", "mislabelled", "doubled", "wrong"])
def test_a_broken_system_is_seen(run, broken):
    outcome, results = run(job_text("exact", broken, loads="rounds = 1"))
    (right,), (spoiled,) = (rows_by(results, system=name, target=0.9) for name in ("exact", broken))
    seen = {
        "shuffled": "aren't sorted by distance",
        "mislabelled": "another row's distance",
        "wrong": "that the base doesn't have",
    }
    assert list(faults_of(right)) == []
    if broken == "doubled":
        assert spoiled["pages_read_mean"] == 2 * right["pages_read_mean"]
        worse = {one.number for one in compare([right], [spoiled | {"system": "exact"}]).changes if one.beyond}
        assert worse == {"pages_read_mean", "reads_mean", "bytes_read_mean"}
    else:
        (said,) = outcome.faults.values()
        assert any(seen[broken] in fault for fault in said)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("crashing", "crashing ended while it was to open: signal 6; the last words"),
        ("raising", "raising failed to open: RuntimeError: no such index"),
        ("greedy", "bytes of memory; the job allows"),
    ],
)
def test_a_system_that_fails_is_named_and_the_rest_goes_on(run, broken, says):
    outcome, results = run(job_text(broken, "exact", loads="rounds = 1\nram_gib_limit = 0.5"))
    (reason,) = outcome.left_out.values()
    assert says in reason
    assert len(outcome.done) == len(read_results(results)) == 1
    note = json.loads((results / "job.json").read_text())
    assert note["finished"]
    assert list(note["left_out"].values()) == [reason]


def test_a_system_that_hangs_is_ended(run):
    outcome, _ = run(job_text("hanging", loads="request_seconds_limit = 1"))
    (reason,) = outcome.left_out.values()
    assert reason == "hanging ended while it was to build: it took more than 1 s"


def test_a_system_that_cannot_take_the_rows_is_left_out(run, data):
    (data / "floats").mkdir(exist_ok=True)
    for name in ("base", "queries"):
        np.save(data / f"floats/{name}.npy", np.eye(20, dtype=np.float32))
    floats = '[[datasets]]\nname = "floats"\nmetric = "l2"\n[[datasets]]\nname = "small"\nmetric = "l2"'
    outcome, _ = run(job_text("exact", datasets=floats, loads="rounds = 1"))
    assert outcome.left_out == {"floats--exact": "exact doesn't take rows of float32"}
    assert len(outcome.done) == 1


def test_an_unknown_data_set_is_named_and_the_rest_goes_on(run):
    sets = '[[datasets]]\nname = "nowhere"\n[[datasets]]\nname = "small"\nmetric = "l2"'
    outcome, _ = run(job_text("exact", datasets=sets, loads="rounds = 1"))
    assert "there is no data set 'nowhere'" in outcome.left_out["nowhere"]
    assert "small" in outcome.left_out["nowhere"]
    assert len(outcome.done) == 1


def test_what_is_done_is_not_done_again(run):
    first, results = run(job_text("exact", loads="rounds = 1"))
    before = {path: path.stat().st_mtime_ns for path in results.glob("*--*.json")}
    second, _ = run(job_text("exact", loads="rounds = 1"))
    assert (second.done, second.kept) == ([], first.done)
    assert before == {path: path.stat().st_mtime_ns for path in results.glob("*--*.json")}
    third, _ = run(job_text("exact", loads="rounds = 1\nthreads = [2]"))
    assert len(third.done) == 1
    assert [one["key"] for one in read_results(results)] == [third.done[0][-12:]], "the job's own, not the earlier one"


def test_an_adapter_that_asks_otherwise_needs_no_new_index(tmp_path):
    text = (
        "class Adapter(Peer):\n    def build(self, base, path):\n        {}\n    def search(self, q, k):\n        {}\n"
    )
    hashes = []
    for build, search in (("pass", "pass"), ("pass", "return 1"), ("return 1", "pass")):
        (tmp_path / "adapter.py").write_text(text.format(build, search))
        hashes.append(job.hash_building(tmp_path / "adapter.py"))
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_changed_engine_is_measured_anew(run, monkeypatch):
    first, _ = run(job_text("exact", loads="rounds = 1"))
    monkeypatch.setattr(job, "hash_engine", lambda: "another")
    second, _ = run(job_text("exact", loads="rounds = 1"))
    assert len(second.done) == 1
    assert second.done != first.done


def test_a_job_interrupted_anywhere_ends_in_the_same_report(run, tmp_path, monkeypatch):
    """Attempt i ends at its i-th request, so the interrupts fall into build, tuning and every round."""
    loads = "rounds = 2\ncold = true"
    run(job_text("exact", loads=loads), name="whole")
    whole = rows_by(tmp_path / "results")
    shutil.rmtree(tmp_path / "results")
    real = stages.Worker.ask
    left = {"requests": 0}
    done = []

    def interrupted(self, do, **request):
        if left["requests"] == 0:
            raise KeyboardInterrupt
        left["requests"] -= 1
        done.append(do)
        return real(self, do, **request)

    monkeypatch.setattr(stages.Worker, "ask", interrupted)
    n_interrupts, outcome = 0, None
    while outcome is None:
        left["requests"] = n_interrupts
        try:
            outcome, results = run(job_text("exact", loads=loads))
        except KeyboardInterrupt:
            n_interrupts += 1
    assert n_interrupts > 4
    assert done.count("build") == 2, "again only because an interrupt fell between its end and its note"
    rows = rows_by(results)
    timed = ("passes", "seconds", "qps", "latency", "cpu", "device", "ram", "disk", "build")
    for before, after in zip(whole, rows, strict=True):
        assert len(before["passes"]) == len(after["passes"])
        for name in (name for name in before if not name.startswith(timed)):
            assert before[name] == after[name], name
    assert not list(tmp_path.glob("work/*--*"))
    assert not list(tmp_path.glob("work/builds/*"))


def test_indexes_are_built_before_they_are_asked_and_kept_to_be_asked_again(run, tmp_path, monkeypatch):
    real, asked = stages.Worker.ask, []
    monkeypatch.setattr(stages.Worker, "ask", lambda self, do, **told: asked.append(do) or real(self, do, **told))
    outcome, results = run(job_text("exact"), builds_only=True)
    assert (len(outcome.built), outcome.done) == (1, [])
    assert set(asked) == {"build", "close"}
    assert not json.loads((results / "job.json").read_text())["finished"]
    run(job_text("exact", loads="rounds = 1"), keep_builds=True)
    run(job_text("exact", loads="rounds = 2"))
    assert asked.count("build") == 1, "other loads are measured on the same build"
    assert not list(tmp_path.glob("work/builds/*"))


def test_a_slow_system_is_asked_fewer_of_the_queries(run, monkeypatch):
    monkeypatch.setattr(stages, "PASS_QUERIES_MIN", 7)
    _, results = run(job_text("exact", loads="rounds = 1\npass_seconds = 1e-6"))
    assert {row["queries"] for row in rows_by(results, load="closed")} == {7}
    assert rows_by(results, target=0.9)[0]["recall"] == 1


def test_two_runs_of_a_job_agree_in_all_that_is_no_time(run, tmp_path):
    numbers = []
    for _ in range(2):
        _, results = run(job_text("exact", loads="rounds = 1"))
        row = rows_by(results, target=0.9)[0]
        numbers.append([row[name] for name in ("recall", "pages_read_mean", "rows_scored_mean", "recall_p5")])
        next(results.glob("*--*.json")).unlink()
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("k = 10\n", "names no datasets"),
        (job_text("exact", extra="colour = 3"), "colour is unknown"),
        (job_text("exact", loads="round = 2"), "round is unknown"),
        (job_text("exact", loads="rounds = 0"), "rounds is 0"),
        (job_text("exact", loads='arrivals = "late"'), "arrivals is 'late'"),
        (job_text("exact") + "[systems.search]\nshare = 3\n", "share is 3; give a list"),
        (job_text("exact") + "[systems.search]\nefs = [3]\n", "exact has no parameter efs; it has share"),
        ("k = ", "isn't TOML"),
    ],
)
def test_a_wrong_job_is_refused_with_its_place(run, text, says):
    with pytest.raises(InputError, match=says):
        run(text)


def test_an_unknown_system_is_refused_before_anything_is_done(run, tmp_path):
    with pytest.raises(NotFoundError, match="no system 'exakt'"):
        run(job_text("exact", "exakt"))
    assert not (tmp_path / "results").exists()
