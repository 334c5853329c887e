"""Draws docs/results/claim.svg from docs/results/claim.csv: for each pool and method, the difference of the test loss to
random selection with as many steps, and its 95 % interval over seeds. The figures are those of docs/results.md.

    python3 pipelines/bench/figure.py            # writes the picture
    python3 pipelines/bench/figure.py --check    # exit code 1 if the picture is not that of the figures

The program needs Python 3.8 and no packages.
"""

import csv
import sys
from html import escape
from math import ceil, floor
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent.parent / "docs" / "results"
WIDTH, LEFT, RIGHT = 720, 230, 40
ROW, HEAD, FOOT = 26, 34, 44
STYLE = """text { font: 13px sans-serif; fill: #24292f; } .pool { font-weight: bold; } .scale { fill: #57606a; }
line { stroke: #8c959f; } .grid { stroke: #d8dee4; } .interval { stroke: #0969da; stroke-width: 2; }
circle { fill: #0969da; } .raise circle { fill: #bc4c00; } .raise .interval { stroke: #bc4c00; }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3; } .scale { fill: #9198a1; } .grid { stroke: #30363d; }
.interval { stroke: #58a6ff; } circle { fill: #58a6ff; } .raise circle { fill: #f0883e; }
.raise .interval { stroke: #f0883e; } }"""


def draw(rows):
    pools = list(dict.fromkeys(row["pool"] for row in rows))
    # Ticks of a tenth, beyond the longest intervals.
    smallest = floor(min(float(row["low"]) for row in rows) * 10)
    largest = max(ceil(max(float(row["high"]) for row in rows) * 10), 0)

    def x(value):
        return LEFT + (WIDTH - LEFT - RIGHT) * (value * 10 - smallest) / (largest - smallest)

    height = sum(HEAD + ROW * sum(row["pool"] == pool for row in rows) for pool in pools) + FOOT
    parts = []
    for tick in range(smallest, largest + 1):
        at = f"{x(tick / 10):.1f}"
        style = ' class="grid"' if tick else ""  # the line of random selection is darker
        parts.append(f'<line{style} x1="{at}" x2="{at}" y1="10" y2="{height - FOOT}"/>')
        parts.append(f'<text class="scale" x="{at}" y="{height - FOOT + 16}" text-anchor="middle">{tick / 10:.1f}</text>')
    y = 0
    for pool in pools:
        y += HEAD
        parts.append(f'<text class="pool" x="10" y="{y - 8}">{escape(pool)}</text>')
        for row in (row for row in rows if row["pool"] == pool):
            value, low, high = (float(row[name]) for name in ("difference", "low", "high"))
            middle = y + ROW / 2
            group = ' class="raise"' if row["method"].startswith("raise") else ""
            parts.append(
                f'<g{group}><text x="{LEFT - 12}" y="{middle + 4:.1f}" text-anchor="end">{escape(row["method"])}</text>'
                f'<line class="interval" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{middle:.1f}" y2="{middle:.1f}"/>'
                f'<circle cx="{x(value):.1f}" cy="{middle:.1f}" r="4.5"/></g>')
            y += ROW
    words = "test loss minus that of random selection with as many steps (lower is better), 95 % over five seeds"
    parts.append(f'<text class="scale" x="10" y="{height - 8}">{words}</text>')
    body = "\n".join(parts)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{words}">\n'
            f"<style>{STYLE}</style>\n{body}\n</svg>\n")


def main():
    with open(FOLDER / "claim.csv", newline="", encoding="utf-8") as file:
        picture = draw(list(csv.DictReader(file)))
    path = FOLDER / "claim.svg"
    if sys.argv[1:] == ["--check"]:
        if path.read_text(encoding="utf-8") != picture:
            sys.exit(f"error: {path} is not the picture of claim.csv\nhint: run this program without --check")
    elif sys.argv[1:]:
        sys.exit("error: the program knows no other argument than --check")
    else:
        path.write_text(picture, encoding="utf-8", newline="\n")


main()
