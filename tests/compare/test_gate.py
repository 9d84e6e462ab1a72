"""The regression gate: pages, bytes, rows scored and recall on the bundled set, against the committed baseline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from annserve.cli.bench import command

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    """Results of the gate's job."""
    folder = tmp_path_factory.mktemp("gate")
    job = str(ROOT / "bench/jobs/gate.toml")
    options = ["--out", str(folder / "results"), "--cache", str(folder / "cache"), "--json"]
    done = CliRunner().invoke(command, ["run", job, *options], catch_exceptions=False)
    outcome = json.loads(done.stdout)
    assert outcome["left_out"] == {}
    return folder / "results"


@pytest.mark.slow
def test_neither_pages_nor_recall_get_worse_than_the_baseline(gate):
    done = CliRunner().invoke(
        command, ["compare", str(ROOT / "bench/baseline.json"), str(gate)], catch_exceptions=False
    )
    assert done.exit_code == 0, f"{done.output}\nto accept it: see bench/jobs/gate.toml"


@pytest.mark.slow
def test_the_baseline_is_rewritten_by_one_command(gate, tmp_path):
    path = tmp_path / "baseline.json"
    done = CliRunner().invoke(command, ["baseline", str(gate), "--out", str(path)], catch_exceptions=False)
    assert done.exit_code == 0
    assert CliRunner().invoke(command, ["compare", str(path), str(gate)]).exit_code == 0
    assert len(json.loads(path.read_text())["rows"]) == 6
