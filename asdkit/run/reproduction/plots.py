"""Small plots as SVG, for a page that needs nothing else: means with their intervals, over methods or over a number."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 460, 230, 62, 12, 24, 46
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")  # Okabe and Ito's


class Point(NamedTuple):
    """A mean at a place, and its interval, which may be infinite."""

    x: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Axes:
    """Where numbers lie in the picture, between the ends of both axes."""

    left: float
    right: float
    low: float
    high: float
    log: bool

    def across(self, x: float) -> float:
        """Pixels from the left."""
        share = (_scaled(x, self.log) - self.left) / (self.right - self.left)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def down(self, y: float) -> float:
        """Pixels from the top; values outside lie at the rim."""
        share = (min(max(y, self.low), self.high) - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def plot(
    title: str,
    curves: Mapping[str, Sequence[Point]],
    predictions: Mapping[str, Sequence[tuple[float, float]]],
    label: str = "",
    log: bool = False,
) -> str:
    """An SVG of curves with error bars, and of what lambda_eff predicts of them; `label` and `log` are of the x axis.

    Curves of one point stand in a row without numbers below them, and the names tell them apart.
    """
    points = [point for curve in curves.values() for point in curve]
    heights = [end for p in points for end in (p.mean, p.low, p.high) if math.isfinite(end)]
    places = sorted({p.x for p in points})
    axes = Axes(*_widened([_scaled(x, log) for x in places]), *_widened(heights), log)
    parts = [_text(_WIDTH / 2, 14, title, "middle"), _text(_WIDTH / 2, _HEIGHT - 16, label, "middle")]
    for value in (axes.low, (axes.low + axes.high) / 2, axes.high):
        parts.append(f'<path class="grid" d="M{_LEFT} {axes.down(value):.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(_text(_LEFT - 5, axes.down(value) + 4, f"{value:.3g}", "end"))
    parts += [_text(axes.across(x), _HEIGHT - _BOTTOM + 15, f"{x:g}", "middle") for x in places if label]
    for number, (name, curve) in enumerate(curves.items()):
        parts.append(_curve(name, curve, predictions.get(name, ()), _COLOURS[number % len(_COLOURS)], axes))
    legend = ""
    for number, name in enumerate(curves):
        words = f"{name} (dotted: by lambda_eff)" if name in predictions else name
        legend += f'<span style="color:{_COLOURS[number % len(_COLOURS)]}">● {html.escape(words)}</span>'
    picture = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(parts)}</svg>'
    return f'<figure class="plot">{picture}<figcaption>{legend}</figcaption></figure>'


def _curve(
    name: str, curve: Sequence[Point], prediction: Sequence[tuple[float, float]], colour: str, axes: Axes
) -> str:
    """The points of a curve with their intervals and the line that joins them, and the dotted line."""
    parts = []
    for dotted, line in ((" dotted", prediction), ("", [(p.x, p.mean) for p in curve])):
        if len(line) > 1:
            path = "L".join(f"{axes.across(x):.1f} {axes.down(y):.1f}" for x, y in line)
            parts.append(f'<path class="line{dotted}" d="M{path}"/>')
    for p in curve:
        x, y = axes.across(p.x), axes.down(p.mean)
        if math.isfinite(p.high):
            parts.append(f'<path class="line" d="M{x:.1f} {axes.down(p.low):.1f}V{axes.down(p.high):.1f}"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
    return f'<g stroke="{colour}" fill="{colour}"><title>{html.escape(name)}</title>{"".join(parts)}</g>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(words)}</text>'


def _scaled(x: float, log: bool) -> float:
    return math.log10(x) if log else x


def _widened(values: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis that holds all values, with a little room."""
    room = 0.06 * (max(values) - min(values)) or 0.5 * abs(values[0]) or 1.0
    return min(values) - room, max(values) + room
