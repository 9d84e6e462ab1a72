"""Build an index from the bundled vectors, serve it, ask it over gRPC, and print what that took.

Everything goes through the doors that a user has: the command line and the client. The server is a process of its
own and is stopped at the end. Run it with ``make demo``.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from annserve import Client
from annserve.cli.render import table_text
from annserve.vectors import bundled

SET = "stdlib-minilm"
K = 10
TARGETS = (0.90, 0.95, 0.98)
SHOWN = (4, 25, 76)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where the index goes; made anew")
    folder: Path = parser.parse_args().folder
    data = bundled.load(SET)
    base = bundled.locate(SET) / "base.f16.npy"

    print(f"1. Build an index of {len(data.base):,} docstring passages, {data.base.shape[1]} dimensions\n")
    # Only what an earlier demo left is removed.
    shutil.rmtree(folder / "index", ignore_errors=True)
    annserve("build", str(base), "--out", str(folder / "index"), "--metric", "cosine")
    print("\n2. What is in it\n")
    annserve("inspect", str(folder / "index"))

    print("\n3. Serve it, and ask over gRPC\n")
    with served(folder / "index") as address, Client(address) as client:
        result = client.search(data.queries, k=K)
        for number in SHOWN:
            print(f"   {data.questions[number]['question']}")
            # A long docstring has several passages; the nearest stands for all.
            named: dict[str, tuple[float, str]] = {}
            for id_, distance in zip(result.ids[number], result.distances[number]):
                passage = data.texts[int(id_)]
                named.setdefault(passage["name"], (1 - float(distance), passage["text"]))
            for name, (similarity, text) in list(named.items())[:3]:
                print(f"      {similarity:.3f}  {name}: {textwrap.shorten(text, 70, placeholder=' …')}")
            print()

        print(f"4. Recall@{K} over {len(data.queries)} questions, against the exact answer\n")
        rows = []
        for target in TARGETS:
            begun = time.perf_counter()
            answers = [client.search(query, k=K, recall_target=target) for query in data.queries]
            seconds = time.perf_counter() - begun
            ids = np.concatenate([answer.ids for answer in answers]).astype(np.int64)
            found = [len(np.intersect1d(a, b)) / K for a, b in zip(ids, data.truth_ids[:, :K])]
            pages = np.concatenate([answer.stats.pages_read for answer in answers])
            rows.append(
                (
                    f"{target:.2f}",
                    f"{np.mean(found):.4f}",
                    f"{pages.mean():.1f}",
                    f"{4 * pages.mean():.0f} KB",
                    f"{seconds / len(answers) * 1e3:.2f} ms",
                )
            )
        header = ("recall target", f"recall@{K}", "pages a query", "read a query", "round trip, one by one")
        print(textwrap.indent(table_text(header, rows), "   "))
    print(f"\nThe index is in {folder / 'index'}; serve it with: annserve serve {folder / 'index'}")


def annserve(*arguments: str) -> None:
    """Run a command of ours as a user would."""
    sys.stdout.flush()
    subprocess.run([sys.executable, "-m", "annserve", *arguments], check=True)


@contextlib.contextmanager
def served(index: Path) -> Iterator[str]:
    """Serve an index on a free port of this machine until the block ends."""
    port_file = index.parent / "port"
    port_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "annserve", "serve", str(index), "--listen", "127.0.0.1:0"]
    with subprocess.Popen([*command, "--port-file", str(port_file)], stderr=subprocess.DEVNULL) as server:
        try:
            while not port_file.exists():
                if server.poll() is not None:
                    raise SystemExit(f"the server ended with {server.returncode} before it answered")
                time.sleep(0.05)
            yield f"127.0.0.1:{port_file.read_text().strip()}"
        finally:
            server.send_signal(signal.SIGTERM)
    if server.returncode != 0:
        raise SystemExit(f"the server ended with {server.returncode}")


if __name__ == "__main__":
    main()
