"""An index of the book by section, for the search in `_static/search.js`.

Sphinx's own index knows pages and words. A chapter is thirty screens long, so a reader wants the *section*, and a
piece of its text. This extension reads the pages when they are written, and makes one script of them,
`_static/section-index.js`, that the search loads when it is first opened:

    window.arbookIndex = [{url, title, kind, sections: [section, ...]}, ...]

where a section is [anchor, title, synonyms, terms in bold, captions, names that its code defines, text].

Words that a reader may look for and the page does not use stand in a comment under the section's heading:

    <!-- search: backpropagation, chain rule -->

Sphinx's index is not made any more; `_ext/templates` leaves out the scripts that would read it.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from html.entities import html5
from pathlib import Path

from bs4 import BeautifulSoup
from bs4.element import Comment, NavigableString, Tag
from sphinx.application import Sphinx
from sphinx.config import Config

TEMPLATES = "_ext/templates"
INDEX = "_static/section-index.js"
SYNONYMS = re.compile(r"\s*search:(.*)", re.DOTALL)
HEADING = re.compile("^h[1-6]$")
# Code and drawings are most of a page, and none of its prose: out before the page is parsed.
BULK = re.compile(r"<(pre|svg|script|style)\b.*?</\1>", re.DOTALL)
# What else a section's text does not need: outputs, marks of the theme, tables that the entries below them repeat.
SKIPPED = "button, .rubric, .section-number, .cell_output, .nbdev-mark, .nbdev-origin, .autosummary"
SKIPPED += ", details.hide > summary"  # what stands over folded code
SKIPPED += (
    ", section.arb-chapter"  # of the list of exercises, each of which has a page that is searched
)


def page_records(html: str) -> dict | None:
    """What the index holds of a page: its title, its kind, and a record for each heading and each documented name."""
    article = re.search("<article.*</article>", html, re.DOTALL)
    page = BeautifulSoup(BULK.sub("", article[0] if article else ""), "html.parser")
    if not page.select_one("section h1"):
        return None
    for tag in page.select(".headerlink"):
        tag.extract()
    number = page.select_one("h1 .section-number")
    title = text_of(page.h1.strings)
    for formula in page.select(".math"):
        formula.replace_with(readable(formula.text) if formula.name == "span" else " ")
    captions = own_texts(page, "figcaption, caption")
    names = own_texts(page, "div.cell[id], div.cell > span[id]", lambda tag: short_name(tag["id"]))
    for tag in page.select(f"{SKIPPED}, figcaption, caption"):
        tag.extract()
    terms = own_texts(page, "strong:not(dl.py strong)")  # there they are the names of parameters

    sections = []
    for section in filter(is_titled, page.select("section[id]")):
        found = [SYNONYMS.fullmatch(string) for string in own_strings(section, Comment)]
        sections.append([
            section["id"],
            text_of(section.find(HEADING).strings),
            [word.strip() for line in found if line for word in line[1].split(",")],
            "; ".join(terms[id(section)]),
            " ".join(captions[id(section)]),
            " ".join(name for name in names[id(section)] if "." not in name),
            text_of(own_strings(section)),
        ])  # fmt: skip
    for entry in page.select("dl.py"):
        signature, description = entry.find("dt", id=True), entry.find("dd")
        if signature and description:
            name = short_name(signature["id"])
            parameters = " ".join(
                tag.text for tag in signature.select(".sig-param > .n:first-child")
            )
            text = text_of(own_strings(description))
            sections.append([signature["id"], name, [], "", "", parameters, text])
    kind = "chapter" if number else "reference" if page.select_one("dl.py") else "other"
    return {"title": title, "kind": kind, "sections": sections}


def readable(tex: str) -> str:
    r"""A short formula as one would say it: ``\(\lambda\)`` is λ, because HTML calls most letters as TeX does."""
    inner = tex.strip().removeprefix(r"\(").removesuffix(r"\)")
    inner = re.sub(r"\\(boldsymbol|math\w+|text\w*|operatorname)\b", "", inner)
    inner = re.sub(r"\\([A-Za-z]+)", lambda name: html5.get(f"{name[1]};", ""), inner)
    return re.sub(r"[{}\\]", "", inner) if len(inner) < 25 else "…"


def is_titled(section: Tag) -> bool:
    """Sections without a heading of their own, such as the body of an exercise, belong to the one around them."""
    return section.find(HEADING, recursive=False) is not None


def short_name(full: str) -> str:
    """``arbook.sampling.Dice.roll`` without the module."""
    return full.split(".", 2)[-1]


def own_texts(page: Tag, selector: str, text: Callable = lambda tag: text_of(tag.strings)) -> dict:
    """The texts of certain tags, by the identity of the section that each belongs to."""
    found = defaultdict(list)
    for tag in page.select(selector):
        section = next(filter(is_titled, tag.find_parents("section")), None)
        found[id(section)].append(text(tag))
    return found


def own_strings(part: Tag, kind: type = NavigableString) -> Iterator[str]:
    """The strings below a tag, in order, but those of its heading, and of what has a record of its own."""
    for child in part.children:
        if not isinstance(child, Tag):
            if type(child) is kind:
                yield child
        elif not (
            child.name == "section" and is_titled(child)
            or HEADING.match(child.name)
            or child.name == "dl" and {"py", "field-list"} & set(child["class"])
        ):  # fmt: skip
            yield from own_strings(child, kind)
            if kind is NavigableString and child.name in {"p", "li", "td", "th", "dt", "dd"}:
                yield " "


def text_of(strings: Iterable[str]) -> str:
    """Strings put together, with single spaces."""
    return re.sub(r" ([,.;:!?)])", r"\1", " ".join("".join(strings).split()))


def leave_out_sphinx_index(app: Sphinx) -> None:
    """Sphinx makes neither its index nor its search page; the page is made by `search_page`."""
    if app.builder.format == "html":
        app.builder.search = False


def search_page(app: Sphinx) -> list[tuple]:
    return [("search", {}, "search.html")]


def write_index(app: Sphinx, error: Exception | None) -> None:
    """Read every page that has been written, and write the index."""
    if error or app.builder.format != "html":
        return
    index = []
    for name in sorted(app.env.found_docs):
        html = Path(app.builder.get_outfilename(name)).read_text("utf8")
        if records := page_records(html):
            index.append({"url": app.builder.get_target_uri(name), **records})
    script = json.dumps(index, ensure_ascii=False, separators=(",", ":"))
    Path(app.outdir, INDEX).write_text(f"window.arbookIndex = {script};\n", "utf8")


def use_templates(app: Sphinx, config: Config) -> None:
    config.templates_path.append(TEMPLATES)


def setup(app: Sphinx) -> dict:
    app.connect("config-inited", use_templates)
    app.connect("builder-inited", leave_out_sphinx_index)
    app.connect("html-collect-pages", search_page)
    # Before other extensions change the pages: in formulas, for one, TeX still stands.
    app.connect("build-finished", write_index, priority=100)
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}
