"""How much a page asks of its reader, and how much it may: one table for the whole book.

    PYTHONPATH=_ext:_ext/nbdev-book python -m budgets [PAGE ...]

or `make budgets`. A page is a notebook. One that exports a module (`#| default_exp`) is an engine page, for those who
build; any other is an idea page, for everybody, and has the tighter budget.

What the notebook says is counted as the page shows it: folded and hidden cells do not count, solutions of exercises are
folded too, docstrings are cut to their first line. What only the eye sees is measured in Chromium on the built page, on
a desk (1400 pixels wide) and on a phone (390). A figure beyond the budget has a star.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import nbformat
from bs4 import BeautifulSoup
from nbdev_book import directives as dv
from nbdev_book import reader
from nbdev_book.project import Project
from nbdev_book.source import shorten_docstrings

DESK, PHONE = 1400, 390
CORE = 25  # lines of the one cell of an idea page that may be longer, forced open with `#| code-fold: show`

# At most so much; of the letters in figures, at least.
IDEA = {
    "words": 2_000, "lines": 140, "longest": 15, "core": CORE, "widest": 78, "silent": 10,
    "height": 10_000, "picture": 900, "stretch": 1_800, "cut": 0, "letters": 9,
}  # fmt: skip
ENGINE = {"longest": 25, "core": 25, "height": 20_000}


@dataclass(frozen=True)
class Page:
    """A page in numbers. Without a built page, or a browser, the last ones are not known."""

    name: str
    is_idea: bool
    words: int  # of prose that stands open
    lines: int  # of code that stands open
    longest: int  # lines of the longest open cell, but for the core of an idea page
    core: int  # lines of the longest open cell that was forced open
    widest: int  # characters of the widest open line of code
    silent: float | None = None  # percent of the open cells of the page's own that show nothing
    height: float | None = None  # pixels on the desk
    picture: float | None = None  # pixels from the top of the page to the first picture
    stretch: float | None = (
        None  # pixels of the longest stretch without picture, table or interaction
    )
    cut: list[str] | None = field(default=None)  # what is cut at the right on the phone
    letters: float | None = None  # pixels, of the smallest letters in figures, on the phone

    @property
    def exceeded(self) -> set[str]:
        """The measures in which the page asks too much; what is not known is not asked."""
        known = {name: getattr(self, name) for name in (IDEA if self.is_idea else ENGINE)}
        sizes = {name: len(v) if isinstance(v, list) else v for name, v in known.items()}
        return {
            name
            for name, size in sizes.items()
            if size is not None and not self._is_within(name, size)
        }

    def _is_within(self, name: str, size: float) -> bool:
        bound = (IDEA if self.is_idea else ENGINE)[name]
        return size >= bound if name == "letters" else size <= bound


# What the notebook says


def count_words(markdown: str) -> int:
    """The words of a Markdown cell as prose: without displayed formulas, code blocks, tags and addresses."""
    for pattern in (
        r"^```.*?^```",
        r"\$\$.*?\$\$(?: \([\w-]+\))?",
        r"<[^>]*>",
        r"(?<=\])\([^)\s]*\)",
    ):
        markdown = re.sub(pattern, " ", markdown, flags=re.MULTILINE | re.DOTALL)
    return len([word for word in markdown.split() if re.search(r"\w", word)])


def open_cells(text: str, project: Project) -> Iterator[tuple[str, str, bool, bool]]:
    """What stands open of a notebook: kind, text as shown, whether it is exported, and whether it was forced open."""
    shown = {cell.id: cell for cell in reader.read(text, str(project.root)).cells if "id" in cell}
    notebook = nbformat.reads(text, as_version=4)
    parts = {cell.node.id: cell for cell in reader.code_cells(notebook, project)}
    is_solution = False
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            if heading := re.match(r"#+ +(.*)", cell.source):
                is_solution = heading[1] == "Solution"
            if not is_solution:
                yield "prose", cell.source, False, False
        elif cell.id in shown and cell.id in parts and not is_solution:
            tags = shown[cell.id].metadata.get("tags", [])
            if {"remove-cell", "remove-input", "hide-input"} & set(tags):
                continue
            part = parts[cell.id]
            code = dv.visible(part.code)
            code = shorten_docstrings(code) if part.module and project.short_docstrings else code
            yield "code", code.strip("\n"), bool(part.module), "code-fold" in part.directives


def count(path: Path, project: Project) -> Page:
    """What can be said of a page from its notebook."""
    text = path.read_text("utf8")
    cells = list(open_cells(text, project))
    code = [(source.split("\n"), forced) for kind, source, _, forced in cells if kind == "code"]
    forced = sorted((len(lines) for lines, is_forced in code if is_forced), reverse=True)
    is_idea = "#| default_exp" not in text
    core = max(forced, default=0)
    lengths = [len(lines) for lines, _ in code]
    if is_idea and core:
        lengths.remove(core)
    return Page(
        name=path.stem,
        is_idea=is_idea,
        words=sum(count_words(source) for kind, source, *_ in cells if kind == "prose"),
        lines=sum(len(lines) for lines, _ in code),
        longest=max(lengths, default=0),
        core=core,
        widest=max((len(line) for lines, _ in code for line in lines), default=0),
    )


# What the built page shows

MEASURE = """() => {
    const article = document.querySelector("article");
    const box = (e) => { const r = e.getBoundingClientRect(); return [r.top + scrollY, r.bottom + scrollY] };
    const seen = (e) => e.checkVisibility() && e.getBoundingClientRect().height > 8; // and not in a fold
    const all = (what) => [...article.querySelectorAll(what)].filter(seen).map(box).sort((a, b) => a[0] - b[0]);
    const pictures = all("img, figure.picture, figure.touch, .cell_output svg, .sd-card svg");
    let end = box(article)[0], stretch = 0;
    for (const [top, bottom] of [...all("img, figure, table, .cell_output svg"), [box(article)[1], 0]]) {
        stretch = Math.max(stretch, top - end);
        end = Math.max(end, bottom);
    }
    const height = document.documentElement.scrollHeight;
    return { height, stretch, picture: pictures.length ? pictures[0][0] : height };
}"""

# Boxes that scroll sideways cut what is in them; code may scroll.
CUT = """() => [...document.querySelectorAll("article :is(.math, table, img, svg, figure)")].filter((e) => {
    if (!e.checkVisibility() || e.parentElement.closest(".math, pre, svg")) return false;
    if (e.getBoundingClientRect().right > innerWidth + 1) return true;
    for (let box = e; box.tagName != "ARTICLE"; box = box.parentElement)
        if (getComputedStyle(box).overflowX != "visible" && box.scrollWidth > box.clientWidth + 1) return true;
}).map((e) => {
    const name = e.closest("[id]:not(section)")?.id || e.textContent.trim().slice(0, 20);
    return `${e.matches(".math") ? "formula" : e.matches("table") ? "table" : "figure"} ${name}`;
})"""

# Letters of drawings in the page: their size, and how much the drawing is scaled.
LETTERS = """() => [...document.querySelectorAll("article svg text")].filter((e) => e.checkVisibility()
    && e.textContent.trim()).map((e) => {
        const { a, b } = e.getScreenCTM();
        return parseFloat(getComputedStyle(e).fontSize) * Math.hypot(a, b);
    })"""
IMAGES = """() => [...document.querySelectorAll("article img")].filter((e) => e.checkVisibility()
    && e.src.endsWith(".svg")).map((e) => [e.src, e.getBoundingClientRect().width])"""

# Matplotlib draws a letter of a font of 100 units, scaled to the size of the text.
_GLYPHS = re.compile(r'<g id="text_\d+">.*?scale\(([\d.]+) -[\d.]+\)', re.DOTALL)
_WIDTH = re.compile(r'viewBox="[\d.-]+ [\d.-]+ ([\d.]+) ')


def smallest_letters(svg: str, width: float) -> float | None:
    """Pixels of the smallest letters in a figure by matplotlib that is shown so wide; None if it has no letters."""
    scales = [float(scale) for scale in _GLYPHS.findall(svg)]
    box = _WIDTH.search(svg)
    return 100 * min(scales) * width / float(box[1]) if scales and box else None


def silent_share(html: str) -> float:
    """How many percent of the open cells of a page's own, not of the library, show nothing."""
    article = BeautifulSoup(html, "html.parser").select_one("article")
    cells = [
        cell
        for cell in article.select("div.cell")
        if cell.select_one("div.cell_input")
        and not cell.select_one("details.hide, .nbdev-mark")
        and not cell.find_parent(class_="solution")
    ]
    quiet = [cell for cell in cells if not cell.select_one("div.cell_output")]
    return 100 * len(quiet) / max(len(cells), 1)


