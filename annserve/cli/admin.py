"""``annserve admin``: collections and jobs of a server that was started with ``--data``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from annserve.cli.remote import Remote, server_options
from annserve.cli.render import Progress, table_text
from annserve.errors import InputError, ServerError
from annserve.events import StageFinished, StageProgressed, StageStarted
from annserve.sizes import bytes_text

if TYPE_CHECKING:
    from annserve.client import AdminClient
    from annserve.client.admin import CollectionStatus, JobStatus

_JSON = click.option("--json", "as_json", is_flag=True, help="As JSON, an object a line.")
_COLLECTION = click.argument("collection")
_JOB = click.argument("job_id", metavar="JOB")


@click.group("admin")
def command() -> None:
    """Look after a server's collections and jobs; it must have been started with --data for what changes it."""


@command.command("list")
@_JSON
@server_options
def list_(server: Remote, as_json: bool) -> None:
    """List the collections of a server."""
    with _admin(server) as admin:
        _show_collections(admin.collections(), as_json)


@command.command("create")
@_COLLECTION
@server_options
def create(server: Remote, collection: str) -> None:
    """Make an empty collection, which a job builds an index into."""
    with _admin(server) as admin:
        click.echo(f"{admin.create_collection(collection).name} is there, and empty")


@command.command("delete")
@_COLLECTION
@click.option("--yes", is_flag=True, help="Don't ask.")
@server_options
def delete(server: Remote, collection: str, yes: bool) -> None:
    """Remove a collection and its files for good."""
    if not yes:
        click.confirm(f"Remove {collection!r} on {server.address} and all its files?", abort=True, err=True)
    with _admin(server) as admin:
        admin.delete_collection(collection)
    click.echo(f"{collection} is gone")


@command.command("publish")
@_COLLECTION
@click.option("--snapshot", default=0, help="Number of the version that is expected to be the newest.  [default: any]")
@_JSON
@server_options
def publish(server: Remote, collection: str, snapshot: int, as_json: bool) -> None:
    """Have every process of a server serve the newest version of an index, and say which that is."""
    with _admin(server) as admin:
        _show_collections([admin.publish_version(collection, snapshot)], as_json)


