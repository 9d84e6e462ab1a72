"""``annserve keys``: make, list and revoke the keys that callers of a server show."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

import click

from annserve.errors import OutputError
from annserve.guard.keys import ROLES, new_key, read_keys, revoke_key

_FILE = click.option(
    "--file", "path", required=True, type=click.Path(path_type=Path), help="File of keys, as 'serve --keys' takes it."
)


@click.group("keys")
def command() -> None:
    """Make, list and revoke the keys that callers of a server show.

    The file holds hashes alone. A server notices within a second that it changed.
    """


@command.command("new")
@_FILE
@click.option("--name", required=True, help="Whose key it is; it stands in the server's log.")
@click.option("--role", default="read", show_default=True, type=click.Choice(ROLES), help="What it allows.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the key to a new file, for your eyes only.")
def new(path: Path, name: str, role: str, out: Path | None) -> None:
    """Make a key and print it; nobody can tell it again."""
    if out is None:
        key, secret = new_key(path, name, role)
        click.echo(f"key {key.id} of {key.name}, role {key.role}, added to {path}; it is shown this once:", err=True)
        click.echo(secret)
        return
    with _private(out) as kept:
        key, secret = new_key(path, name, role)
        kept.write(secret + "\n")
    click.echo(f"key {key.id} of {key.name}, role {key.role}, added to {path}; {out} holds it", err=True)


@contextmanager
def _private(path: Path) -> Iterator[TextIO]:
    """Give a new file that nobody else can read; it is gone if what it was made for fails."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        problem = f"{path} can't be made: {error.strerror}; name a file that isn't there yet"
        raise OutputError(problem, path=path) from None
    try:
        with open(file, "w", encoding="ascii") as opened:
            yield opened
    except BaseException:
        path.unlink()
        raise


@command.command("list")
@_FILE
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_(path: Path, as_json: bool) -> None:
    """List the keys of a file, without the keys themselves."""
    keys = read_keys(path)
    if as_json:
        facts = [{name: value for name, value in asdict(key).items() if name != "sha256"} for key in keys]
        click.echo(json.dumps(facts))
        return
    for key in keys:
        click.echo(f"{key.id}  {key.role:5}  {key.created}  {key.name}")


@command.command("revoke")
@_FILE
@click.argument("key_id", metavar="ID")
def revoke(path: Path, key_id: str) -> None:
    """Take a key out of a file."""
    key = revoke_key(path, key_id)
    click.echo(f"revoked key {key.id} of {key.name}, role {key.role}")
