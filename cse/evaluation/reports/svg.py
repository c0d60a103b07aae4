"""Charts as SVG text: no library and no network; colors and fonts come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLORS = 8  # classes c0..c7 of the style sheet
ON_PAPER = ("#2f6fde", "#d4552b", "#2b8a4b", "#8a4fc8", "#b8860b", "#c23b76", "#138a8f", "#6b7280")
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 40


NAME = 26  # letters of a name beside a bar


@dataclass(frozen=True)
class Series:
    """A named line through points."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def lines(series: Sequence[Series], x_label: str, y_label: str, width: int = 720, height: int = 320) -> str:
    """A chart of lines with a mark at every point; its legend lies below."""
    xs, ys = [v for s in series for v in s.x], [v for s in series for v in s.y]
    if not xs:
        return "<p>Nothing to draw.</p>"
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    x = _Scale(x_ticks[0], x_ticks[-1], LEFT, width - RIGHT)
    y = _Scale(y_ticks[0], y_ticks[-1], height - BOTTOM, TOP)
    parts = _axes(x, y, x_ticks, y_ticks, (x_label, y_label))
    for i, s in enumerate(series):
        points = [(x(a), y(b)) for a, b in zip(s.x, s.y, strict=True)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        dashes = f' stroke-dasharray="{2 * (i // COLORS) + 2} 3"' if i >= COLORS else ""
        parts.append(f'<polyline class="line c{i % COLORS}" points="{path}"{dashes}/>')
        for (a, b), u, v in zip(points, s.x, s.y, strict=True):
            title = f"<title>{escape(s.name)}: {u:g}, {v:.4g}</title>"
            parts.append(f'<circle class="dot c{i % COLORS}" cx="{a:.1f}" cy="{b:.1f}" r="3">{title}</circle>')
        a, b = points[-1]
        parts.append(f'<circle class="end c{i % COLORS}" cx="{a:.1f}" cy="{b:.1f}" r="6"/>')
    label = f"{y_label} against {x_label} of {', '.join(s.name for s in series)}"
    return _svg(parts, width, height, label) + legend([s.name for s in series])


def file(series: Sequence[Series], x_label: str, y_label: str, width: int = 720) -> str:
    """A chart of lines as a file of its own, in colors for light paper; names are at the upper right."""
    chart = lines(series, x_label, y_label, width).partition("<ul")[0]
    colors = [f".line.c{i},.end.c{i}{{stroke:{c}}}.dot.c{i},.name.c{i}{{fill:{c}}}" for i, c in enumerate(ON_PAPER)]
    style = "text{fill:#60656c;font:12px sans-serif}.axis{fill:#1c2024}.grid{stroke:#d9dce1}.line,.end{fill:none}"
    names = "".join(
        f'<text class="name c{i % COLORS}" x="{width - RIGHT - 8}" y="{TOP + 16 * (i + 1)}" text-anchor="end">'
        f"{escape(s.name)}</text>"
        for i, s in enumerate(series)
    )
    start = chart.index(">") + 1
    opening = chart[:start].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ')
    paper = f'<style>{style}{"".join(colors)}</style><rect width="100%" height="100%" fill="#fff"/>'
    return f"{opening}{paper}{chart[start:].removesuffix('</svg>')}{names}</svg>\n"


def ridges(counts: Sequence[Sequence[int]], names: Sequence[str], low: float, high: float, width: int = 720) -> str:
    """Histograms over [low, high], one above the other, each scaled to its own total."""
    row, height = 44, 44 * len(counts) + TOP + BOTTOM
    x = _Scale(low, high, LEFT, width - RIGHT)
    highest = max((max(c) / max(1, sum(c)) for c in counts), default=1) or 1
    parts = []
    for i, (bins, name) in enumerate(zip(counts, names, strict=True)):
        base, total, step = TOP + row * (i + 1), max(1, sum(bins)), (high - low) / len(bins)
        for k, count in enumerate(bins):
            tall = (row - 6) * count / total / highest
            if count:
                left, wide = x(low + k * step), x(low + step) - x(low) - 1
                parts.append(
                    f'<rect class="bar c{i % COLORS}" x="{left:.1f}" y="{base - tall:.1f}" width="{wide:.1f}" '
                    f'height="{tall:.1f}"><title>{escape(name)}: {count} of {total}</title></rect>'
                )
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{base}" y2="{base}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{base - 4}" text-anchor="end">{escape(name)}</text>')
    for tick in ticks(low, high):
        parts.append(f'<text x="{x(tick):.1f}" y="{height - 22}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text class="axis" x="{width / 2}" y="{height - 4}" text-anchor="middle">cosine similarity</text>')
    return _svg(parts, width, height, "histograms of similarity by gold grade")


def bars(names: Sequence[str], values: Sequence[float], unit: str, width: int = 720) -> str:
    """A bar for each name, from the top down, with its value behind it."""
    row, start, room = 22, 176, 96  # pixels: the height of a bar, and the room before and behind it
    x = _Scale(0, max(values, default=0) or 1, start, width - room)
    parts = []
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        top, said = TOP + row * i, f"{value:,.10g}"
        shown = name if len(name) <= NAME else f"{name[: NAME - 1]}…"
        title = f"<title>{escape(name)}: {said} {escape(unit)}</title>"
        parts.append(f'<text x="{start - 8}" y="{top + 14}" text-anchor="end">{escape(shown)}{title}</text>')
        wide = max(1.0, x(value) - start) if value else 0.0
        parts.append(
            f'<rect class="bar c0" x="{start}" y="{top + 2}" width="{wide:.1f}" height="{row - 6}">{title}</rect>'
        )
        end = f'x="{start + wide + 6:.1f}" y="{top + 14}"'
        parts.append(f'<text class="axis" {end}>{said} {escape(unit)}</text>')
    return _svg(parts, width, TOP + row * len(names) + 4, f"bars of {unit} by {', '.join(names)}")


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that span the range."""
    middle, least = (low + high) / 2, max(abs(low), abs(high), 1.0) / 100  # nearly equal values are not told apart
    if high - low < least:
        low, high = middle - least, middle + least
    raw = (high - low) / about
    unit = 10 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def legend(names: Sequence[str]) -> str:
    """Names beside their colors."""
    items = "".join(f'<li><span class="swatch c{i % COLORS}"></span>{escape(n)}</li>' for i, n in enumerate(names))
    return f'<ul class="legend">{items}</ul>'


def _axes(
    x: _Scale, y: _Scale, x_ticks: Sequence[float], y_ticks: Sequence[float], labels: tuple[str, str]
) -> list[str]:
    parts = []
    for tick in y_ticks:
        at = y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{x.end}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        parts.append(f'<text x="{x(tick):.1f}" y="{y.start + 18}" text-anchor="middle">{tick:g}</text>')
    middle, across = (x.start + x.end) / 2, (y.start + y.end) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{y.start + 36}" text-anchor="middle">{escape(labels[0])}</text>')
    turned = f'transform="rotate(-90 14 {across})"'
    parts.append(f'<text class="axis" x="14" y="{across}" {turned} text-anchor="middle">{escape(labels[1])}</text>')
    return parts


def _svg(parts: Sequence[str], width: int, height: int, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label, quote=True)}" '
        f'style="max-width:{width}px">{"".join(parts)}</svg>'
    )
