"""A report is one HTML file that needs nothing else: pictures inside, no scripts, no fonts from elsewhere."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from manyview.files import write_text

STYLE = """
body{font:16px/1.55 system-ui,sans-serif;color:#222;background:#fafaf8;max-width:1080px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem;margin-bottom:.2rem} h2{margin-top:2.2rem;border-bottom:1px solid #ddd;padding-bottom:.2rem}
table{border-collapse:collapse;margin:.8rem 0} 
td,th{padding:.3rem .9rem;border-bottom:1px solid #e3e3df;text-align:right}
td:first-child,th:first-child{text-align:left}
figure{margin:.6rem 0} img{max-width:100%;image-rendering:auto;border-radius:4px} figcaption{color:#666;font-size:.9rem}
.row{display:grid;gap:0 12px;grid-template-columns:repeat(auto-fit,minmax(min(100%,var(--least,180px)),1fr))}
.chart text{font:11px system-ui;fill:#444}
.row .chart{width:100%}
.chart{max-width:720px;background:#fff;border:1px solid #e3e3df;border-radius:4px}
code,pre{background:#f0f0ec;border-radius:3px;padding:.1rem .3rem} pre{padding:.8rem;overflow-x:auto}
.note{color:#555} .dot{display:inline-block;width:.75em;height:.75em;border-radius:50%;margin-right:.4em}
"""

MARK = '<meta name="generator" content="manyview">'
NOTHING_FETCHED = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
    "style-src 'unsafe-inline'\">"
)


class Page:
    """Collects a report top to bottom and writes it whole or not at all."""

    def __init__(self, title: str, subtitle: str = "", *, plain: bool = False) -> None:
        """plain: the subtitle is the first thing to read, and not a note."""
        self.title = title
        self._parts = [f"<h1>{html.escape(title)}</h1>"]
        self.text(subtitle, note=not plain)

    def heading(self, text: str) -> None:
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str, *, note: bool = False) -> None:
        self._parts.append(f"<p{' class=note' if note else ''}>{html.escape(text)}</p>")

    def code(self, text: str) -> None:
        self._parts.append(f"<pre>{html.escape(text)}</pre>")

    def items(self, lines: Sequence[str]) -> None:
        """A list, a sentence each."""
        self._parts.append(f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>")

    def legend(self, meaning: Sequence[tuple[str, str]]) -> None:
        """Colours (`#rrggbb`) and what they mean."""
        self._parts.append(f'<p class="note">{" &nbsp; ".join(_dot(c) + html.escape(text) for c, text in meaning)}</p>')

    def charts(self, charts: Sequence[tuple[str, str]]) -> None:
        """A row of captioned SVG documents."""
        figures = [f"<figure>{svg}<figcaption>{html.escape(text)}</figcaption></figure>" for text, svg in charts]
        self._parts.append(f'<div class="row">{"".join(figures)}</div>')

    def svg(self, svg: str) -> None:
        self._parts.append(svg)

    def pictures(self, pictures: Sequence[tuple[str, np.ndarray]], zoom: int = 1, *, least: int = 180) -> None:
        """Rows of captioned pictures (H, W, 3) uint8, each at least `least` pixels wide."""
        figures = [
            f'<figure><img alt="{html.escape(caption)}" src="{_data_uri(picture, zoom)}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
            for caption, picture in pictures
        ]
        self._parts.append(f'<div class="row" style="--least:{least}px">{"".join(figures)}</div>')

    def table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        bold: Collection[tuple[int, int]] = (),
        *,
        dots: Sequence[str] | None = None,
    ) -> None:
        """Rows of words; `bold` are cells (row, column), `dots` are colours (`#rrggbb`) before each row."""
        cells = "".join(f"<th>{html.escape(h)}</th>" for h in header)
        marks = [""] * len(rows) if dots is None else [_dot(colour) for colour in dots]
        body = ""
        for number, (row, mark) in enumerate(zip(rows, marks, strict=True)):
            words = [html.escape(str(cell)) for cell in row]
            words = [f"<b>{word}</b>" if (number, place) in bold else word for place, word in enumerate(words)]
            body += f"<tr><td>{mark}{'</td><td>'.join(words)}</td></tr>"
        self._parts.append(f"<table><tr>{cells}</tr>{body}</table>")

    def write(self, path: Path) -> None:
        document = (
            f'<!doctype html><html lang="en"><meta charset="utf-8">{MARK}{NOTHING_FETCHED}'
            f"<title>{html.escape(self.title)}</title>"
            f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style><body>'
            + "\n".join(self._parts)
            + "</body></html>"
        )
        write_text(path, document)


def _dot(colour: str) -> str:
    """A round mark; colours come from this program only."""
    return f'<span class="dot" style="background:{html.escape(colour)}"></span>'


def _data_uri(picture: np.ndarray, zoom: int) -> str:
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(picture))
    if zoom > 1:
        image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
