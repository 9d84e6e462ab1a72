"""The README's figures are the measured ones: its table is made from the JSON under bench/results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench/results/2026-11-21-main"


def test_the_readmes_table_is_made_from_the_results():
    tool = [sys.executable, str(ROOT / "tools/results_table.py"), str(RESULTS), "--check"]
    done = subprocess.run(tool, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_case_delivered_its_targets_and_lost_no_row():
    cases = [json.loads(path.read_text()) for path in RESULTS.glob("*.json")]
    assert {case["set"] for case in cases} >= {"stdlib", "sift", "squad"}
    for case in cases:
        assert case["rows_lost"] == 0, case["case"]
        assert case["verified"]["problems"] == [], case["case"]
        for row in (*case["local"]["results"], *case["remote"]["results"]):
            if row["recall_target"] in (0.90, 0.95, 0.98):
                assert row["recall_10_at_10"] >= row["recall_target"] - 0.01, (case["case"], row["recall_target"])


def test_results_name_no_place_of_the_machine_they_were_made_on():
    for path in RESULTS.glob("*.json"):
        text = path.read_text()
        assert '"/' not in text, path
        assert " /" not in text, path
