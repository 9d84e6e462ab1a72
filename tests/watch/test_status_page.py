"""The status page: what it is made of, who may read it, and how it looks in a browser."""

from __future__ import annotations

import base64
import errno
import http.client
import json
import re
import socket
import time
from contextlib import ExitStack
from importlib import resources

import numpy as np
import pytest

from annserve.errors import AccessError
from annserve.results import CERTIFIED, DELTA, MISS, REPEAT, SearchStats
from annserve.watch import web
from annserve.watch.board import Board, Sources
from annserve.watch.metrics import meter
from annserve.watch.web import StatusServer

PAGE = resources.files("annserve.watch").joinpath("status.html").read_text(encoding="utf-8")
INFO = {
    "snapshot": 7, "count": 500_000, "dim": 128, "row_type": "uint8", "metric": "l2", "io": "uring",
    "ram_bytes": 16_000_000, "ram_tiers": {"heads": 3_000_000, "row_codes": 13_000_000}, "disk_bytes": 85_000_000,
}  # fmt: skip
CACHED = INFO | {"ram_tiers": INFO["ram_tiers"] | {"cache": 64 << 20}}
RECALL = {"low": 0.9472, "recall": 0.951, "queries": 1_800}
COLLECTIONS = [
    {"name": "page-photos", "state": "ready", "reason": "", "info": CACHED, "recall": RECALL},
    {"name": "page-articles", "state": "ready", "reason": "version 4: checksum mismatch at byte 8192", "info": INFO,
     "recall": None},
    {"name": "page-contracts", "state": "quarantined", "reason": "codes.bin was <b>cut</b> & lost", "info": None,
     "recall": None},
    {"name": "page-tickets", "state": "opening", "reason": "", "info": None, "recall": None},
]  # fmt: skip
JOBS = [
    {"job_id": "20261122t050305686892z-a89f35", "collection": "page-tickets", "kind": "build", "state": "running",
     "stage": "refine", "done": 30, "total": 120, "unit": "rows", "seconds": 84.0, "outcome": ""},
    {"job_id": "1", "collection": "page-photos", "kind": "verify", "state": "failed", "stage": "", "done": 0,
     "total": 0, "unit": "", "seconds": 3.0, "outcome": "<i>page</i> 2 is damaged"},
]  # fmt: skip


@pytest.fixture
def board(monkeypatch):
    monkeypatch.setattr("annserve.watch.board.LOOK_SECONDS", 0.6)  # so that five looks outlast a poll of the page
    with Board(Sources(lambda: COLLECTIONS, lambda: JOBS, address="127.0.0.1:50051")) as board:
        yield board


@pytest.fixture
def port(board):
    with StatusServer("127.0.0.1", 0, board) as server:
        yield server.port


