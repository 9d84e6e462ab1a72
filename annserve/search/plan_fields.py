"""Fields of a plan file as arrays, or an error that says what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from annserve.errors import CorruptionError


def arrays_of(content: Mapping[str, Any], *names: str) -> dict[str, npt.NDArray[Any]]:
    """Read fields of a plan: ``ks`` as int64, all others as float64.

    Raises
    ------
    CorruptionError
        If a field is missing or holds no numbers.
    """
    try:
        return {name: np.array(content[name], np.int64 if name == "ks" else np.float64) for name in names}
    except KeyError as error:
        raise CorruptionError(f"the plan lacks {error}; build the index anew") from error
    except (ValueError, TypeError) as error:
        raise CorruptionError(f"the plan holds no numbers where there should be: {error}") from error


def check_shapes(plan: object, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compare the shapes of a plan's arrays with what its axes ask for.

    Raises
    ------
    CorruptionError
        If one differs.
    """
    for name, shape in shapes.items():
        found = getattr(plan, name).shape
        if found != shape:
            raise CorruptionError(f"{name} of the plan has shape {found} where {shape} fits; build the index anew")
