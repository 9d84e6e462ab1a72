"""What is wrong is said in one line (what, where, what to do), with its exit code, and nothing stays behind."""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc
import numpy as np
import pytest
from journeys.doors import COMMAND, Ended, annserve, files_of
from serve.running import serving

import annserve as product
from annserve.client import Client
from annserve.errors import InputError, ReadError, VersionError
from annserve.index.sealed import read_sealed, write_sealed
from annserve.rpc import search_pb2, search_pb2_grpc


def spoil(rows: np.ndarray, row: int, value: float) -> np.ndarray:
    rows = rows.copy()
    rows[row, 3 if value else slice(None)] = value
    return rows


def assert_says(ended: Ended, message: str) -> None:
    assert re.search(message, ended.error), ended.error
    assert "Traceback" not in ended.err


def fbin(rows: np.ndarray, count: int) -> bytes:
    return struct.pack("<II", count, rows.shape[1]) + rows.tobytes()


#: Name → (file name, content made of good rows, options, exit code, what the message must say).
SOURCES = {
    "NaN": ("rows.npy", lambda rows: spoil(rows, 37, np.nan), (), 2, "row 37 .*NaN"),
    "infinity": ("rows.npy", lambda rows: spoil(rows, 38, -np.inf), (), 2, "row 38 .*infinity"),
    "too large": ("rows.npy", lambda rows: spoil(rows, 39, 1e20), (), 2, "row 39 .*1e15"),
    "zero vector": ("rows.npy", lambda rows: spoil(rows, 40, 0), ("--metric", "cosine"), 2, "row 40 .*zero vector"),
    "complex": ("rows.npy", lambda rows: rows.astype(complex), (), 2, "complex128.*float32"),
    "64-bit integers": ("rows.npy", lambda rows: rows.astype(np.int64), (), 2, "int64.*float32"),
    "a list": ("rows.npy", lambda rows: rows[0], (), 2, r"1 axes, shape \(24,\)"),
    "no rows": ("rows.npy", lambda rows: rows[:0], (), 2, "no rows"),
    "no dimensions": ("rows.npy", lambda rows: rows[:, :0], (), 2, "dimension 0"),
    "too many dimensions": ("rows.npy", lambda rows: np.ones((2, 40_000), np.uint8), (), 2, "40000.*32768"),
    "empty npy": ("rows.npy", lambda rows: b"", (), 3, "npy header.*empty"),
    "empty fbin": ("rows.fbin", lambda rows: b"", (), 3, "0 bytes.*empty"),
    "empty fvecs": ("rows.fvecs", lambda rows: b"", (), 3, "0 bytes.*empty"),
    "cut short": ("rows.fbin", lambda rows: fbin(rows, len(rows))[:-5], (), 3, "cut short"),
    "lying header": ("rows.fbin", lambda rows: fbin(rows, 6_000), (), 3, "says 6000 rows.*header lies"),
    "unknown suffix": ("rows.txt", lambda rows: b"1 2 3", (), 2, "'.txt'.*supported are .npy"),
    "missing": ("rows.npy", None, (), 2, "no file .*check the path"),
    "ids missing": ("rows.npy", lambda rows: rows, ("--ids", "none.npy"), 2, "no file none.npy"),
    "small page": ("rows.npy", lambda rows: rows, ("--page-bytes", "1000"), 2, "1000.*multiple of 4096"),
    "page of 1 GiB": ("rows.npy", lambda rows: rows, ("--page-bytes", str(1 << 30)), 2, "page_bytes is 1073741824"),
    "negative threads": ("rows.npy", lambda rows: rows, ("--threads", "-1"), 2, "threads is -1.*between"),
    "negative seed": ("rows.npy", lambda rows: rows, ("--seed", "-1"), 2, "seed is -1.*between"),
    "no such column": ("rows.npy", lambda rows: rows, ("--column", "emb"), 2, "emb"),
}  # fmt: skip


def write(path: Path, content: bytes | np.ndarray) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    return path


@pytest.mark.parametrize("case", SOURCES)
def test_a_source_that_is_wrong_is_refused_and_leaves_nothing(small_rows, tmp_path, case):
    name, content, options, code, message = SOURCES[case]
    if content is not None:
        write(tmp_path / name, content(small_rows))
    before = files_of(tmp_path)
    ended = annserve("build", tmp_path / name, "--out", tmp_path / "deep" / "index", *options)
    assert ended.code == code
    assert ended.out == ""
    assert_says(ended, message)
    assert not (tmp_path / "deep").exists()
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.zeros(600, np.int64), "id 0 stands twice"),
        (np.arange(5), "5 ids.*600 rows"),
        (np.array([f"doc-{i}" for i in range(600)]), "<U7; give whole numbers"),
        (np.arange(600) - 1, "id -1 .*negative"),
        (np.arange(600) * 1.5, "float64.*whole number"),
        (np.arange(600, dtype=np.uint64) + np.uint64(2**64 - 600), "id 18446744073709551615.*reserved"),
        (np.zeros((600, 2), np.int64), "2 numbers per row"),
    ],
)
def test_ids_that_are_wrong_are_refused(small_file, tmp_path, ids, message):
    path = write(tmp_path / "ids.npy", ids)
    ended = annserve("build", small_file, "--out", tmp_path / "index", "--ids", path)
    assert ended.code == 2
    assert_says(ended, message)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("name", ["rows.parquet:id", "rows.hdf5"])
