"""A setting has one name in flags, environment and file; a wrong one is refused with its place."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from annserve.cli.serve import command
from annserve.cli.settings import collections_of
from annserve.config import PREFIX, ServeConfig, read_config
from annserve.errors import InputError, NotFoundError


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """None of ours, whatever the machine has."""
    for name in ServeConfig.model_fields:
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)


def test_a_flag_wins_over_the_environment_which_wins_over_the_file(tmp_path, monkeypatch):
    file = tmp_path / "serve.toml"
    file.write_text('threads = 1\nk_max = 10\nqueries_max = 20\n[collections]\na = "here"\nb = "/there"\n')
    monkeypatch.setenv("ANNSERVE_K_MAX", "11")
    monkeypatch.setenv("ANNSERVE_THREADS", "2")
    config = read_config(file, {"threads": 3, "io": None, "collections": {"c": Path("other")}})
    assert (config.threads, config.k_max, config.queries_max, config.io) == (3, 11, 20, "auto")
    assert config.collections == {"a": tmp_path / "here", "b": Path("/there"), "c": Path("other")}


def test_paths_of_a_file_are_relative_to_it(tmp_path):
    file = tmp_path / "serve.toml"
    file.write_text('tls_certificate = "server.pem"\ntls_key = "/run/secrets/server.key"\n')
    config = read_config(file)
    assert (config.tls_certificate, config.tls_key) == (tmp_path / "server.pem", Path("/run/secrets/server.key"))


@pytest.mark.parametrize("name", [name for name in ServeConfig.model_fields if name != "collections"])
def test_every_setting_is_a_flag_with_help(name):
    (option,) = (one for one in command.params if isinstance(one, click.Option) and one.name == name)
    assert option.opts == ["--" + name.replace("_", "-")]
    assert option.help.startswith(ServeConfig.model_fields[name].description)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lisen = 1", r"serve\.toml: there is no setting 'lisen'; did you mean 'listen'\?"),
        ("xyz = 1", r"serve\.toml: there is no setting 'xyz'; 'annserve serve --help' lists them"),
        ("threads = 0", r"threads is 0 \(.*serve\.toml\): .*greater than or equal to 1"),
        ("threads = 'many'", r"threads is 'many' \(.*serve\.toml\): .*integer"),
        ("log_format = 'xml'", r"log_format is 'xml' .*'text' or 'json'"),
        ("threads =", r"serve\.toml can't be read as TOML"),
        ("tls_key = 'x'", "tls_key is given without tls_certificate"),
        ("tls_certificate = 'x'", "tls_certificate is given without tls_key"),
        ("keys = 'x'\nkeyless_role = 'read'", "leave one out"),
        ("tls_client_ca = 'x'", "tls_client_ca is given without tls_certificate"),
        ("[collections]\n'A b' = 'x'", "'A b' can't be the name of a collection"),
        ("[collections]\na = 3", r"collections\.a is 3 \(.*serve\.toml\)"),
    ],
)
def test_a_wrong_line_of_the_file_is_named(tmp_path, text, message):
    file = tmp_path / "serve.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_config(file)


def test_a_wrong_value_is_named_by_where_it_was_given(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"threads is 0 \(--threads\)"):
        read_config(None, {"threads": 0})
    monkeypatch.setenv("ANNSERVE_WAITING_MAX", "-5")
    with pytest.raises(InputError, match=r"waiting_max is '-5' \(ANNSERVE_WAITING_MAX\)") as refused:
        read_config()
    assert refused.value.field == "waiting_max"
    monkeypatch.setenv("ANNSERVE_WAITING_MAX", "5")
    monkeypatch.setenv("ANNSERVE_COLLECTIONS", "not json")
    with pytest.raises(InputError, match="collections"):
        read_config()
    with pytest.raises(NotFoundError, match=r"there is no .*none\.toml"):
        read_config(tmp_path / "none.toml")


def test_an_index_is_named_after_its_folder_or_as_it_is_said(tmp_path):
    assert collections_of(("x=a/b", "c/d", "./e=f")) == {"x": Path("a/b"), "d": Path("c/d"), "e=f": Path("./e=f")}
    with pytest.raises(InputError, match="two indexes are named 'b'"):
        collections_of(("a/b", "b=c"))
