"""Jobs run one after another, are watched, cancelled and remembered, and what becomes of each is told in words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from annserve.errors import ConflictError, InputError, NotFoundError
from annserve.jobs import ENDED, DataFolder, Job, Jobs, Work, process
from annserve.jobs import jobs as module

BUILD = Work("build", {"input": "rows.npy"})
SLOW = Work("build", {"input": "slow_forever.npy"})


def ended(jobs: Jobs, job: Job) -> Job:
    *_, last = jobs.watch(job.job_id)
    return last


def running(jobs: Jobs, job: Job) -> Job:
    """Wait until its process has told something."""
    return next(now for now in jobs.watch(job.job_id) if now.progress.done)


def test_a_job_is_watched_from_its_first_stage_to_its_end(jobs, calls, folder):
    job = jobs.start("photos", Work("build", {"input": "slow.npy", "metric": "ip", "skip_invalid": True, "seed": 3}))
    states = list(jobs.watch(job.job_id))
    done = [state.progress.done for state in states]
    assert done == sorted(done)
    assert len(set(done)) > 3
    last = states[-1]
    assert (last.state, last.outcome) == ("succeeded", "build of photos: done")
    assert (last.progress.stage, last.progress.total, last.progress.stages_done) == ("cluster", 10, 1)
    assert last.created <= last.started <= last.ended
    source, out = folder.path / "inputs" / "slow.npy", folder.path / "photos"
    flags = ["--metric=ip", "--skip-invalid", "--seed=3", f"--out={out}", "--restart", "--threads=1", "--events=-"]
    assert calls() == [["build", str(source), *flags]]


@pytest.mark.parametrize(
    ("source", "outcome"), [("bad.npy", "bad.npy holds NaN in row 7; repair it"), ("noisy.npy", "")]
)
def test_a_job_that_fails_says_why_and_names_no_place_of_the_server(jobs, folder, source, outcome):
    last = ended(jobs, jobs.start("photos", Work("build", {"input": source})))
    assert last.state == "failed"
    assert last.outcome.startswith(outcome)
    assert str(folder.path) not in last.outcome
    assert 0 < len(last.outcome) <= 4_000


def test_a_running_job_is_cancelled_and_another_goes_on_with_it(jobs, calls):
    job = jobs.start("photos", SLOW)
    running(jobs, job)
    assert jobs.cancel(job.job_id).state == "running"
    assert (ended(jobs, job).state, jobs.get(job.job_id).outcome) == ("cancelled", "cancelled")
    assert jobs.cancel(job.job_id).state == "cancelled"  # an ended job stays as it is
    again = jobs.resume(job.job_id)
    assert (again.work, again.resumed_job_id) == (SLOW, job.job_id)
    running(jobs, again)
    assert "--resume" in calls()[-1]
    assert "--restart" not in calls()[-1]


def test_jobs_wait_for_their_turn_and_a_waiting_one_is_cancelled_at_once(jobs, calls):
    first = jobs.start("one", SLOW)
    second, third = jobs.start("two", BUILD), jobs.start("three", BUILD)
    running(jobs, first)
    assert (second.state, third.state) == ("waiting", "waiting")
    assert jobs.cancel(second.job_id).state == "cancelled"
    jobs.cancel(first.job_id)
    assert ended(jobs, third).state == "succeeded"
    assert len(calls()) == 2
    assert [job.collection for job in jobs.list()] == ["three", "two", "one"]
    assert [job.job_id for job in jobs.list("two")] == [second.job_id]


def test_a_collection_has_one_job_at_a_time(jobs):
    first = jobs.start("photos", SLOW)
    with pytest.raises(ConflictError, match=f"job {first.job_id} is at work on 'photos'"):
        jobs.start("photos", BUILD)
    assert jobs.busy_with("photos").job_id == first.job_id
    assert jobs.busy_with("other") is None


def test_the_same_request_twice_starts_one_job(jobs, calls):
    first = jobs.start("photos", BUILD, request_id="r-1")
    ended(jobs, first)
    with pytest.raises(InputError, match="request_id 'r-1' asked for another job"):
        jobs.start("other", BUILD, request_id="r-1")
    (job,) = jobs.list()
    assert len(calls()) == 1
    # Asked again, it is given as it stands now; that its collection has an index by now is no obstacle.
    assert jobs.start("photos", BUILD, request_id="r-1").job_id == job.job_id == first.job_id


SERVER = """
import sys, time
from pathlib import Path
from annserve.jobs import DataFolder, Jobs, Work, work
work.PROGRAM = (sys.executable, sys.argv[2])
jobs = Jobs(DataFolder(Path(sys.argv[1])))
job = jobs.start("photos", Work("build", {"input": "slow_forever.npy"}))
now = next(now for now in jobs.watch(job.job_id) if now.progress.done)
print(now.job_id, now.pid, flush=True)
time.sleep(60)
"""


def test_a_server_that_starts_again_finds_its_jobs_and_ends_what_still_runs(folder, calls):
    """The one before is killed, and its job doesn't notice, for it has nothing to say."""
    program = str(Path(__file__).with_name("program.py"))
    command = [sys.executable, "-c", SERVER, str(folder.path), program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        job_id, pid = server.stdout.readline().split()
        with pytest.raises(ConflictError, match="being written by process"):
            Jobs(folder)
        server.kill()
    assert process.created_of(int(pid)) > 0
    after = Jobs(folder)
    assert process.created_of(int(pid)) == 0
    found = after.get(job_id)
    assert (found.state, found.outcome) == ("interrupted", "the server stopped meanwhile")
    again = after.resume(job_id)
    assert running(after, again).resumed_job_id == job_id
    after.close()
    assert reopened(folder)[again.job_id].state == "interrupted"


def reopened(folder: DataFolder) -> dict[str, Job]:
    jobs = Jobs(folder)
    jobs.close()
    return {job.job_id: job for job in jobs.list()}


def test_a_process_that_only_has_the_same_number_is_left_alone():
    with subprocess.Popen(["sleep", "60"]) as bystander:
        process.end_leftover(bystander.pid, process.created_of(bystander.pid) - 100)
        assert bystander.poll() is None
        bystander.kill()


def test_a_job_ends_with_its_server(folder, calls, monkeypatch):
    """Of a server that was killed nothing is left but a closed pipe."""
    running_now = process.JobProcess(
        Work("build", {"input": "slow.npy"}).command(folder, "photos", resumed=False, threads=1), folder.path
    )
    next(running_now.events())
    running_now._process.stderr.close()
    assert running_now._process.wait(20) != 0


def test_closing_interrupts_what_runs_and_starts_nothing_more(folder, calls):
    jobs = Jobs(folder)
    first, second = jobs.start("one", SLOW), jobs.start("two", BUILD)
    running(jobs, first)
    watcher = threading.Thread(target=lambda: list(jobs.watch(second.job_id)))
    watcher.start()
    jobs.close()
    watcher.join(5)
    assert not watcher.is_alive()
    found = reopened(folder)
    assert {found[job.job_id].state for job in (first, second)} == {"interrupted"}
    assert len(calls()) == 1


def test_one_who_leaves_is_no_longer_told(jobs):
    job = jobs.start("photos", SLOW)
    wishes = iter([True, True])
    seen = list(jobs.watch(job.job_id, lambda: next(wishes, False)))
    assert seen[-1].state not in ENDED


def test_a_damaged_file_hides_one_job_and_no_other(jobs, folder):
    first, second = (ended(jobs, jobs.start(name, BUILD)) for name in ("one", "two"))
    path = folder.jobs / f"{first.job_id}.json"
    path.write_bytes(path.read_bytes().replace(b"succeeded", b"succeedee"))
    (folder.jobs / "note.txt").write_text("of somebody else")
    jobs.close()
    assert reopened(folder) == {second.job_id: second}


def test_old_jobs_are_forgotten(jobs, folder, monkeypatch):
    made = [ended(jobs, jobs.start(name, BUILD)) for name in ("one", "two", "three")]
    monkeypatch.setattr("annserve.jobs.jobs.REMEMBERED", 2)
    jobs.close()
    assert reopened(folder).keys() == {job.job_id for job in made[1:]}
    assert not (folder.jobs / f"{made[0].job_id}.json").exists()


def test_old_jobs_are_forgotten_while_the_server_runs(jobs, folder, monkeypatch):
    monkeypatch.setattr("annserve.jobs.jobs.REMEMBERED", 2)
    made = [ended(jobs, jobs.start(name, BUILD)) for name in ("one", "two", "three")]
    made.append(ended(jobs, jobs.start("one", Work("verify"))))
    assert [job.job_id for job in jobs.list()] == [job.job_id for job in reversed(made[1:])]
    assert len(list(folder.jobs.glob("*.json"))) == 3
    with pytest.raises(NotFoundError):
        jobs.get(made[0].job_id)


def test_a_process_that_heeds_no_wish_is_killed(folder, calls, monkeypatch):
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.3)
    code = "import signal, sys, time; signal.signal(2, 1); print('{\"event\": 1}', file=sys.stderr); time.sleep(60)"
    command = [sys.executable, "-u", "-c", code]
    stubborn = process.JobProcess(command, folder.path)
    next(stubborn.events())
    stubborn.stop()
    assert stubborn.end()[0] == -signal.SIGKILL