def measure(tab: Any, page: Path) -> dict[str, Any]:
    """What a browser's tab shows of a built page."""
    tab.set_viewport_size({"width": DESK, "height": 900})
    tab.goto(page.resolve().as_uri(), wait_until="load")
    found = tab.evaluate(MEASURE)
    tab.set_viewport_size({"width": PHONE, "height": 844})
    tab.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    letters = tab.evaluate(LETTERS)
    for address, width in tab.evaluate(IMAGES):
        file = Path(address.removeprefix("file://"))
        letters.append(smallest_letters(file.read_text("utf8"), width))
    known = [size for size in letters if size]
    found |= {"cut": tab.evaluate(CUT), "letters": round(min(known), 1) if known else None}
    return found | {"silent": silent_share(page.read_text("utf8"))}


def measured(page: Page, tab: Any, site: Path) -> Page:
    """A page with what is seen of it, where it is built."""
    file = site / "nbs" / f"{page.name}.html"
    if not file.exists():
        return page
    known = {part.name: getattr(page, part.name) for part in fields(Page)}
    return Page(**known | measure(tab, file))


# The table

HEADS = {
    "words": "words", "lines": "lines", "longest": "longest", "core": "core", "widest": "widest", "silent": "silent %",
    "height": "height", "picture": "picture at", "stretch": "stretch", "cut": "cut", "letters": "letters",
}  # fmt: skip


