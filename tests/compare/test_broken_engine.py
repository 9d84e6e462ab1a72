"""annserve itself, broken on purpose: the runner says what is wrong, and the comparison ends with exit status 4."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from annserve.cli.bench import command
from annserve.compare.results import read_results, rows_of

ADAPTER = (Path(__file__).resolve().parents[2] / "bench/peers/annserve/adapter.py").read_text()
#: Bodies of a search that has `right`, the right result.
BROKEN = {
    "shuffled": "order = np.random.default_rng(int(right.ids.sum() % 97)).permutation(k)\n"
    "return replace(right, ids=right.ids[:, order], distances=right.distances[:, order])",
    "doubled": "super().search(queries, k)\n"
    "names = ('pages_read', 'reads', 'bytes_read')\n"
    "return replace(right, stats=replace(right.stats, **{name: 2 * getattr(right.stats, name) for name in names}))",
    "secretive": "super().search(queries, k)\nreturn right",
    "wrong": "self.asked = getattr(self, 'asked', 0) + 1\n"
    "ids = right.ids.copy()\n"
    "ids[0, 3] = (ids[0, 3] + 1000) % 2000 if self.asked % 10 == 0 else ids[0, 3]\n"
    "return replace(right, ids=ids)",
}
JOB = """
k = 10
recall_targets = [0.95]
[loads]
rounds = 1
code_rows = 0
[[datasets]]
name = "made"
generate = { count = 2000, dim = 16, dtype = "uint8", intrinsic_dim = 8, clusters = 20, queries = 250 }
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What the runner said of annserve and its broken kin, and the folder of results."""
    folder = tmp_path_factory.mktemp("broken")
    job = JOB
    for name in ("right", *BROKEN):
        place = folder / "peers" / name
        place.mkdir(parents=True)
        body = BROKEN.get(name, "return right").replace("\n", "\n        ")
        (place / "adapter.py").write_text(
            f"{ADAPTER}\n\nimport numpy as np\nfrom dataclasses import replace\n\nclass Adapter(Adapter):\n"
            "    def search(self, queries, k=10, *, recall_target=0.95):\n"
            f"        right = super().search(queries, k, recall_target=recall_target)\n        {body}\n"
        )
        (place / "peer.toml").write_text(
            f'name = "{name}"\nabout = "annserve"\nlies = "disk"\nplans_itself = true\n'
            '[build]\nram = ["12B"]\ncalibration_queries = [200]\n'
        )
        job += f'[[systems]]\npeer = "{name}"\n'
    (folder / "job.toml").write_text(job)
    options = {name: str(folder / name) for name in ("out", "peers", "cache")}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    done = CliRunner().invoke(command, ["run", str(folder / "job.toml"), *words, "--json"], catch_exceptions=False)
    outcome = json.loads(done.stdout)
    assert outcome["left_out"] == {}
    return done, outcome["faults"], folder


def of(measured, system):
    """Give the row of a system, and what was said of it."""
    _, faults, folder = measured
    (row,) = (row for row in rows_of(read_results(folder / "out")) if row["system"] == system and row["target"])
    return row, " ".join(text for name, texts in faults.items() if f"--{system}--" in name for text in texts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "says"),
    [
        ("shuffled", "aren't sorted by distance"),
        ("wrong", "another row's distance"),
        ("secretive", "the kernel read 2."),
    ],
)
def test_what_is_broken_is_said_and_ends_with_status_4(measured, system, says):
    right, nothing = of(measured, "right")
    assert nothing == ""
    if system == "secretive" and right["device_bytes_ratio"] is None:
        pytest.skip("needs a folder for temporary files on a disk whose reads the kernel counts")
    row, said = of(measured, system)
    assert says in said
    assert measured[0].exit_code == 4
    if system == "wrong":
        assert row["answers_misplaced"] == pytest.approx(row["queries"] / 10, abs=1), "one id of a hundred"


@pytest.mark.slow
def test_reads_that_double_are_worse_than_the_right_engines(measured, tmp_path):
    _, _, folder = measured
    paths = [str(tmp_path / f"{name}.json") for name in ("right", "doubled")]
    for path, name in zip(paths, ("right", "doubled")):
        (result,) = (one for one in read_results(folder / "out") if one["system"]["name"] == name)
        result["system"]["name"] = "annserve"
        Path(path).write_text(json.dumps(result))
    worse = CliRunner().invoke(command, ["compare", *paths])
    assert worse.exit_code == 4
    assert "pages_read_mean" in worse.stdout
    assert CliRunner().invoke(command, ["compare", paths[0], paths[0]]).exit_code == 0