def test_a_job_is_more_patient_than_a_server(folder, calls):
    patient = process.JobProcess(["sleep", "60"], folder.path)
    assert os.getpriority(os.PRIO_PROCESS, patient.pid) == min(
        os.getpriority(os.PRIO_PROCESS, 0) + process.NICENESS, 19
    )
    patient._process.kill()
    patient.end()


def test_too_many_waiting_jobs_are_refused_with_a_time_to_come_again(jobs, monkeypatch):
    monkeypatch.setattr(module, "WAITING_MAX", 1)
    jobs.start("one", SLOW)
    jobs.start("two", BUILD)
    with pytest.raises(module.BusyError, match="wait already") as refused:
        jobs.start("three", BUILD)
    assert refused.value.retry_after_ms >= 1_000


class TestWhatMayBeAsked:
    @pytest.mark.parametrize(
        "name",
        [
            "../rows.npy",
            "/etc/passwd",
            "a/b",
            "..",
            ".",
            "",
            "-rf",
            "*.npy",
            "rows.npy:train",
            "x" * 129,
            "a\0b",
            "ünder",
        ],
    )
    def test_a_hostile_name_of_an_input_is_refused(self, jobs, folder, name):
        with pytest.raises(InputError, match="give the name of a file or folder in inputs/") as refused:
            jobs.start("photos", Work("build", {"input": name}))
        assert refused.value.field == "input"
        with pytest.raises(InputError) as refused:
            jobs.start("photos", Work("build", {"input": "rows.npy", "ids": name}))
        assert refused.value.field == "ids"

    @pytest.mark.parametrize("name", ["..", "a/b", "", "inputs", "jobs", "-x", "A", "x" * 64, "a\n"])
    def test_a_hostile_name_of_a_collection_is_refused(self, jobs, name):
        with pytest.raises(InputError) as refused:
            jobs.start(name, BUILD)
        assert refused.value.field == "collection"

    @pytest.mark.parametrize(
        ("options", "field"),
        [
            ({"metric": "manhattan"}, "metric"),
            ({"codes": "some"}, "codes"),
            ({"rerank": "float64"}, "rerank"),
            ({"seed": -1}, "seed"),
            ({"column": "x" * 300}, "column"),
            ({"ram": "1\n"}, "ram"),
        ],
    )
    def test_a_wrong_option_is_refused_at_once_by_name(self, jobs, options, field):
        with pytest.raises(InputError) as refused:
            jobs.start("photos", Work("build", {"input": "rows.npy", **options}))
        assert refused.value.field == field

    def test_an_option_can_not_pose_as_another(self, jobs, calls):
        ended(jobs, jobs.start("photos", Work("build", {"input": "rows.npy", "column": "--out=/elsewhere"})))
        assert "--column=--out=/elsewhere" in calls()[-1]

    def test_work_that_does_not_fit_the_collection_is_refused(self, jobs):
        for kind in ("append", "compact", "verify"):
            with pytest.raises(InputError, match="no index yet"):
                jobs.start("photos", Work(kind, {"input": "rows.npy"} if kind == "append" else {}))
        ended(jobs, jobs.start("photos", BUILD))
        with pytest.raises(InputError, match="has an index already"):
            jobs.start("photos", BUILD)
        with pytest.raises(InputError, match="input is missing"):
            jobs.start("photos", Work("append"))
        with pytest.raises(InputError, match="queries is 1000000"):
            jobs.start("photos", Work("verify", {"queries": 1_000_000}))

    def test_only_a_job_that_stopped_short_is_continued(self, jobs):
        done = ended(jobs, jobs.start("photos", BUILD))
        with pytest.raises(InputError, match="nothing to continue"):
            jobs.resume(done.job_id)
        with pytest.raises(NotFoundError):
            jobs.resume("20261122t000000000000z-000000")


def test_collections_are_the_folders_that_could_be_some(folder, tmp_path):
    (folder.path / "Not-one").mkdir()
    (folder.path / "file").touch()
    (folder.path / "link").symlink_to(tmp_path)
    assert DataFolder(folder.path).collections() == ["one", "other", "photos", "three", "two"]
