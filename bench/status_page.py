"""Pictures of the status page of a server at work: in light, in dark, and as a telephone shows it.

    python bench/status_page.py sift=INDEX:QUERIES sgd=INDEX:QUERIES --cache 4MiB --out bench/results/<date>-status

The server has two workers and a data folder, in which a job builds; a caller asks each collection in turn, one query in
four again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from chromium import Chromium, find
from serve.running import serving

from annserve.client import AdminClient, Client
from annserve.vectors.formats import read_matrix

#: Name of a picture → the user's colours, and the page's width.
PICTURES = {"light": ("light", 1_400), "dark": ("dark", 1_400), "phone": ("dark", 420)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", nargs="+", metavar="NAME=INDEX:QUERIES")
    parser.add_argument("--cache", default="0")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    named = [one.partition("=")[::2] for one in options.collections]
    queries = {name: read_matrix(Path(places.rpartition(":")[2]))[:20_000] for name, places in named}
    indexes = [f"{name}={places.rpartition(':')[0]}" for name, places in named]
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        (data / "inputs").mkdir(parents=True)
        np.save(data / "inputs" / "rows.npy", next(iter(queries.values())))
        settings = ["--workers", "2", "--cache", options.cache, "--audit", "0.2", "--data", str(data)]
        with serving(*indexes, engine="real", options=(*settings, "--http-listen", "127.0.0.1:0")) as server:
            stop = threading.Event()
            callers = [threading.Thread(target=ask, args=(server.address, *one, stop)) for one in queries.items()]
            for caller in callers:
                caller.start()
            with AdminClient(server.address) as admin:
                admin.create_collection("tickets")
                time.sleep(options.seconds)
                admin.start("build", "tickets", input="rows.npy")
                time.sleep(6)
            take(server.status_url(), options.out, folder)
            stop.set()
            for caller in callers:
                caller.join()


def ask(address: str, collection: str, queries: np.ndarray, stop: threading.Event) -> None:
    rng = np.random.default_rng(1)
    with Client(address, collection=collection) as client:
        at = 0
        while not stop.is_set():
            again = rng.random() < 0.25
            client.search(queries[rng.integers(max(at - 200, 0), at + 1) if again else at], 10, session=b"one")
            at = at if again else (at + 1) % len(queries)
            time.sleep(0.002)


def take(url: str, out: Path, folder: str) -> None:
    program = find()
    assert program is not None, "needs a Chromium on the PATH, or ANNSERVE_CHROMIUM"
    browser = Chromium(program, folder)
    browser.go_online()
    for name, (colours, width) in PICTURES.items():
        browser.prefer(colours)
        browser.show(url, width)
        browser.wait_for("document.querySelectorAll('.figures').length")
        (out / f"{name}.png").write_bytes(browser.picture())
    browser.close()


if __name__ == "__main__":
    main()