def test_ids_in_a_file_of_vectors_are_told_where_to_go(small_file, tmp_path, name):
    ended = annserve("build", small_file, "--out", tmp_path / "index", "--ids", tmp_path / name)
    assert ended.code == 2
    assert_says(ended, "a list of whole numbers is read from .npy; save it as such, with numpy.save")


def test_a_folder_with_other_things_in_it_is_left_alone(small_file, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    ended = annserve("build", small_file, "--out", tmp_path)
    assert ended.code == 2
    assert_says(ended, "isn't an empty folder; choose another")
    assert files_of(tmp_path) == {"notes.txt": b"mine"}


def test_a_file_in_the_place_of_the_folder_is_left_alone(small_file, tmp_path):
    (tmp_path / "index").write_text("mine")
    for out in (tmp_path / "index", tmp_path / "index" / "below"):
        ended = annserve("build", small_file, "--out", out)
        assert ended.code == 2
        assert_says(ended, "choose another")
    assert files_of(tmp_path) == {"index": b"mine"}


def test_an_index_is_never_built_over(small_file, copied_index):
    before = files_of(copied_index)
    ended = annserve("build", small_file, "--out", copied_index)
    assert ended.code == 2
    assert_says(ended, "holds an index already; add to it by 'annserve append', remove it, or choose another folder")
    assert files_of(copied_index) == before


def test_an_unwritable_folder_is_an_error_that_says_so(small_rows):
    """As root, who may write everywhere, for the time of the call as nobody."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        source = write(place / "rows.npy", small_rows)
        place.chmod(0o555)
        root = os.geteuid() == 0
        try:
            if root:
                os.seteuid(65_534)
            ended = annserve("build", source, "--out", place / "index")
        finally:
            if root:
                os.seteuid(0)
            place.chmod(0o755)
    assert ended.code == 2
    assert_says(ended, "index can't be written: Permission denied; choose another folder")


@pytest.mark.parametrize("kib", [2, 8, 70, 2_000])
def test_a_device_that_fills_up_is_an_error_after_which_a_build_goes_on(small_file, tmp_path, kib):
    """Files may grow to so many KiB only: staging, pages, rows in order refuse in turn."""
    ended = limited("build", small_file, "--out", tmp_path / "index", kib=kib)
    if kib == 2_000:
        assert ended.code == 0, ended.err
        return
    assert ended.code == 2, ended.err
    assert_says(ended, "can't be written: .*(too large|free)")
    assert annserve("build", small_file, "--out", tmp_path / "index", "--resume").code == 0


#: Limits itself, then becomes the command. Python between fork and exec would run what gRPC does at a fork, and that
#: process may have had channels.
LIMITED = """
import os, resource, signal, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def limited(*arguments: object, kib: int) -> Ended:
    # What numba would write to its cache is refused as well; it goes on without.
    command = [sys.executable, "-c", LIMITED, str(kib << 10), *COMMAND, *map(str, arguments)]
    end = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return Ended(end.returncode, end.stdout, end.stderr)


def test_an_index_of_another_format_version_is_refused(copied_index):
    for name in ("manifest-000001.json", "CURRENT"):
        content = read_sealed(copied_index / name)
        write_sealed(copied_index / name, {**content, "format_version": 99})
        for command in ("inspect", "verify"):
            ended = annserve(command, copied_index)
            assert ended.code == 3
            assert_says(ended, f"{name} was written in format version 99, but this program reads version 1; ")
        with pytest.raises(VersionError):
            product.open(copied_index)


@pytest.mark.parametrize("command", ["inspect", "verify", "search", "serve"])
def test_what_is_no_index_is_refused(small_file, tmp_path, command):
    (tmp_path / "empty").mkdir()
    arguments = [small_file] if command == "search" else ["--listen", "127.0.0.1:0"] if command == "serve" else []
    for path, message in ((tmp_path / "none", "there is no index"), (tmp_path / "empty", "no index .*CURRENT")):
        ended = annserve(command, path, *arguments)
        assert ended.code == 2
        assert_says(ended, f"{message}.*'annserve build' makes one")


#: Name → (queries made of good ones, arguments of search, what the message must say).
SEARCHES = {
    "dimension": (lambda rows: rows[:, :7], {}, "dimension 7, but the index has 24"),
    "NaN": (lambda rows: spoil(rows, 5, np.nan), {}, "row 5 of the queries holds NaN"),
    "infinity": (lambda rows: spoil(rows, 6, np.inf), {}, "row 6 of the queries holds NaN or infinity"),
    "complex": (lambda rows: rows.astype(complex), {}, "complex"),
    "text": (lambda rows: rows.astype(str), {}, "<U"),
    "three axes": (lambda rows: rows[None], {}, "3 axes"),
    "k of 0": (lambda rows: rows, {"k": 0}, "k is 0; it must be at least 1"),
    "negative k": (lambda rows: rows, {"k": -3}, "k is -3"),
    "k beyond the rows": (lambda rows: rows, {"k": 601}, "k is 601, but the index holds 600 rows"),
    "recall beyond 1": (lambda rows: rows, {"recall_target": 1.5}, "recall_target is 1.5; .*0.8 and 0.99"),
    "recall of 0": (lambda rows: rows, {"recall_target": 0.0}, "recall_target is 0.0; .*0.8 and 0.99"),
    "recall NaN": (lambda rows: rows, {"recall_target": float("nan")}, "recall_target is nan"),
}


@pytest.mark.parametrize("case", SEARCHES)
def test_a_search_that_is_wrong_is_refused_at_both_local_doors(small_rows, small_index, tmp_path, case):
    change, asked, message = SEARCHES[case]
    queries = change(small_rows[:10])
    with product.open(small_index) as index:
        with pytest.raises(InputError, match=message):
            index.search(queries, **asked)
        assert index.search(small_rows[:3], 1).ids[:, 0].tolist() == [0, 1, 2]
    options = [part for name, value in asked.items() for part in ({"k": "-k"}.get(name, "--recall"), value)]
    path = write(tmp_path / "queries.npy", queries)
    ended = annserve("search", small_index, path, "--out", tmp_path / "ids.npy", *options)
    assert ended.code == 2
    assert_says(ended, message)
    assert not (tmp_path / "ids.npy").exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"session": 7}, "session is 7; give text or bytes"),
        ({"tenant": 7}, "tenant is 7; give text or bytes"),
        ({"tenant": "x" * 129}, "tenant has 129 bytes"),
        ({"deadline": "soon"}, "deadline is 'soon'; give a Deadline"),
    ],
)
def test_whoever_asks_by_a_wrong_name_or_time_is_refused(small_rows, small_index, asked, message):
    with product.open(small_index, cache_bytes="1MiB") as index, pytest.raises(InputError, match=message):
        index.search(small_rows[:1], **asked)


