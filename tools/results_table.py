"""Write the README's table from the measured JSON of ``bench/main_job.py``: no figure in it is typed.

python tools/results_table.py bench/results/2026-11-21-main          # writes README.md
python tools/results_table.py bench/results/2026-11-21-main --check  # fails if the table isn't the one in README.md
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

README = Path(__file__).resolve().parents[1] / "README.md"
START, END = "<!-- table:results -->\n", "<!-- /table:results -->"
TARGETS = (0.90, 0.95, 0.98)
TITLES = {
    "stdlib": "docstrings, questions for queries: 10,000 × 384 float16, cosine (bundled)",
    "sift": "SIFT of photographs: 500,000 × 128 uint8, L2",
    "squad": "paragraphs, questions for queries: 12,000 × 384 float16, cosine",
    "sgd": "dialogue turns: 32,000 × 384 float16, cosine",
    "clinc": "intents, a fifth of the queries out of scope: 18,000 × 384 float16, cosine",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args()
    text = README.read_text()
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    written = before + START + table(arguments.folder) + END + after
    if arguments.check:
        sys.exit(0 if written == text else "README.md has another table than the results; run this without --check")
    README.write_text(written)


def table(folder: Path) -> str:
    """Lay out one line per case, sets in the order of `TITLES`, more RAM further down."""
    cases = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    lines = [
        "| set | RAM, bytes a vector | "
        + " | ".join(f"target {target:.2f}: recall, pages" for target in TARGETS)
        + " |",
        "|---|---|" + "---|" * len(TARGETS),
    ]
    for name, title in TITLES.items():
        mine = [case for case in cases if case["set"] == name]
        for case in sorted(mine, key=lambda case: case["local"]["index"]["ram_bytes_per_vector"]):
            lines.append(line(title, case))
            title = ""
    return "\n".join(lines) + "\n"


def line(title: str, case: dict[str, Any]) -> str:
    """Lay out one case: recall@10 and pages a query at each target, one thread."""
    rows = {row["recall_target"]: row for row in case["local"]["results"] if row["threads"] == 1}
    ram = f"{case['local']['index']['ram_bytes_per_vector']:.1f}" + (", heads alone" if case["ram"] == "none" else "")
    cells = [f"{rows[t]['recall_10_at_10']:.3f}, {rows[t]['pages_read_mean']:.1f}" for t in TARGETS]
    return f"| {title} | {ram} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