@command.command("start")
@click.argument("kind", type=click.Choice(["build", "append", "compact", "verify"]))
@_COLLECTION
@click.argument("options", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--watch", is_flag=True, help="Show how it goes on, and end with it.")
@_JSON
@server_options
def start(server: Remote, kind: str, collection: str, options: tuple[str, ...], watch: bool, as_json: bool) -> None:
    """Start a job, with options as of BuildWork in job.proto: input=vectors.npy metric=cosine ram=32B."""
    with _admin(server) as admin:
        job = admin.start(kind, collection, **_values(kind, options))
        _show_job(admin, job, watch, as_json)


@command.command("resume")
@_JOB
@click.option("--watch", is_flag=True, help="Show how it goes on, and end with it.")
@_JSON
@server_options
def resume(server: Remote, job_id: str, watch: bool, as_json: bool) -> None:
    """Start a job that goes on where another one stopped short."""
    with _admin(server) as admin:
        _show_job(admin, admin.resume(job_id), watch, as_json)


@command.command("jobs")
@click.option("--collection", default="", help="Only those of this collection.")
@_JSON
@server_options
def jobs(server: Remote, collection: str, as_json: bool) -> None:
    """List jobs, newest first."""
    with _admin(server) as admin:
        found = list(admin.jobs(collection))
        if as_json:
            _echo_json(found)
            return
        told = [_how_far(job).partition("\n")[0] for job in found]
        width = max(map(len, told), default=0)
        rows = [[job.job_id, job.kind, job.collection, job.state, far.ljust(width)] for job, far in zip(found, told)]
        click.echo(table_text(["job", "kind", "collection", "state", "how far".ljust(width)], rows))


@command.command("watch")
@_JOB
@_JSON
@server_options
def watch(server: Remote, job_id: str, as_json: bool) -> None:
    """Show how a job goes on, and end with it."""
    with _admin(server) as admin:
        _show_job(admin, admin.job(job_id), True, as_json)


@command.command("cancel")
@_JOB
@_JSON
@server_options
def cancel(server: Remote, job_id: str, as_json: bool) -> None:
    """Stop a job; one that runs takes a moment to end."""
    with _admin(server) as admin:
        _show_job(admin, admin.cancel(job_id), False, as_json)


def _admin(server: Remote) -> AdminClient:
    from annserve.client import AdminClient

    return AdminClient(server.address, **server.settings)


def _values(kind: str, pairs: Iterable[str]) -> dict[str, Any]:
    """Read NAME=VALUE as the job's message has it."""
    from annserve.client.admin import WORK

    values: dict[str, Any] = {}
    known = WORK[kind].DESCRIPTOR.fields_by_name
    for pair in pairs:
        name, _, text = pair.partition("=")
        if name not in known:
            there_are = f"there are {', '.join(known)}" if known else "it has none"
            raise InputError(f"a {kind} has no option {name!r}; {there_are}", field=name)
        values[name] = _value(known[name], text)
    return values


def _value(field: Any, text: str) -> str | int | bool:
    if field.cpp_type == field.CPPTYPE_STRING:
        return text
    try:
        return {"true": True, "false": False}[text] if field.cpp_type == field.CPPTYPE_BOOL else int(text)
    except (KeyError, ValueError):
        kinds = "true or false" if field.cpp_type == field.CPPTYPE_BOOL else "a whole number"
        raise InputError(f"{field.name} is {text!r}; give {kinds}", field=field.name) from None


def _show_collections(collections: Iterable[CollectionStatus], as_json: bool) -> None:
    if as_json:
        _echo_json(collections)
        return
    rows: list[list[str]] = []
    reasons: list[tuple[str, str]] = []
    for one in collections:
        info = one.index or {}
        vectors = f"{info['count']:,} × {info['dim']} {info['row_type']}, {info['metric']}" if info else ""
        sizes = [bytes_text(info[name]) if info else "" for name in ("ram_bytes", "disk_bytes")]
        rows.append([one.name, one.state, str(info.get("snapshot", "")), vectors, *sizes])
        reasons.append((one.name, one.reason))
    click.echo(table_text(["collection", "state", "version", "vectors", "RAM", "disk"], rows))
    for name, reason in reasons:
        if reason:
            click.echo(f"{name}: {reason}")


def _show_job(admin: AdminClient, job: JobStatus, to_its_end: bool, as_json: bool) -> None:
    """Show a job: as it stands, or once it has ended; one that failed then is an error."""
    if to_its_end:
        job = _followed(admin, job)
    if as_json:
        _echo_json([job])
    else:
        click.echo(f"{job.job_id}  {job.kind} of {job.collection}: {job.state}  {_how_far(job)}".rstrip())
    if to_its_end and job.state != "succeeded":
        raise ServerError(f"job {job.job_id} is {job.state}; 'annserve admin resume' goes on with it")


def _followed(admin: AdminClient, job: JobStatus) -> JobStatus:
    """Show the stages of a job as they go by; give it once it has ended."""
    show, stage, begun = Progress(), "", 0.0
    for now in admin.watch(job.job_id):
        if now.stage and now.stage != stage:
            if stage:
                show(StageFinished(stage, time.monotonic() - begun))
            stage, begun = now.stage, time.monotonic()
            show(StageStarted(stage, now.total or None, now.unit))
        if stage:
            show(StageProgressed(stage, now.done))
        job = now
    if stage:
        show(StageFinished(stage, time.monotonic() - begun))
    return job


def _how_far(job: JobStatus) -> str:
    if job.has_ended or not job.stage:
        return job.outcome
    return f"{job.stage}: {job.done:,} of {job.total:,} {job.unit}" if job.total else job.stage


def _echo_json(found: Iterable[CollectionStatus | JobStatus]) -> None:
    for one in found:
        click.echo(json.dumps(asdict(one), default=str))
