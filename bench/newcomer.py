"""A newcomer's way, timed: an empty folder, own vectors, a server under TLS with a key, a query, metrics scraped.

    python bench/newcomer.py VECTORS --metric cosine --json bench/results/<date>-newcomer/newcomer.json

Runs the README's commands in a new virtual environment. The time that a person takes to read and type isn't in it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS = {
    "install": "python3 -m venv .venv && .venv/bin/pip install --quiet {root}",
    "build": "annserve build {vectors} --out ./mine --metric {metric}",
    "certificate": "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 "
    "-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout server.key -out server.pem",
    "key": "annserve keys new --file keys.json --name my-app --role read --out my-app.key",
    "query": "annserve query --address localhost:{port} --tls-ca server.pem --key-file my-app.key {queries} -k 10",
    "metrics": "curl --silent --show-error --fail {page}metrics | grep annserve_queries_total",
}
SERVE = (
    "annserve serve mine --listen 0.0.0.0:0 --tls-certificate server.pem --tls-key server.key --keys keys.json "
    "--http-listen 127.0.0.1:0"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vectors", type=Path)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--metric", default="l2")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    seconds, said = walk(options.vectors.resolve(), options.queries.resolve(), options.metric)
    facts = {
        "vectors": options.vectors.name,
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "seconds": seconds,
        "seconds_together": round(sum(seconds.values()), 1),
        "scraped": said,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))


def walk(vectors: Path, queries: Path, metric: str) -> tuple[dict[str, float], str]:
    """Take the steps in an empty folder; give the seconds of each and what was scraped."""
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="newcomer-") as folder:
        # Nothing that was there before helps: no environment of ours, no compiled kernels.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ANNSERVE"))}
        environment["PATH"] = f"{folder}/.venv/bin:{environment['PATH']}"
        environment["ANNSERVE_CACHE_DIR"] = f"{folder}/kernels"
        known = {"root": ROOT, "vectors": vectors, "queries": queries, "metric": metric}

        def take(step: str) -> str:
            begun = time.perf_counter()
            line = STEPS[step].format(**known)
            ended = subprocess.run(["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True)
            assert ended.returncode == 0, f"{line}\n{ended.stderr}"
            seconds[step] = round(time.perf_counter() - begun, 1)
            return ended.stdout

        for step in ("install", "build", "certificate", "key"):
            take(step)
        begun = time.perf_counter()
        server = subprocess.Popen(SERVE.split(), cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            known["port"] = server.stdout.readline().strip().rpartition(":")[2]
            known["page"] = server.stdout.readline().split()[-1]
            seconds["serve"] = round(time.perf_counter() - begun, 1)
            take("query")
            said = take("metrics")
        finally:
            server.terminate()
            server.wait()
    return seconds, said.splitlines()[-1]


if __name__ == "__main__":
    main()