def table(pages: list[Page]) -> str:
    """All pages as rows of text, those of ideas first."""
    width = max([len(page.name) for page in pages], default=0)
    lines = [f"{'page':{width}}        " + "".join(f"{head:>11}" for head in HEADS.values())]
    for page in sorted(pages, key=lambda page: (not page.is_idea, page.name)):
        row = f"{page.name:{width}}  {'idea' if page.is_idea else 'engine':6}"
        for name in HEADS:
            value = getattr(page, name)
            value = len(value) if isinstance(value, list) else value
            said = (
                "–" if value is None else f"{value:,.1f}" if name == "letters" else f"{value:,.0f}"
            )
            row += f"{said + '*' * (name in page.exceeded):>11}"
        lines.append(row)
    return "\n".join(lines)


def open_browser(session: Any) -> Any:
    """Chromium from the system, or the one that comes with Playwright."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    return session.chromium.launch(executable_path=program, args=arguments)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="budgets", description=__doc__.split("\n")[0])
    parser.add_argument(
        "pages", nargs="*", help="names of notebooks (default: all)", metavar="PAGE"
    )
    parser.add_argument("--site", type=Path, default=Path("_build/html"), help="the built book")
    options = parser.parse_args(arguments)
    project = Project.load(".")
    paths = sorted(Path("nbs").glob("*.ipynb"))
    if unknown := set(options.pages) - {path.stem for path in paths}:
        parser.error(
            f"PAGE must be the name of a notebook in nbs, got {', '.join(sorted(unknown))}"
        )
    pages = [count(p, project) for p in paths if not options.pages or p.stem in options.pages]
    if (options.site / "nbs").exists():
        from playwright.sync_api import sync_playwright

        with sync_playwright() as session:
            browser = open_browser(session)
            tab = browser.new_page(reduced_motion="reduce")
            pages = [measured(page, tab, options.site) for page in pages]
            browser.close()
    else:
        print("The book is not built; make book shows the rest.", file=sys.stderr)
    print(table(pages))
    for page in pages:
        if "cut" in page.exceeded:
            print(f"{page.name}, cut on a phone: {'; '.join(page.cut)}")
    return int(any(page.exceeded for page in pages))


if __name__ == "__main__":
    sys.exit(main())
