"""The ``annserve`` command: finds a command's file when it is asked for, and turns errors into exit codes.

Invariants: ``annserve --help`` loads neither numba nor grpc; an ``AnnserveError`` is one line on stderr and
the exit code that its class names; Ctrl-C is 130. No traceback reaches a user unless ``ANNSERVE_DEBUG`` is set.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import NoReturn

import click

from annserve.cli.interrupt import interrupts_remembered, was_interrupted
from annserve.errors import AnnserveError
from annserve.version import __version__

#: Command → (module, one line of help); the module's ``command`` is the click command.
COMMANDS = {
    "probe-disk": ("annserve.cli.probe_disk", "Measure what reads cost on a disk."),
    "convert": ("annserve.cli.convert", "Convert vectors between file formats."),
    "generate": ("annserve.cli.generate", "Generate vectors, queries and their exact neighbours."),
    "plan": ("annserve.cli.plan", "Say what an index would take and do, before it is built."),
    "build": ("annserve.cli.build", "Build an index from a file of vectors."),
    "append": ("annserve.cli.append", "Add vectors to an index."),
    "compact": ("annserve.cli.compact", "Make one segment of several."),
    "verify": ("annserve.cli.verify", "Prove that an index is whole: every checksum, every row."),
    "inspect": ("annserve.cli.inspect", "Show what is in an index, and how it was built."),
    "search": ("annserve.cli.search", "Search an index in this process."),
    "explain": ("annserve.cli.explain", "Show what one query did, stage by stage."),
    "serve": ("annserve.cli.serve", "Serve an index over gRPC."),
    "keys": ("annserve.cli.keys", "Make and revoke the keys that a server asks for."),
    "query": ("annserve.cli.query", "Search an index on a server."),
    "admin": ("annserve.cli.admin", "Look after a server's collections and jobs."),
    "bench": ("annserve.cli.bench", "Measure recall, latency, pages and memory."),
}


class _ReaderLeftError(Exception):
    """The reader of our output left; click would make of it an exit with 1."""


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command is run."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command, all of its output included."""
        try:
            done: object = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise _ReaderLeftError from error
        return done

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the commands in the order of a user's journey."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help from the table, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="annserve")
def cli() -> None:
    """Disk-backed vector search: pages are chosen before they are read."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    with interrupts_remembered():
        try:
            # So called, click gives the status of a command that left by ``exit``, or what it returned: nothing.
            status = cli.main(prog_name="annserve", standalone_mode=False)
            sys.exit(status if isinstance(status, int) else 0)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            _leave_interrupted()
        except (BrokenPipeError, _ReaderLeftError):
            # The reader of our output left, as `head` does; nothing went wrong here.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except MemoryError as error:
            if os.environ.get("ANNSERVE_DEBUG"):
                raise
            click.echo(f"error: there isn't enough memory ({error or 'no more is given'}); ask for less", err=True)
            sys.exit(4)
        except Exception as error:
            if was_interrupted():
                _leave_interrupted()
            if not isinstance(error, AnnserveError) or os.environ.get("ANNSERVE_DEBUG"):
                raise
            click.echo(f"error: {error}", err=True)
            sys.exit(error.exit_code)


def _leave_interrupted() -> NoReturn:
    click.echo("interrupted", err=True)
    sys.exit(130)
