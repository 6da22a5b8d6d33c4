"""Pictures of the standings as SVG within a page, whose style sheet colours them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 130, 16, 30  # margins; names stand on the right
COLOURS = 6  # classes c0 to c5 of the style sheet


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """A class for each name."""
    return {name: f"c{place % COLOURS}" for place, name in enumerate(names)}


@dataclass(frozen=True)
class Whisker:
    """A share with its interval, under a name; `hollow` ones are raw."""

    name: str
    colour: str
    share: float
    low: float
    high: float
    hollow: bool


def lines(
    title: str,
    days: Sequence[str],
    series: Mapping[str, Sequence[float]],
    colours: Mapping[str, str],
) -> str:
    """Lines over days [T], each named at its end; per cent on the left."""
    values = np.concatenate([[0.0], *map(np.asarray, series.values())])
    scale = _Scale(float(values.min()), float(values.max()))
    parts = [scale.grid("{:+.1f} %", 0.0)]
    steps = max(len(days) - 1, 1)
    plot = WIDTH - LEFT - RIGHT
    ends = _apart([scale.y(line[-1]) for line in series.values()])
    for number, (name, line) in enumerate(series.items()):
        points = []
        for place, value in enumerate(line):
            points.append(f"{LEFT + plot * place / steps:.1f},{scale.y(value):.1f}")
        colour = colours[name]
        parts.append(f'<polyline class="{colour}" points="{" ".join(points)}"/>')
        x = WIDTH - RIGHT + 6
        parts.append(f'<text class="{colour}" x="{x}" y="{ends[number]:.1f}">{escape(name)}</text>')
    parts.append(_under(LEFT, "start", days[0]) + _under(WIDTH - RIGHT, "end", days[-1]))
    return _picture(title, parts)


def whiskers(title: str, aim: float, marks: Sequence[Whisker]) -> str:
    """Shares with intervals beside each other, and a line at the aim."""
    values = [aim, *[mark.low for mark in marks], *[mark.high for mark in marks]]
    scale = _Scale(min(values), max(values))
    parts = [scale.grid("{:.2f}", aim)]
    width = (WIDTH - LEFT - 10) / max(len(marks), 1)
    for number, mark in enumerate(marks):
        x = LEFT + width * (number + 0.5)
        low, high, middle = scale.y(mark.low), scale.y(mark.high), scale.y(mark.share)
        colour = mark.colour
        parts.append(f'<path class="{colour}" d="M{x:.1f} {low:.1f}V{high:.1f}"/>')
        form = f"{colour} hollow" if mark.hollow else f"{colour} full"
        parts.append(f'<circle class="{form}" cx="{x:.1f}" cy="{middle:.1f}" r="4"/>')
        if mark.name:
            parts.append(_under(x + width / 2, "middle", mark.name))
    return _picture(title, parts)


class _Scale:
    """The vertical axis."""

    def __init__(self, low: float, high: float) -> None:
        room = (high - low) * 0.06 or 0.01
        self._low, self._high = low - room, high + room

    def y(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def grid(self, form: str, aim: float) -> str:
        """Lines at round values, and a stronger one at the aim."""
        parts = []
        for value in [*self._ticks(aim), aim]:
            kind = "aim" if value == aim else "grid"
            y = self.y(value)
            parts.append(f'<path class="{kind}" d="M{LEFT} {y:.1f}H{WIDTH - 10}"/>')
            text = form.format(value)
            parts.append(f'<text class="axis" x="{LEFT - 6}" y="{y + 4:.1f}">{text}</text>')
        return "".join(parts)

    def _ticks(self, aim: float) -> list[float]:
        """Two to five round values, none close to the aim."""
        rough = (self._high - self._low) / 4
        power = 10.0 ** np.floor(np.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        first = int(np.ceil(self._low / step))
        last = int(np.floor(self._high / step))
        ticks = [number * step for number in range(first, last + 1)]
        return [tick for tick in ticks if abs(tick - aim) > step / 2]


def _apart(heights: Sequence[float]) -> list[float]:
    """Heights of names at the ends of lines, moved so that none hides another."""
    order = np.argsort(heights)
    placed = [0.0] * len(heights)
    lowest = TOP + 4.0
    for place in order:
        placed[place] = max(heights[place] + 4, lowest)
        lowest = placed[place] + 14
    return placed


def _under(x: float, anchor: str, text: str) -> str:
    y = HEIGHT - BOTTOM + 18
    return f'<text class="under" x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _picture(title: str, parts: Sequence[str]) -> str:
    box = f"0 0 {WIDTH} {HEIGHT}"
    head = f'<svg viewBox="{box}" role="img" aria-label="{escape(title)}">'
    return f"<figure>{head}{''.join(parts)}</svg><figcaption>{escape(title)}</figcaption></figure>"
