"""Draws docs/assets/two-stages.svg: two stages that teach each other, readable in light and dark.

python tools/make_two_stages_picture.py
"""

from __future__ import annotations

from pathlib import Path

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "assets" / "two-stages.svg"

# A plate of its own under everything: where a page's colours differ from the reader's system, it stays readable.
STYLE = """
.plate { fill: #ffffff } .retriever { fill: #eef2fb; stroke: #4a66b8; stroke-width: 2 }
.ranker { fill: #fdf1e6; stroke: #c46a1b; stroke-width: 2 } .item { fill: #9aa3b2 } .hit { fill: #c46a1b }
text { fill: #1f2733; font-size: 16px; text-anchor: middle } .name { font-size: 21px; font-weight: 600 }
.note { font-size: 14px; fill: #4b5563 } path { fill: none; stroke-width: 2.5; stroke: #6b7280 }
path.retriever { fill: none; stroke-width: 2.5 } path.ranker { fill: none; stroke-width: 2.5 }
.head { fill: #6b7280 } .head-retriever { fill: #4a66b8 } .head-ranker { fill: #c46a1b }
@media (prefers-color-scheme: dark) {
.plate { fill: #171b22 } .retriever { fill: #1e2a4a; stroke: #8ea6ee } .ranker { fill: #42280f; stroke: #f0a45c }
.item { fill: #697384 } .hit { fill: #f0a45c } text { fill: #e8ebf0 } .note { fill: #b3bac6 } path { stroke: #9aa3b0 }
.head { fill: #9aa3b0 } .head-retriever { fill: #8ea6ee } .head-ranker { fill: #f0a45c }
}
"""


def items(left: int, top: int, columns: int, rows: int, hits: set[tuple[int, int]]) -> str:
    """A field of dots, `hits` (column, row) of them those that the user will take."""
    return "".join(
        f'<circle cx="{left + 14 * column}" cy="{top + 14 * row}" r="4"'
        f' class="{"hit" if (column, row) in hits else "item"}"/>'
        for column in range(columns)
        for row in range(rows)
    )


def text(x: int, y: int, words: str, kind: str = "word") -> str:
    return f'<text x="{x}" y="{y}" class="{kind}">{words}</text>'


def arrow(line: str, kind: str = "") -> str:
    """A path with a head; `kind` is the stage that it comes from."""
    head, lines = f"head-{kind}" if kind else "head", f' class="{kind}"' if kind else ""
    return f'<path d="{line}"{lines} marker-end="url(#{head})"/>'


def marker(name: str) -> str:
    shape = f'<polygon points="0 0, 8 4, 0 8" class="{name}"/>'
    return f'<marker id="{name}" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">{shape}</marker>'


def picture() -> str:
    shapes = [
        '<rect class="plate" width="920" height="340" rx="10"/>',
        text(85, 118, "all items"),
        items(36, 138, 8, 8, {(2, 1), (5, 6), (6, 3)}),
        arrow("M150 190 H205"),
        '<rect class="retriever" x="212" y="135" width="170" height="110" rx="12"/>',
        text(297, 183, "Retriever", "name"),
        text(297, 208, "query apart from item", "note"),
        text(297, 227, "stage 1", "note"),
        arrow("M382 190 H420"),
        text(462, 133, "candidates"),
        items(434, 155, 5, 6, {(1, 4), (3, 1)}),
        arrow("M504 190 H538"),
        '<rect class="ranker" x="545" y="135" width="170" height="110" rx="12"/>',
        text(630, 183, "Ranker", "name"),
        text(630, 208, "query with item", "note"),
        text(630, 227, "stage 2", "note"),
        arrow("M715 190 H760"),
        text(815, 166, "the list"),
        items(780, 190, 6, 1, {(0, 0), (2, 0)}),
        arrow("M297 135 C297 8 630 8 630 128", "retriever"),
        text(463, 27, "draws that are hard, with their probability"),
        text(463, 70, "evidence: counts, look-alikes", "note"),
        arrow("M630 245 C630 350 297 350 297 252", "ranker"),
        text(463, 280, "the better order (distillation)"),
        text(463, 301, "one step trains both", "note"),
    ]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 920 340" role="img" aria-labelledby="title"'
        ' font-family="system-ui, sans-serif">\n<title id="title">Two stages that teach each other: the retriever hands'
        " candidates, hard draws and evidence to the ranker, the ranker hands its order back</title>\n"
        f"<style>{STYLE}</style>\n<defs>{''.join(map(marker, ('head', 'head-retriever', 'head-ranker')))}</defs>\n"
        + "\n".join(shapes)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(), "utf-8")
