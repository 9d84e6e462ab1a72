"""``annserve keys``: make, list and revoke the keys that callers of a server show."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

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
def new(path: Path, name: str, role: str) -> None:
    """Make a key and print it; nobody can tell it again."""
    key, secret = new_key(path, name, role)
    click.echo(f"key {key.id} of {key.name}, role {key.role}, added to {path}; it is shown this once:", err=True)
    click.echo(secret)


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
