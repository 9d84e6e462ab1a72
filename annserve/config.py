"""How a server is set: one class, whose fields are flags, lines of a TOML file and environment variables alike.

A flag wins over the environment, which wins over the file. ``tls_key`` is ``--tls-key``, ``ANNSERVE_TLS_KEY`` and
``tls_key = "…"``; help, file and environment can't disagree, for each is made of the fields below. What isn't a
setting is refused, so that a slip of the pen never leaves a server less guarded than it was meant to be.

Deliberately absent: secrets. A setting names the file that holds one.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from annserve.errors import InputError, NotFoundError
from annserve.spec import K_MAX, check_collection_name

PREFIX = "ANNSERVE_"


class ServeConfig(BaseSettings):
    """Settings of ``annserve serve``. A field's description is its help."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True)

    collections: dict[str, Path] = Field({}, description="Indexes to serve: name and folder.")
    data: Path | None = Field(None, description="Folder of collections that callers may make, with their jobs.")

    listen: str = Field("127.0.0.1:50051", description="HOST:PORT of gRPC; port 0 is any free one.")
    insecure: bool = Field(False, description="Allow an address that other machines reach, without encryption or keys.")
    tls_certificate: Path | None = Field(None, description="Certificate chain (PEM); read anew when it changes.")
    tls_key: Path | None = Field(None, description="Private key of the certificate (PEM).")
    tls_client_ca: Path | None = Field(
        None,
        description="Admit only clients whose certificate one of these signed (PEM); see --keyless-role, too.",
    )
    keys: Path | None = Field(None, description="Admit only callers with a key of this file; see 'annserve keys'.")
    keyless_role: Literal["read", "write", "admin"] = Field(
        "admin", description="What callers may do where no keys are asked for."
    )

    workers: int = Field(1, ge=1, le=256, description="Processes that answer searches, on the same port.")
    threads: int | None = Field(
        None, ge=1, description="Searches that a worker runs at once; by default all have one for each core."
    )
    waiting_max: int = Field(
        128, ge=1, description="Calls of a collection that wait in a worker; more are refused at once."
    )
    io: str = Field("auto", description="How pages are read: auto, uring, pread or mmap.")
    cache: str = Field(
        "0", description="RAM of each index, in each worker, for what will be asked for again, as 64MiB."
    )
    cache_packed: bool = Field(False, description="Pack the pages in it: a third more fit, each costs some CPU.")
    audit: float = Field(
        0.02, ge=0, le=0.5, description="Share of the time in which live queries may be held against all rows."
    )
    hold_recall: bool = Field(False, description="Read more where the auditor finds less recall than was asked for.")
    grace_seconds: float = Field(30.0, ge=0, description="Time to finish calls when stopped.")
    port_file: Path | None = Field(None, description="Write the port there once it answers.")

    message_mib: int = Field(64, ge=1, le=1024, description="Largest request and answer.")
    queries_max: int = Field(16_384, ge=1, description="Queries in one request.")
    k_max: int = Field(K_MAX, ge=1, le=K_MAX, description="Neighbours of one query.")

    http_listen: str | None = Field(None, description="HOST:PORT of the status page and /metrics.")
    log_format: Literal["text", "json"] = Field("text", description="Lines of key=value, or of JSON.")
    trace_endpoint: str | None = Field(None, description="OTLP endpoint of traces, as http://127.0.0.1:4317.")
    log_calls: Literal["changes", "failed", "all"] = Field(
        "changes", description="Calls that are logged, a line each: those that change something, or fail, too, or all."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take flags, then the environment; `read_config` puts a file behind them."""
        return init_settings, env_settings


def read_config(file: Path | None = None, flags: Mapping[str, Any] | None = None) -> ServeConfig:
    """Read the settings of a server.

    Parameters
    ----------
    file : Path, optional
        TOML; paths in it are relative to its folder.
    flags : mapping, optional
        What the command line gave; None values are as if absent. `collections` join those of the file.

    Returns
    -------
    ServeConfig

    Raises
    ------
    NotFoundError
        If there is no such file.
    InputError
        If a setting is unknown or out of range; the message says where it was given.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    told = _of_file(file) if file else {}

    class _WithFile(ServeConfig):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *sources: PydanticBaseSettingsSource, **named: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (
                *super().settings_customise_sources(settings_cls, *sources, **named),
                InitSettingsSource(settings_cls, told),
            )

    try:
        config = _WithFile(**given)
    except ValidationError as error:
        raise _refusal(error, given, file) from None
    except ValueError as error:  # a collection or a list of the environment that isn't JSON
        raise InputError(f"a setting of the environment can't be read: {error}") from None
    _check_together(config)
    return config


def _of_file(file: Path) -> dict[str, Any]:
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError(f"there is no {file}; give the settings of the server with --config FILE") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{file} can't be read as TOML: {error}", field="config") from None
    collections = told.get("collections")
    if isinstance(collections, dict):
        told["collections"] = {
            name: file.parent / path if isinstance(path, str) else path for name, path in collections.items()
        }
    for name, field in ServeConfig.model_fields.items():
        if field.annotation == (Path | None) and isinstance(told.get(name), str):
            told[name] = file.parent / told[name]
    return told


def _refusal(error: ValidationError, given: Mapping[str, Any], file: Path | None) -> InputError:
    """Say in one line what is wrong, where it was given, and what would be right."""
    fault = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in fault["loc"])
    setting = str(fault["loc"][0])
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(setting, ServeConfig.model_fields, 1)
        hint = f"did you mean {near[0]!r}?" if near else "'annserve serve --help' lists them"
        return InputError(f"{file}: there is no setting {setting!r}; {hint}", field=setting)
    variable = f"{PREFIX}{setting.upper()}"
    if setting in given:
        place = "--" + setting.replace("_", "-")
    elif variable in os.environ:
        place = variable
    else:
        place = str(file)
    return InputError(f"{name} is {fault['input']!r} ({place}): {fault['msg']}", field=setting)


def _check_together(config: ServeConfig) -> None:
    """Refuse what is wrong only beside something else."""
    for name in config.collections:
        check_collection_name(name)
    if (config.tls_certificate is None) != (config.tls_key is None):
        given, missing = ("tls_key", "tls_certificate") if config.tls_key else ("tls_certificate", "tls_key")
        raise InputError(f"{given} is given without {missing}; encryption takes both", field=missing)
    if config.keys and config.keyless_role != "admin":
        raise InputError(
            "keyless_role is given beside keys, each of which has a role of its own; leave one out",
            field="keyless_role",
        )
    if config.tls_client_ca and not config.tls_certificate:
        raise InputError(
            "tls_client_ca is given without tls_certificate; clients show certificates only where the server does",
            field="tls_client_ca",
        )
