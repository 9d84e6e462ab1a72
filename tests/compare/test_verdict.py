"""What got worse beyond what is allowed is said, and ends with exit status 4."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from journeys.doors import annserve

from annserve.cli.bench import command
from annserve.compare.choose import cheapest, frontier
from annserve.compare.results import write_baseline
from annserve.compare.verdict import compare
from annserve.errors import CorruptionError, InputError, NotFoundError


def row(**changed):
    plain = {"dataset": "d", "system": "s", "build": "–", "load": "closed", "rate_share": None, "threads": 1}
    numbers = {"target": 0.9, "recall": 0.91, "pages_read_mean": 100.0, "qps": 1_000.0, "qps_spread": 0.1}
    return {**plain, **numbers, **changed}


@pytest.mark.parametrize(
    ("after", "beyond"),
    [
        ({"pages_read_mean": 101.9}, []),
        ({"pages_read_mean": 102.1}, ["pages_read_mean"]),
        ({"pages_read_mean": 50.0}, []),
        ({"recall": 0.895}, []),
        ({"recall": 0.89}, ["recall"]),
        ({"recall": 1.0}, []),
        ({"qps": 1.0}, []),
    ],
)
def test_counts_may_get_worse_by_two_per_cent_and_no_more(after, beyond):
    verdict = compare([row()], [row(**after)])
    assert [one.number for one in verdict.changes if one.beyond] == beyond
    assert verdict.passed == (not beyond)


def test_times_of_one_pass_alone_neither_agree_nor_differ():
    passes = [row(passes=[{}] * n) for n in (1, 2)]
    assert [compare([one], [one]).times for one in passes] == [0, 1]


def test_counts_of_other_queries_are_not_compared():
    verdict = compare([row(queries=800)], [row(queries=518, pages_read_mean=200.0)])
    assert verdict.passed
    assert not compare([row(queries=800)], [row(queries=800, pages_read_mean=200.0)]).passed


@pytest.mark.parametrize(("qps", "passes"), [(840, True), (820, False), (2_000, True)])
def test_times_count_only_beyond_what_they_spread(qps, passes):
    assert compare([row()], [row(qps=qps, qps_spread=0.02)], times_worse=0.05).passed is passes


@pytest.mark.parametrize(("qps", "agreeing"), [(900, 1), (1_110, 1), (870, 0), (1_130, 0)])
def test_times_agree_if_they_differ_by_no_more_than_both_spread(qps, agreeing):
    verdict = compare([row()], [row(qps=qps, qps_spread=0.02)])
    assert (verdict.times, verdict.times_agreeing) == (1, agreeing)
    assert verdict.passed, "nobody asked for times"


def test_what_is_no_longer_measured_fails_and_what_is_new_passes():
    other = row(target=0.95)
    assert compare([row(), other], [row()]).only_before == ("d · s · – · closed · recall 0.95 · 1 callers",)
    assert not compare([row(), other], [row()]).passed
    assert compare([row()], [row(), other]).passed


def test_a_baseline_is_compared_from_the_command_line(tmp_path):
    for name, pages in (("a", 100.0), ("b", 103.0)):
        write_baseline(tmp_path / f"{name}.json", [row(pages_read_mean=pages)])
    paths = str(tmp_path / "a.json"), str(tmp_path / "b.json")
    # Through the whole program: click gives the status of a command that leaves by ``exit``, which must be passed on.
    worse = annserve("bench", "compare", *paths)
    assert worse.code == 4
    assert "pages_read_mean" in worse.out
    assert "WORSE" in worse.out
    assert annserve("bench", "compare", *paths, "--worse", "0.05").code == 0
    assert annserve("bench", "compare", *reversed(paths)).code == 0


def test_what_is_no_result_is_refused(tmp_path):
    def shown(path):
        return CliRunner().invoke(command, ["show", str(path)], catch_exceptions=False)

    (tmp_path / "a--b.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(CorruptionError, match="'other'"):
        shown(tmp_path)
    (tmp_path / "a--b.json").write_text("{")
    with pytest.raises(CorruptionError, match="isn't JSON"):
        shown(tmp_path)
    with pytest.raises(NotFoundError, match="no results"):
        shown(tmp_path / "nothing")
    with pytest.raises(InputError, match="say nothing"):
        write_baseline(tmp_path / "b.json", [row(target=None)])


def tuned(*pairs):
    return [{"recall_10_at_10": recall, "pages": pages} for recall, pages in pairs]


def test_the_cheapest_setting_that_reaches_the_target_is_chosen():
    settings = tuned((0.99, 50), (0.91, 12), (0.92, 10), (0.5, 1))
    assert cheapest(settings, 0.9, 10) == 2
    assert cheapest(settings, 0.999, 10) == 0, "if none reaches it, the highest recall"


def test_the_frontier_holds_what_nothing_beats():
    assert frontier(tuned((0.9, 10), (0.8, 12), (0.95, 20), (0.7, 1), (0.95, 21)), 10) == [3, 0, 2]


def by_time(*pairs):
    return [{"recall_10_at_10": recall, "pages": None, "latency_us_p50": us} for recall, us in pairs]


def test_systems_without_pages_are_chosen_by_time():
    assert cheapest(by_time((0.95, 30), (0.95, 20)), 0.9, 10) == 1


def test_the_noise_of_a_clock_chooses_no_setting():
    """A wider beam that looked a little faster stays behind the narrower one that reaches the target too."""
    assert cheapest(by_time((0.89, 10), (0.91, 21), (0.97, 20), (0.99, 60)), 0.9, 10) == 1
    assert cheapest(by_time((0.91, 40), (0.97, 20)), 0.9, 10) == 1


def test_counts_of_open_loads_are_not_compared():
    verdict = compare([row(load="open")], [row(load="open", recall=0.5, pages_read_mean=500.0)])
    assert verdict.passed
