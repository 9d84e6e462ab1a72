"""In the place of the ``annserve`` command: tells events as a build does, and ends as its input's name says."""

import json
import os
import sys
import time
from pathlib import Path

kind, *arguments = sys.argv[1:]
with Path(os.environ["PROGRAM_CALLS"]).open("a") as calls:
    calls.write(json.dumps([kind, *arguments]) + "\n")
# A build's first argument is its source, that of the others the index.
positional = [one for one in arguments if not one.startswith("-")]
source = Path(positional[0 if kind == "build" else -1])
index = Path(next((one.removeprefix("--out=") for one in arguments if one.startswith("--out=")), positional[0]))


def tell(event: str, stage: str, **facts: object) -> None:
    print(json.dumps({"event": event, "stage": stage, **facts}), file=sys.stderr, flush=True)


try:
    tell("started", "cluster", total=10, unit="rows", seconds=0)
    for done in range(1, 11):
        tell("progressed", "cluster", done=done, seconds=0.1 * done)
        if source.name.startswith("slow"):
            time.sleep(0.1 if source.name != "slow_forever.npy" else 10)
except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    sys.exit(130)
tell("finished", "cluster", seconds=1.0, note="")
if source.name == "bad.npy":
    tell("failed", "", note="no")
    print(f"error: {source} holds NaN in row 7; repair it", file=sys.stderr)
    sys.exit(2)
if source.name == "noisy.npy":
    print("x" * 200_000)
    print("a word\nand another", file=sys.stderr)
    sys.exit(9)
if kind == "build":
    index.mkdir(exist_ok=True)
    (index / "CURRENT").write_text("published")
print(f"{kind} of {index}: done")
