"""What the command line is promised to be, elsewhere, is what it is: its commands, options and defaults."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path

import click
import pytest

from annserve.cli.main import COMMANDS, cli
from annserve.design.options import BuildOptions
from annserve.update.append import AppendOptions
from annserve.update.compact import CompactOptions
from annserve.vectors.synthetic import SyntheticOptions

ROOT = Path(__file__).resolve().parents[2]
#: What is typed in documents and in the demo.
DOCUMENTS = [path for path in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md") if (ROOT / path).exists()]


def command(*words: str) -> click.Command:
    found = cli.get_command(click.Context(cli), words[0])
    for word in words[1:]:
        assert isinstance(found, click.Group)
        found = found.commands[word]
    assert found is not None
    return found


def options(*words: str) -> dict[str, click.Option]:
    return {one.name: one for one in command(*words).params if isinstance(one, click.Option) and one.name}


@pytest.mark.parametrize(
    ("name", "least", "kind"),
    [
        ("build", ["x.npy", "--out", "x"], BuildOptions),
        ("generate", ["x"], SyntheticOptions),
        ("append", ["x", "y"], AppendOptions),
        ("compact", ["x"], CompactOptions),
    ],
)
def test_options_of_a_journey_and_of_its_command_are_the_same(name, least, kind):
    """By name and by default, so that help, report and manifest can't disagree."""
    offered = options(name)
    bare = command(name).make_context(name, least).params
    for field in fields(kind):
        assert field.name in offered, field.name
        if field.default is not MISSING:
            assert bare[field.name] == field.default, field.name
    assert set(offered) - {field.name for field in fields(kind)} <= {
        "out",
        "events",
        "as_json",
        "help",
        "unfinished",
        "dry_run",
    }


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_and_option_that_a_document_types_exists(document):
    text = (ROOT / document).read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^annserve (.*)$", text, re.MULTILINE):
        words = line.split("#")[0].split()
        assert words[0] in COMMANDS, line
        depth = 2 if isinstance(command(words[0]), click.Group) else 1
        known = {flag for one in command(*words[:depth]).params for flag in one.opts}
        typed = {word.split("=")[0] for word in words if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word)}
        assert typed <= known, f"{line}: {typed - known}"


@pytest.mark.parametrize(
    "line",
    [
        "build base.npy --out ./idx --metric l2",
        "inspect ./idx",
        "search ./idx queries.npy -k 10 --out ids.npy",
        "plan --count 1e9 --dim 128 --dtype uint8 --ram 32GiB --recall 0.95",
        "probe-disk . --seconds 5 --out prices.json",
        "explain ./idx --query queries.npy:3 -k 10",
        "serve ./idx --listen 127.0.0.1:50051",
        "query --address 127.0.0.1:50051 queries.npy -k 10",
        "bench search ./idx --queries q.npy --truth gt.npy --recall 0.90,0.95,0.98 --threads 1,2 --json out.json",
        "convert base.npy base.fbin",
        "verify ./idx",
    ],
)
def test_the_lines_that_users_were_promised_are_understood(line):
    """Parsed only; that they work is for the journeys."""
    words = line.split()
    depth = 2 if words[0] == "bench" else 1
    context = command(*words[:depth]).make_context(words[0], words[depth:])
    assert not context.args
