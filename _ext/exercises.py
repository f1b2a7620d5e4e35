"""All exercises of the book on one page, with a place to tick off what is done.

```{exercises}
```

They are read from the notebooks, in the order of the table of contents. Without scripts the page is a list of links;
`_static/exercises.js` puts a check box before each of them, and counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.docutils import SphinxDirective

SCRIPT = "exercises.js"
HEADING = re.compile(r'### Exercise: (?P<title>.+?) <a id="ex-(?P<name>[\w-]+)"></a>')


@dataclass(frozen=True)
class Exercise:
    name: str
    title: str  # in Markdown
    is_graded: bool


@dataclass(frozen=True)
class Page:
    """A notebook of the table of contents."""

    name: str
    title: str
    exercises: list[Exercise]


def read_page(root: Path, name: str) -> Page:
    """The title of a notebook, and its exercises: those that can be handed in say so in their last line."""
    cells = json.loads((root / f"{name}.ipynb").read_text("utf8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    found = [(HEADING.match(text), text) for text in texts]
    exercises = [
        Exercise(head["name"], head["title"], f'Hand in: `grade("{head["name"]}",' in text)
        for head, text in found
        if head
    ]
    title = next(text for text in texts if text.startswith("# ")).partition("\n")[0]
    return Page(name, title.removeprefix("# "), exercises)


def read_chapters(root: Path) -> Iterator[tuple[str, list[Page]]]:
    """The heading of each chapter that has exercises, "1 Least squares", and those of its pages that have some."""
    number = 0
    for part in yaml.safe_load((root / "_toc.yml").read_text("utf8"))["parts"]:
        for chapter in part["chapters"]:
            number += bool(part.get("numbered"))
            names = [entry["file"] for entry in [chapter, *chapter.get("sections", [])]]
            books = [name for name in names if (root / f"{name}.ipynb").exists()]
            pages = [read_page(root, name) for name in books]
            if any(page.exercises for page in pages):
                heading = f"{number} {pages[0].title}" if part.get("numbered") else pages[0].title
                yield heading, [page for page in pages if page.exercises]


def in_html(markdown: str) -> str:
    """A title with its stresses.

    >>> in_html("*ran* after *dog*: the dog's < `p`")
    '<em>ran</em> after <em>dog</em>: the dog’s &lt; <code>p</code>'
    """
    text = escape(markdown.replace("'", "’"), quote=False)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", text)


def listing(pages: list[Page], address: Callable[[str], str]) -> str:
    """The exercises of a chapter as HTML, page by page, below a line that a script fills."""
    mark = ' <span class="arb-mark">hand in</span>'
    parts = ['<p class="arb-done" hidden></p>']
    for page in pages:
        there = address(page.name)
        parts.append(f'<p class="arb-page"><a href="{there}">{in_html(page.title)}</a></p>')
        parts.append('<ul class="arb-exercises">')
        for one in page.exercises:
            link = f'<a class="reference internal" href="{there}#ex-{one.name}">{in_html(one.title)}</a>'
            parts.append(f'<li data-exercise="{one.name}">{link}{mark * one.is_graded}</li>')
        parts.append("</ul>")
    return "\n".join(parts)


def total(n: int, n_graded: int) -> str:
    """The line above the chapters."""
    return (
        f'<p>There are {n} exercises; {n_graded} of them can be handed in. <span class="arb-done" '
        'role="status" hidden></span></p>'
    )


class Exercises(SphinxDirective):
    """A section for each chapter, with its exercises."""

    def run(self) -> list[nodes.Node]:
        root, chapters = Path(self.env.srcdir), list(read_chapters(Path(self.env.srcdir)))
        self.env.note_dependency(str(root / "_toc.yml"))
        for notebook in root.glob("nbs/*.ipynb"):
            self.env.note_dependency(str(notebook))
        all_of_them = [one for _, pages in chapters for page in pages for one in page.exercises]
        line = total(len(all_of_them), sum(one.is_graded for one in all_of_them))
        made: list[nodes.Node] = [nodes.raw("", line, format="html")]
        builder = self.env.app.builder
        for heading, pages in chapters:
            section = nodes.section(ids=[nodes.make_id(f"of {heading}")], classes=["arb-chapter"])
            section += nodes.title(text=heading)
            html = listing(pages, lambda name: builder.get_relative_uri(self.env.docname, name))
            section += nodes.raw("", html, format="html")
            made.append(section)
        return made


def keep_script_back(app: Sphinx, config: Config) -> None:
    """Take the script out of what every page loads."""
    config.html_js_files = [file for file in config.html_js_files if file != SCRIPT]


def set_small(body: str) -> str:
    """The last lines of exercises, which say how to hand in, in small type: they are not for the one who only reads.

    >>> set_small('<p>Hand in: <code>grade("x", 1)</code>.</p>')
    '<p class="arb-hand-in">Hand in: <code>grade("x", 1)</code>.</p>'
    """
    return re.sub(r"<p>(?=Hand in: <code\b)", '<p class="arb-hand-in">', body)


def complete_page(
    app: Sphinx, page: str, template: str, context: dict[str, Any], tree: object
) -> None:
    context["body"] = body = set_small(context.get("body", ""))
    if "data-exercise=" in body:
        app.add_js_file(SCRIPT, loading_method="defer")


def setup(app: Sphinx) -> dict:
    app.add_directive("exercises", Exercises)
    app.connect("config-inited", keep_script_back)
    app.connect("html-page-context", complete_page)
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}
