"""The request space of a running server, searched for what it can't take: `tests/serve/test_fuzz.py` at length.

    python bench/fuzz.py --examples 5000 --json bench/results/<date>-fuzz/fuzz.json

A server of the fake engine that everybody may call, and one of the real engine with a cache, under TLS and keys, whose
caller found a key of role admin. Drawn anew each time: messages of any content for every method, bytes that are none,
searches that are nearly right, noise on the port before and after the handshake, noise for health and reflection.
Beside these half messages, slow callers, deaf ones, and fields that are huge. A test fails where a refusal isn't one of
the codes allowed, lacks reason, field or delay, or takes 20 s, and where a worker dies or logs a traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1_000, help="Of each method and kind of noise.")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fuzzing = {"ANNSERVE_FUZZ": "1", "ANNSERVE_FUZZ_EXAMPLES": str(options.examples), "ANNSERVE_FUZZ_TALLY": folder}
        command = [sys.executable, "-m", "pytest", "--timeout=3000", "tests/serve/test_fuzz.py"]
        begun = time.monotonic()
        ended = subprocess.run(command, cwd=ROOT, env={**os.environ, **fuzzing}, capture_output=True, text=True)
        seconds = time.monotonic() - begun
        servers = {path.stem: json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))}
    calls = {name: sum(sum(one["codes"].values()) for one in methods.values()) for name, methods in servers.items()}
    facts = {
        "examples": options.examples,
        "seconds": round(seconds, 1),
        "python": platform.python_version(),
        "outcome": ended.stdout.strip().splitlines()[-1],
        "calls": calls,
        "longest_seconds": max(one["longest_seconds"] for methods in servers.values() for one in methods.values()),
        "servers": servers,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps({name: fact for name, fact in facts.items() if name != "servers"}, indent=1))
    if ended.returncode:
        sys.exit(ended.stdout)


if __name__ == "__main__":
    main()
