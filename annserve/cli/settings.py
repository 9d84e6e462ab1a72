"""Flags of a command from the settings it takes, so that help, configuration file and environment can't disagree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from annserve.config import ServeConfig
from annserve.errors import InputError


def setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one flag for each setting; a flag that isn't given is None."""
    for name, field in reversed(ServeConfig.model_fields.items()):
        if name != "collections":
            command = _option(name, field)(command)
    return command


def _option(name: str, field: FieldInfo) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    flag, annotation = "--" + name.replace("_", "-"), field.annotation
    if annotation is bool:
        return click.option(flag, name, is_flag=True, default=None, help=field.description)
    shown = "" if field.default is None else f"  [default: {field.default}]"
    return click.option(flag, name, type=_type_of(annotation), help=f"{field.description}{shown}")


def _type_of(annotation: Any) -> Any:
    if get_origin(annotation) is Literal:
        return click.Choice(get_args(annotation))
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind is not type(None)]
    (kind,) = kinds
    return click.Path(path_type=Path) if kind is Path else kind


def collections_of(arguments: tuple[str, ...]) -> dict[str, Path]:
    """Read ``NAME=PATH`` and ``PATH``, which is named after its folder.

    Raises
    ------
    InputError
        If two have one name.
    """
    named: dict[str, Path] = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals or "/" in name:
            name, path = Path(argument).resolve().name, argument
        if name in named:
            raise InputError(f"two indexes are named {name!r}; tell them apart with NAME=PATH", field="collections")
        named[name] = Path(path)
    return named
