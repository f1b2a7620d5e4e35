"""Where a page stands in its chapter: "Chapter 1 · idea 2 of 5", and no numbers but those of chapters.

The table of contents puts the pages of ideas first in a chapter, and behind them those on how it is built. Sphinx
numbers the pages of a chapter after the headings of its first page ("1.9"), which says nothing; figures and equations
keep the number of their chapter.
"""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

NUMBER = re.compile(
    r'<span class="section-number">\d+(?:\.\d+)+\. </span>'
    r"|(?P<link><a\b[^>]*\breference internal\b[^>]*>\s*)\d+(?:\.\d+)+\. "
)


def is_idea(page: str, root: Path) -> bool:
    """Whether a page is a notebook that exports no module."""
    notebook = root / f"{page}.ipynb"
    return notebook.exists() and "#| default_exp" not in notebook.read_text("utf8")


def place_of(page: str, chapter: list[str], ideas: set[str]) -> str:
    """What a page says of its place among the pages of its chapter; nothing where it is alone.

    >>> pages = ["a", "b", "c"]
    >>> place_of("b", pages, {"a", "b"}), place_of("c", pages, {"a", "b"}), place_of("a", ["a"], set())
    ('idea 2 of 2', 'how it is built', '')
    """
    alike = [other for other in chapter if (other in ideas) == (page in ideas)]
    what = "idea" if page in ideas else "how it is built" if ideas else "page"
    if len(alike) == 1:
        return "" if not ideas else "the idea" if page in ideas else what
    of = f"{alike.index(page) + 1} of {len(alike)}"
    return f"{what}, {of}" if what == "how it is built" else f"{what} {of}"


def chapter_of(page: str, env: BuildEnvironment) -> list[str]:
    """The page that opens the chapter, and the others of it."""
    inside = env.toctree_includes
    first = next(
        (doc for doc in inside if page in inside[doc] and doc != env.config.root_doc), page
    )
    return [first, *inside.get(first, [])]


def say_place(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """Write the line above the title of every page of a numbered chapter."""
    body, numbers = context.get("body"), app.env.toc_secnumbers.get(page, {})
    if not body or not numbers.get(""):
        return
    chapter = chapter_of(page, app.env)
    ideas = {other for other in chapter if is_idea(other, Path(app.srcdir))}
    parts = [f"Chapter {numbers[''][0]}", place_of(page, chapter, ideas)]
    line = f'<p class="arb-place">{" · ".join(filter(None, parts))}</p>\n'
    context["body"] = line + body


def drop_numbers(app: Sphinx, error: Exception | None) -> None:
    """Take the numbers of everything below a chapter out of all pages."""
    if error or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        text = path.read_text("utf8")
        if (plain := NUMBER.sub(lambda found: found["link"] or "", text)) != text:
            path.write_text(plain, "utf8")


def setup(app: Sphinx) -> dict:
    app.connect("html-page-context", say_place)
    app.connect("build-finished", drop_numbers, priority=300)  # the index of the search needs them
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}
