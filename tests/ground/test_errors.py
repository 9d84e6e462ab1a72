"""The tree of errors is the one that its module draws, and every door can report each of them."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import grpc
import pytest

from annserve import errors
from annserve.errors import CorruptionError, InputError, NotFoundError, OutputError, ReadError

CLASSES = [item for _, item in inspect.getmembers(errors, inspect.isclass) if item.__module__ == errors.__name__]


def drawn():
    """Lines of the picture in the docstring: name → (grpc status, exit code)."""
    pattern = re.compile(r"[├└]── (\w+).*?\s([A-Z_]{5,})\s+exit (\d)$", re.MULTILINE)
    return {name: (status, int(code)) for name, status, code in pattern.findall(errors.__doc__)}


def test_the_picture_shows_every_error_with_its_status_and_exit_code():
    picture = drawn()
    for item in CLASSES:
        if item not in (errors.AnnserveError, errors.FormatError):
            assert picture[item.__name__] == (item.grpc_status, item.exit_code)
    assert set(picture) <= {item.__name__ for item in CLASSES}


@pytest.mark.parametrize("item", CLASSES)
def test_every_error_names_a_real_status_and_an_exit_code_that_is_not_success(item):
    assert issubclass(item, errors.AnnserveError)
    assert hasattr(grpc.StatusCode, item.grpc_status)
    assert 1 <= item.exit_code <= 4


@pytest.mark.parametrize(
    ("item", "usual"),
    [
        (errors.InputError, ValueError),
        (errors.NotFoundError, LookupError),
        (errors.OutputError, OSError),
        (errors.ReadError, OSError),
        (errors.DeadlineError, TimeoutError),
    ],
)
def test_errors_are_also_what_a_python_program_expects(item, usual):
    with pytest.raises(usual, match="what is wrong"):
        raise item("what is wrong")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (CorruptionError("/srv/my data/x/a.bin is damaged", path=Path("/srv/my data/x/a.bin")), "a.bin is damaged"),
        (CorruptionError("section 'b' of /srv/x/a.bin at byte 4"), "section 'b' of a.bin at byte 4"),
        (NotFoundError("there is no index /srv/photos; '/opt/annserve build' makes one"), "there is no index photos; "
         "'annserve build' makes one"),
        (OutputError("it can't be written: 3/4 of it, and/or more"), "it can't be written: 3/4 of it, and/or more"),
        (InputError("data is '/etc/passwd'"), "data is '/etc/passwd'"),
        (ReadError("idx/pages.bin can't be read", path=Path("idx/pages.bin")), "pages.bin can't be read"),
    ],
)  # fmt: skip
def test_callers_elsewhere_learn_which_file_it_is_and_not_where_it_lies(error, told):
    assert errors.without_folders(error) == told
