"""The still pictures of what can be touched, as a browser draws them first: `python tests/stills.py` records them."""

from pathlib import Path
from typing import Any

import live_model
import pictures
from conftest import ROOT

WIDTH = 544  # pixels of the views: 34 rem, as wide as a picture may be
PAGE = """<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8"><title>{name}</title>
<meta name="viewport" content="width=device-width">
<link rel="stylesheet" href="{static}/arbook.css"><link rel="stylesheet" href="{static}/touch.css">
{scripts}</head>
<body style="background: var(--pst-color-background, #fff); color: var(--pst-color-text-base)"><main class="bd-article">
<figure class="touch" data-touch="{name}" style="box-sizing: content-box; width: 544px; max-width: calc(100% - 2rem)">
<figcaption>What to try.</figcaption></figure>
</main></body></html>"""

# The drawings of all views, each where it stands. Words are set in cells of 9 pixels, so that no font matters.
RECORD = """() => {
    const views = document.querySelector('.views'), { left, top } = views.getBoundingClientRect();
    const escape = text => text.replace(/[&<>]/g, sign => `&#${sign.charCodeAt(0)};`);
    const rect = (kind, x, y, width, height, opacity) =>
        `<rect class="fill ${kind}" x="${x}" y="${y}" width="${width}" height="${height}" ` +
        `fill-opacity="${opacity}"></rect>`;
    const inCells = list => {
        let [x, y] = [2, 0];
        return [...list.querySelectorAll('[role="option"]')].map(option => {
            const letters = [...option.textContent.replaceAll(' ', '\u00a0')], wide = 9 * letters.length;
            if (x + wide > list.clientWidth) [x, y] = [2, y + 27];
            const start = x;
            x += wide + 2;
            const depth = parseInt(option.className.match(/\\d+/)) || 0;
            const places = letters.map((_, i) => start + 4.5 + 9 * i).join(' ');
            return rect('past', start, y + 5, wide, 20, (depth * 0.07).toFixed(2)) +
                (option.getAttribute('aria-selected') == 'true' ? rect('now', start, y + 25, wide, 2, 1) : '') +
                `<text x="${places}" y="${y + 19}" text-anchor="middle" font-size="14">` +
                `${escape(letters.join(''))}</text>`;
        }).join('');
    };
    const drawings = [...views.querySelectorAll('svg, .words')].map(view => {
        const box = view.getBoundingClientRect();
        const place = `translate(${Math.round(box.left - left)} ${Math.round(box.top - top)})`;
        return `<g transform="${place}">${view.matches('svg') ? view.innerHTML : inCells(view)}</g>`;
    });
    const size = `${views.clientWidth} ${Math.round(views.clientHeight)}`;
    return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${size}">` +
        `\\n${drawings.join('\\n')}\\n</svg>\\n`;
}"""


def page_of(name: str, folder: Path) -> str:
    """Write a page with nothing but one interaction; return its address."""
    file = folder / f"{name}.html"
    static = ROOT / "_static"
    live_model.write(ROOT)
    loaded = [
        f'<script src="{(static / script).as_uri()}" defer></script>'
        for script in pictures.scripts_of([name], static)
    ]
    page = PAGE.format(name=name, static=static.as_uri(), scripts="".join(loaded))
    file.write_text(page, "utf8")
    return file.as_uri()


def recorded(page: Any, address: str) -> str:
    """The still picture of the interaction on a page."""
    page.set_viewport_size({"width": 900, "height": 900})
    page.goto(address)
    page.wait_for_function(
        "width => document.querySelector('.views svg')?.viewBox.baseVal.width > 0", arg=WIDTH
    )
    return page.evaluate(RECORD)


if __name__ == "__main__":
    import shutil
    import sys
    import tempfile

    from playwright.sync_api import sync_playwright

    with sync_playwright() as session, tempfile.TemporaryDirectory() as folder:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        page = session.chromium.launch(executable_path=program, args=["--no-sandbox"]).new_page()
        for name in sys.argv[1:]:
            svg = recorded(page, page_of(name, Path(folder)))
            (ROOT / "nbs" / "pictures").mkdir(exist_ok=True)
            (ROOT / "nbs" / "pictures" / f"{name}.svg").write_text(svg, "utf8")
    pictures.give_style(ROOT / "nbs" / "pictures")
