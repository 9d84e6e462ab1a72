"""The command line as a shell meets it: help, JSON, Ctrl-C, a reader that leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from journeys.doors import COMMAND, annserve, annserve_process, build_index

from annserve import __version__
from annserve.cli.main import COMMANDS, cli


def commands() -> dict[str, click.Command]:
    """Give every command by its words, those of groups too."""
    found: dict[str, click.Command] = {}
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        found[name] = command
        if isinstance(command, click.Group):
            found |= {f"{name} {below}": one for below, one in command.commands.items()}
    return found


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    np.save(folder / "rows.npy", np.random.default_rng(2).integers(0, 256, (3_000, 16)).astype(np.uint8))
    return build_index(folder / "rows.npy", folder / "index")


@pytest.mark.parametrize("words", ["", *commands()])
def test_help_of_every_command_says_what_it_does(words):
    # In processes of their own: click keeps a command's help option as it was when first asked for, by whichever test.
    ended = annserve_process(*words.split(), "--help")
    assert ended.code == 0
    assert ended.err == ""
    assert ended.out.startswith(f"Usage: annserve {words}".rstrip() + " ")
    assert annserve_process(*words.split(), "-h") == ended


@pytest.mark.parametrize("words", list(commands()))
def test_every_option_is_described(words):
    command = commands()[words]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{words} {parameter.opts}"
            assert any(name.startswith("--") or name == "-k" for name in parameter.opts)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["no-such-command"]])
def test_the_top_level_loads_neither_numba_nor_grpc(arguments):
    code = (
        "import sys\nfrom annserve.cli.main import main\n"
        f"sys.argv = ['annserve', *{arguments}]\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        "heavy = {'numba', 'grpc', 'faiss', 'zarr'} & set(sys.modules)\nassert not heavy, heavy"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_the_version_is_said():
    assert annserve("--version").out == f"annserve, version {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["build"],
        ["build", "x.npy"],
        ["build", "x.npy", "--out", "y", "--metric", "hamming"],
        ["search", "x", "y", "-k", "ten"],
        ["serve"],
        ["bench"],
    ],
)
def test_a_wrong_command_line_is_usage_and_exit_2(arguments):
    ended = annserve(*arguments)
    assert ended.code == 2
    assert "Usage: annserve" in ended.err + ended.out


def test_json_is_all_that_goes_to_stdout(index, tmp_path):
    rows = index.parent / "rows.npy"
    np.save(tmp_path / "truth.npy", np.arange(3_000, dtype=np.int32)[:, None])
    bench = ["bench", "search", index, "--queries", rows, "--truth", tmp_path / "truth.npy", "-k", 1]
    for arguments, key in (
        (["build", rows, "--out", tmp_path / "index", "--json"], "rows"),
        (["inspect", index, "--json"], "index"),
        (["verify", index, "--json"], "problems"),
        (["search", index, rows, "--json"], "ids"),
        (["explain", index, "--query", f"{rows}:7", "--json"], "segments"),
        (["convert", rows, tmp_path / "rows.u8bin", "--json"], "count"),
        (["generate", tmp_path / "set", "--count", 500, "--dim", 16, "--intrinsic-dim", 4, "--clusters", 9,
          "--queries", 20, "-k", 5, "--json"], "count"),
        ([*bench, "--recall", "0.9", "--threads", 1, "--repetitions", 1, "--json", "-"], "results"),
    ):  # fmt: skip
        ended = annserve(*arguments)
        assert ended.code == 0, ended.err
        assert key in json.loads(ended.out), arguments


def test_answers_go_to_stdout_and_progress_to_stderr(index, tmp_path):
    ended = annserve("build", index.parent / "rows.npy", "--out", tmp_path / "index")
    assert ended.out.startswith(f"published {tmp_path / 'index'}: 3,000 rows")
    assert len(ended.out.splitlines()) == 1
    for stage in ("stage", "link", "pack", "calibrate", "verify"):
        assert f"\n{stage} " in ended.err


def test_ids_and_distances_are_written_as_arrays(index, tmp_path):
    rows = index.parent / "rows.npy"
    ended = annserve(
        "search", index, rows, "-k", 3, "--out", tmp_path / "ids.npy", "--distances", tmp_path / "distances.npy"
    )
    assert (ended.code, ended.out) == (0, "")
    ids, distances = np.load(tmp_path / "ids.npy"), np.load(tmp_path / "distances.npy")
    assert (ids.dtype, distances.dtype) == (np.uint64, np.float32)
    assert ids.shape == distances.shape == (3_000, 3)
    assert (ids[:, 0] == np.arange(3_000)).mean() >= 0.9


def test_a_reader_that_leaves_is_no_error(index):
    """Far more than a pipe holds is written; the reader takes one byte and goes, as ``head`` does."""
    command = [*COMMAND, "search", str(index), str(index.parent / "rows.npy"), "-k", "100", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as search:
        assert search.stdout is not None
        assert search.stderr is not None
        os.read(search.stdout.fileno(), 1)
        search.stdout.close()
        said = search.stderr.read()
    assert said == b""
    assert search.returncode == 0


def test_an_error_shows_no_traceback_unless_it_is_asked_for(tmp_path):
    quiet = annserve_process("inspect", tmp_path / "none")
    assert quiet.code == 2
    assert quiet.err.startswith("error: there is no index ")
    assert "Traceback" not in quiet.err
    loud = annserve_process("inspect", tmp_path / "none", env={**os.environ, "ANNSERVE_DEBUG": "1"})
    assert "Traceback" in loud.err
