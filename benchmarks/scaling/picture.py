"""The plot of docs/scaling.md."""

import math
from collections.abc import Sequence

from benchmarks.learning.curves import COLOURS
from benchmarks.scaling.cases import SHAPES
from benchmarks.scaling.tables import divisions, outcome


def picture() -> str:
    """An SVG: the speed-up over the smallest number of cards, with both axes logarithmic."""
    width, height, left, top, right, bottom = 640, 420, 56, 20, 120, 46
    curves = {}
    for name in SHAPES:
        points = [
            (cards, outcome(name, *split, 1).step_s) for cards, split in divisions(name).items()
        ]
        curves[name] = [(cards / points[0][0], points[0][1] / step_s) for cards, step_s in points]
    most = 2.0 ** math.ceil(math.log2(max(x for curve in curves.values() for x, _ in curve)))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (width - left - right) * math.log(x) / math.log(most)
        up = (height - top - bottom) * math.log(y) / math.log(most)
        return round(left + across, 1), round(height - bottom - up, 1)

    def line(points: Sequence[tuple[float, float]], style: str) -> str:
        words = " ".join(f"{x},{y}" for x, y in (place(*point) for point in points))
        return f'<polyline fill="none" {style} points="{words}"/>'

    def text(x: float, y: float, words: str, anchor: str = "middle") -> str:
        return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{words}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        line([(1, 1), (most, most)], 'stroke="#999" stroke-dasharray="4 4"'),
    ]
    for power in range(round(math.log2(most)) + 1):
        times = 2.0**power
        parts.append(line([(1, times), (most, times)], 'stroke="#ddd"'))
        x, y = place(1, times)
        parts.append(text(x - 6, y + 4, f"{times:g} ×", "end"))
        x, y = place(times, 1)
        parts.append(text(x, y + 16, f"{times:g} ×"))
    x, y = place(math.sqrt(most), 1)
    parts.append(text(x, y + 34, "cards, over one server and one rank"))
    for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
        parts.append(line(curve, f'stroke="{colour}" stroke-width="2.5"'))
        x, y = place(*curve[-1])
        parts.append(text(x + 6, y + 4, name, "start"))
    return "\n".join([*parts, "</svg>\n"])