@pytest.mark.parametrize("n_queries", [1, 50])
def test_a_closed_index_says_so(small_rows, small_index, n_queries):
    with product.open(small_index, threads=2) as index:
        index.search(small_rows[:n_queries])
    with pytest.raises(ReadError, match="is closed; open it anew"):
        index.search(small_rows[:n_queries])


def test_a_server_refuses_what_is_wrong_and_goes_on(small_rows, small_index):
    """All that the local doors refuse, requests and answers over the limit, half rows; after each, a search."""
    options = ("--message-mib", "1", "--threads", "2")
    with serving(small_index, engine="real", options=options) as server, Client(server.address) as client:
        for change, asked, message in SEARCHES.values():
            with pytest.raises(InputError, match=message):
                client.search(change(small_rows[:10]), **asked)
            assert client.search(small_rows[:3], 1).ids[:, 0].tolist() == [0, 1, 2]
        channel = grpc.insecure_channel(server.address, options=[("grpc.enable_http_proxy", 0)])
        stub = search_pb2_grpc.SearchServiceStub(channel)
        float32 = search_pb2.ROW_TYPE_FLOAT32
        for data, k, status in (
            (bytes(2 << 20), 1, grpc.StatusCode.RESOURCE_EXHAUSTED),
            (bytes(96 * 1_000), 600, grpc.StatusCode.INVALID_ARGUMENT),
            (bytes(95), 1, grpc.StatusCode.INVALID_ARGUMENT),
        ):
            matrix = search_pb2.Matrix(row_type=float32, dim=24, data=data)
            with pytest.raises(grpc.RpcError) as caught:
                stub.Search(search_pb2.SearchRequest(matrix=matrix, k=k), timeout=10)
            assert caught.value.code() == status, caught.value.details()
            assert client.search(small_rows[:3], 1).ids[:, 0].tolist() == [0, 1, 2]
        channel.close()
        code, log = server.stop()
    assert code == 0
    assert "Traceback" not in log


def test_a_port_in_use_is_said_before_the_index_is_read(small_index):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = annserve("serve", small_index, "--listen", f"127.0.0.1:{port}")
    assert ended.code == 4
    assert_says(ended, f"port {port} is in use on 127.0.0.1; stop the server there, or choose another port")


def test_certificates_that_are_none_are_said_before_the_index_is_read(small_index, tmp_path):
    files = ("--tls-certificate", tmp_path / "none.pem", "--tls-key", tmp_path / "none.key")
    ended = annserve("serve", small_index, "--listen", "127.0.0.1:0", *files)
    assert ended.code == 2
    assert ended.err.startswith("error: ")
    assert_says(ended, "none.pem can't be read: no such file or directory; give a PEM file")


def test_no_server_is_said_so(small_file):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        ended = annserve("query", small_file, "--address", f"127.0.0.1:{unused.getsockname()[1]}")
    assert ended.code == 4
    assert_says(ended, "no server answers at 127.0.0.1:.*is it running there")