def get(port: int, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read(), dict(answer.getheaders())


def test_the_page_loads_nothing_from_elsewhere_and_its_policy_allows_nothing_else(port):
    assert not re.search(r'(src|href)="(?!data:,")|https?://(?!www\.w3\.org/2000/svg)|@import|url\(|innerHTML', PAGE)
    status, body, headers = get(port, "/")
    assert (status, body.decode()) == (200, PAGE)
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_json_tells_what_the_page_shows(port):
    told = json.loads(get(port, "/status.json")[1])
    assert [(one["name"], one["state"], one["reason"]) for one in told["collections"]] == [
        (one["name"], one["state"], one["reason"]) for one in COLLECTIONS
    ]
    assert told["jobs"] == JOBS
    (process,) = told["server"]["processes"]
    assert process["memory"]["anonymous"] > 1 << 20


def test_metrics_tell_of_faults_jobs_and_processes(port):
    status, body, headers = get(port, "/metrics")
    assert (status, headers["Content-Type"].split(";")[0]) == (200, "text/plain")
    text = body.decode()
    for line in (
        'annserve_collection_fault{collection="page-photos"} 0.0',
        'annserve_collection_fault{collection="page-articles"} 1.0',
        'annserve_collection_fault{collection="page-contracts"} 1.0',
        'annserve_collection_fault{collection="page-tickets"} 0.0',
        'annserve_jobs{state="running"} 1.0',
        'annserve_jobs{state="waiting"} 0.0',
        'annserve_recall_lower_bound{collection="page-photos"} 0.9472',
        'annserve_recall_lower_bound{collection="page-articles"} NaN',
        "annserve_worker_restarts_total 0.0",
    ):
        assert line in text
    assert re.search(r'annserve_process_resident_bytes\{kind="anonymous",process="server"\} [0-9.e+]{4,}', text)
    assert re.search(r'annserve_info\{version="[0-9.]+"\} 1\.0', text)


@pytest.mark.parametrize("path", ["/nothing", "/../etc/passwd", "/status.html", "/%2e%2e/", "/metrics/x"])
def test_there_is_nothing_else_to_ask_for(port, path):
    assert get(port, path)[0] == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", ""])
def test_the_name_of_another_site_that_leads_here_is_refused_on_loopback(port, host):
    assert get(port, "/status.json", Host=host)[0] == 403
    for name in ("localhost", "127.0.0.1:1234", "[::1]:80", "[::1]"):
        assert get(port, "/status.json", Host=name)[0] == 200


def test_with_keys_only_who_shows_one_reads_it(board):
    def allow(shown):
        if shown != ["Bearer right"]:
            raise AccessError("this server asks for a key")

    with StatusServer("127.0.0.1", 0, board, allow=allow) as server:
        basic = base64.b64encode(b"anyone:right").decode()
        for header in ("Bearer right", f"Basic {basic}"):
            assert get(server.port, "/metrics", Authorization=header)[0] == 200
        for header in ("Bearer wrong", "Basic !!!", "Basic " + base64.b64encode(b"right:").decode()):
            assert get(server.port, "/metrics", Authorization=header)[0] == 401
        status, body, headers = get(server.port, "/status.json")
        assert (status, headers["WWW-Authenticate"].split()[0]) == (401, "Basic")
        assert b"page-photos" not in body
        assert get(server.port, "/healthz")[:2] == (200, b"ok\n"), "an orchestrator has no key"


def test_silent_and_noisy_visitors_keep_nobody_out(board, monkeypatch):
    monkeypatch.setattr(web, "VISIT_SECONDS", 0.3)
    with StatusServer("127.0.0.1", 0, board) as server, ExitStack() as silent:
        for i in range(web.VISITORS_MAX + 4):
            visitor = silent.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            if i % 2:
                visitor.sendall(b"\0\xff" * 50_000)
        begun = time.monotonic()
        assert get(server.port, "/healthz")[0] == 200
        assert time.monotonic() - begun < 5


def test_visitors_who_came_while_no_file_could_be_opened_keep_nobody_out_later(board, monkeypatch):
    def refuse(self):
        raise OSError(errno.EMFILE, "too many open files")

    with StatusServer("127.0.0.1", 0, board) as server:
        with monkeypatch.context() as full:
            full.setattr(socket.socket, "dup", refuse)
            for _ in range(web.VISITORS_MAX + 2):
                with socket.create_connection(("127.0.0.1", server.port), timeout=5) as visitor:
                    assert visitor.recv(1) == b""
        assert get(server.port, "/healthz")[0] == 200


def test_metrics_tell_of_no_collection_that_is_gone(board):
    meter("page-photos")
    meter("page-gone").searched(SearchStats(**{name: np.ones(1) for name in SearchStats.COUNTS}), 0.1)
    told = board.metrics().decode()
    assert "page-gone" not in told
    assert 'annserve_search_seconds_count{collection="page-photos"}' in told
    assert "annserve_process_resident_bytes" in told


def test_a_fault_of_the_page_is_in_the_log(board, monkeypatch, caplog):
    monkeypatch.setattr(board, "metrics", lambda: 1 // 0)
    with StatusServer("127.0.0.1", 0, board) as server, pytest.raises(http.client.RemoteDisconnected):
        get(server.port, "/metrics")
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]


def test_a_look_that_fails_is_not_the_last(monkeypatch, caplog):
    looks = []

    def look(self):
        looks.append(1)
        if len(looks) == 1:
            raise ValueError("half a file")

    monkeypatch.setattr("annserve.watch.board.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("annserve.watch.board.History.look", look)
    with Board(Sources(lambda: COLLECTIONS)):
        until = time.monotonic() + 5
        while len(looks) < 3:
            assert time.monotonic() < until
            time.sleep(0.01)
    assert "half a file" in caplog.text


def test_a_visitor_who_drips_bytes_is_hung_up_on(board, monkeypatch):
    """Each byte comes in time; a request of as many lines as there may be would take hours."""
    monkeypatch.setattr(web, "VISIT_SECONDS", 0.5)
    with StatusServer("127.0.0.1", 0, board) as server, ExitStack() as slow:
        visitors = [
            slow.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            for _ in range(web.VISITORS_MAX)
        ]
        begun = time.monotonic()
        while any(visitors) and time.monotonic() - begun < 5:
            for i, visitor in enumerate(visitors):
                try:
                    if visitor is not None:
                        visitor.sendall(b"G")
                except OSError:
                    visitors[i] = None
            time.sleep(0.05)
        assert time.monotonic() - begun < 3
        assert get(server.port, "/healthz")[0] == 200


def test_the_page_shows_collections_jobs_and_faults_in_light_and_dark(port, browser):
    told = meter("page-photos")
    grades = np.repeat(np.array([MISS, REPEAT, CERTIFIED, DELTA], np.uint8), [20, 10, 4, 6])
    browser.go_online()
    grounds, pictures = [], []
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        browser.show(f"http://127.0.0.1:{port}/")
        counts = {"pages_read": np.full(40, 10), "pages_cached": np.full(40, 3)}
        told.searched(SearchStats(**counts, grades=grades), 0.0013)
        told.cache_did(pages_saved=20, answers_evicted=1, pages_evicted=2)
        browser.wait_for("parseFloat(document.querySelector('[data-collection=page-photos] b')?.textContent) > 0")
        grounds.append(browser.value("getComputedStyle(document.body).backgroundColor"))
        pictures.append(browser.picture())
        assert browser.exceptions() == []
    assert grounds[0] != grounds[1]
    assert all(picture.startswith(b"\x89PNG") and len(picture) > 30_000 for picture in pictures)

    def texts(selector: str) -> list[str]:
        return browser.value(f"[...document.querySelectorAll('{selector}')].map(one => one.textContent)")

    assert texts("h3") == [one["name"] for one in COLLECTIONS]
    assert texts(".card .top .state") == ["ready", "ready", "quarantined", "opening"]
    assert texts(".reason") == [one["reason"] for one in COLLECTIONS if one["reason"]], "markup is text"
    figures = texts("[data-collection=page-photos] .figures b")
    assert (figures[3], figures[4]) == ("10", "≥ 0.947")
    caches = "[data-collection=page-photos] .cache"
    assert texts(f"{caches} [data-grade]") == ["repeat 25 %", "certified 10 %", "delta 15 %", "miss 50 %"]
    assert texts(f"{caches} .legend > b") == ["cache 64.0 MiB a worker"]
    assert "3 pages a query from RAM, 0.5 not needed" in texts(f"{caches} .legend > span")
    assert texts("[data-collection=page-articles] .cache") == []
    assert texts(".wide")[0].startswith("refine")
    assert "30 of 120 rows" in texts(".wide")[0]
    assert browser.value("document.querySelector('.done i').style.width") == "25%"
    assert browser.value("document.title") == "annserve: 2 not served"
    assert {url for url in browser.asked_for() if not url.startswith("data:")} <= {
        f"http://127.0.0.1:{port}/", f"http://127.0.0.1:{port}/status.json"
    }  # fmt: skip
    for width in (1_400, 420):
        browser.show(f"http://127.0.0.1:{port}/", width)
        browser.wait_for("document.querySelectorAll('.figures').length")
        assert browser.value("document.documentElement.scrollWidth <= innerWidth"), f"{width} pixels are enough"


def test_a_page_whose_server_is_gone_says_so(board, browser):
    browser.go_online()
    with StatusServer("127.0.0.1", 0, board) as server:
        browser.show(f"http://127.0.0.1:{server.port}/")
        browser.wait_for("document.querySelectorAll('.figures').length")
    browser.wait_for("getComputedStyle(document.getElementById('lost')).display != 'none'")
