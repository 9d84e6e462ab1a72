"""Charts as SVG text, drawn without a library: bars that stand, bars that lie, and a line with bounds.

Each gives an ``<svg>`` element of a fixed view that scales with its place; every mark has a ``<title>``, which browsers
show under the pointer. Coordinates have one decimal.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

_WIDTH, _HEIGHT = 560, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 12, 40
_LYING_ROW, _LYING_LEFT, _LYING_RIGHT = 22, 130, 120
#: Blue and orange that stay apart for the colour-blind (Okabe, Ito).
_BLUE, _ORANGE = "#0072B2", "#D55E00"
_STYLE = 'font-family="system-ui, sans-serif" font-size="11" fill="#333"'
#: Labels below an axis that don't run into each other.
_LABELS_MAX = 12

Write = Callable[[float], str]


def standing_bars(values: Sequence[tuple[str, float]], x_name: str, y_name: str, write: Write) -> str:
    """Draw a histogram.

    Parameters
    ----------
    values : sequence of (label, value)
        From left to right.
    x_name, y_name : str
        Of the axes.
    write : callable
        Writes a value as text.
    """
    most = max((value for _, value in values), default=0) or 1
    step = (_WIDTH - _LEFT - _RIGHT) / max(len(values), 1)
    every = -(-len(values) // _LABELS_MAX)
    parts = [*_y_axis(most, write), *_axis_names(x_name, y_name)]
    for place, (label, value) in enumerate(values):
        x, height = _LEFT + place * step, value / most * (_HEIGHT - _TOP - _BOTTOM)
        parts.append(
            f'<rect x="{x + step * 0.08:.1f}" y="{_HEIGHT - _BOTTOM - height:.1f}" width="{step * 0.84:.1f}" '
            f'height="{height:.1f}" fill="{_BLUE}"><title>{html.escape(f"{label}: {write(value)}")}</title></rect>'
        )
        if place % every == 0:
            parts.append(_text(x + step / 2, _HEIGHT - _BOTTOM + 14, label, "middle"))
    return _svg(_HEIGHT, parts)


def lying_bars(values: Sequence[tuple[str, float]], write: Write) -> str:
    """Draw one bar below the other, each with its name before it and its value behind it.

    Parameters
    ----------
    values : sequence of (name, value)
    write : callable
        Writes a value as text.
    """
    most = max((value for _, value in values), default=0) or 1
    parts = []
    for place, (name, value) in enumerate(values):
        y, width = place * _LYING_ROW + 4, value / most * (_WIDTH - _LYING_LEFT - _LYING_RIGHT)
        said = write(value)
        parts += [
            _text(_LYING_LEFT - 8, y + 12, name, "end"),
            f'<rect x="{_LYING_LEFT}" y="{y}" width="{max(width, 0.5):.1f}" height="{_LYING_ROW - 6}" fill="{_BLUE}">'
            f"<title>{html.escape(f'{name}: {said}')}</title></rect>",
            _text(_LYING_LEFT + width + 6, y + 12, said, "start"),
        ]
    return _svg(len(values) * _LYING_ROW + 8, parts)


def recall_line(points: Sequence[tuple[float, float, float, float]], x_name: str, y_name: str) -> str:
    """Draw what was delivered against what was asked for, with bounds, and the line on which both are equal.

    Parameters
    ----------
    points : sequence of (target, recall, low, high)
        Targets ascending.
    x_name, y_name : str
        Of the axes.
    """
    least = min(min(target, low) for target, _, low, _ in points)
    floor = int(least * 20) / 20

    def x_of(value: float) -> float:
        return _LEFT + (value - floor) / (1 - floor) * (_WIDTH - _LEFT - _RIGHT)

    def y_of(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - floor) / (1 - floor) * (_HEIGHT - _TOP - _BOTTOM)

    parts = _axis_names(x_name, y_name)
    for tick in (floor + place / 20 for place in range(round((1 - floor) * 20) + 1)):
        parts += [_grid(y_of(tick)), _text(_LEFT - 6, y_of(tick) + 4, f"{tick:.3g}", "end")]
        parts.append(_text(x_of(tick), _HEIGHT - _BOTTOM + 14, f"{tick:.3g}", "middle"))
    parts.append(
        f'<line x1="{x_of(floor):.1f}" y1="{y_of(floor):.1f}" x2="{x_of(1):.1f}" y2="{y_of(1):.1f}" stroke="#999" '
        'stroke-dasharray="4 4"/>'
    )
    path = " ".join(f"{x_of(target):.1f},{y_of(recall):.1f}" for target, recall, _, _ in points)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{_ORANGE}" stroke-width="1.6"/>')
    for target, recall, low, high in points:
        said = f"target {target:g}: {recall:.4f}, of all rows {low:.4f} … {high:.4f}"
        parts += [
            f'<line x1="{x_of(target):.1f}" y1="{y_of(low):.1f}" x2="{x_of(target):.1f}" y2="{y_of(high):.1f}" '
            f'stroke="{_ORANGE}"/>',
            f'<circle cx="{x_of(target):.1f}" cy="{y_of(recall):.1f}" r="4" fill="{_ORANGE}">'
            f"<title>{html.escape(said)}</title></circle>",
        ]
    return _svg(_HEIGHT, parts)


def _y_axis(most: float, write: Write) -> list[str]:
    parts = []
    for share in range(5):
        y = _HEIGHT - _BOTTOM - share / 4 * (_HEIGHT - _TOP - _BOTTOM)
        parts += [_grid(y), _text(_LEFT - 6, y + 4, write(most * share / 4), "end")]
    return parts


def _axis_names(x_name: str, y_name: str) -> list[str]:
    middle = _TOP + (_HEIGHT - _TOP - _BOTTOM) / 2
    return [
        _text(_LEFT + (_WIDTH - _LEFT - _RIGHT) / 2, _HEIGHT - 8, x_name, "middle"),
        f'<text x="12" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 12 {middle:.1f})" {_STYLE}>'
        f"{html.escape(y_name)}</text>",
    ]


def _grid(y: float) -> str:
    return f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" stroke="#e5e5e5"/>'


def _text(x: float, y: float, said: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {_STYLE}>{html.escape(said)}</text>'


def _svg(height: float, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">{"".join(parts)}</svg>'
