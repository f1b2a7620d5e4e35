"""What the book says about itself: to programs that preview a link, in its footer, where it is cited, on page 404."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import defaultdict
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from docutils import nodes
from nbdev_book.home import Home
from nbdev_book.project import Project
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.docutils import SphinxDirective

PREVIEW = "_static/preview.png"  # 1200 x 630 pixels, as such programs want it
LICENCE = ("Apache License 2.0", "LICENSE.txt")

_SENTENCE = re.compile(r".+?[.!?](?=\s|$)", re.DOTALL)
_STEP = re.compile(
    r'<section [^>]*?id="(?P<section>[^"]+)"[^>]*>\s*(?:<span[^>]*></span>\s*)*'
    r'<h\d>(?:<span class="section-number">[^<]*</span>)?(?P<title>.*?)(?:<a class="headerlink"|</h)'
    r'|href="[./]*bibliography\.html#(?P<work>[^"]+)"',
    re.DOTALL,
)
_WORK = re.compile(r'<div class="citation" id="([^"]+)".*?</p>(?=\s*</div>)', re.DOTALL)


def configure(app: Sphinx, config: Config) -> None:
    """Tell Sphinx the book's name and version; write the page for addresses that lead nowhere."""
    config.project = config.html_title
    config.version = config.release = Project.load(app.confdir).version
    config.html_context["built_on"] = built_on(Path(app.confdir))  # once, and not for each page
    top = config.notfound_urls_prefix or "/"
    config.notfound_context = {
        "title": "Page not found",
        "body": f"""<h1>Page not found</h1>
            <p>There is no page at this address. It may have been renamed. Search the book, or start at
            <a href="{top}index.html">its front page</a>.</p>
            <form action="{top}search.html" method="get" role="search" class="arb-search">
            <input type="search" name="q" aria-label="Search this book" placeholder="Search this book">
            <button type="submit">Search</button></form>""",
    }


def built_on(root: Path) -> datetime | None:
    """The date of the book: what SOURCE_DATE_EPOCH says, or else that of the last commit. None without either."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not seconds:
        command = ["git", "-C", str(root), "log", "-1", "--format=%ct"]
        try:
            seconds = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        except OSError:  # there is no git
            return None
    return datetime.fromtimestamp(int(seconds), UTC) if seconds.isdigit() else None


def first_sentence(doctree: nodes.document | None) -> str:
    """What a page says first: the line below its title, if there is one."""
    paragraph = next(doctree.findall(nodes.paragraph), None) if doctree else None
    text = " ".join(paragraph.astext().split()) if paragraph else ""
    match = _SENTENCE.match(text)
    return match[0] if match else text


def head(title: str, description: str, book: str, page: str, site: str) -> str:
    """The tags for programs that preview a link. Without an address of the book, none that needs one."""
    tags = {
        "og:type": "website",
        "og:site_name": book,
        "og:title": title,
        "og:description": description,
    }
    if site:
        alt = "A row of dots, each joined by arcs to the dots before it"
        tags |= {"og:url": site + page, "og:image": site + PREVIEW, "og:image:alt": alt}
        tags |= {"og:image:width": "1200", "og:image:height": "630"}
    lines = [
        f'<meta property="{name}" content="{escape(text)}" />'
        for name, text in tags.items()
        if text
    ]
    if description:
        lines.append(f'<meta name="description" content="{escape(description)}" />')
    if site:
        lines.append('<meta name="twitter:card" content="summary_large_image" />')
    return "\n".join(lines) + "\n"


def introduce(
    app: Sphinx, pagename: str, templatename: str, context: dict, doctree: nodes.document | None
) -> None:
    """Write the head and the foot of a page."""
    title = re.sub(r"<[^>]+>", "", context.get("title", "")) or app.config.html_title
    site = Home.of(Project.load(app.confdir)).site
    tags = head(
        title,
        first_sentence(doctree),
        app.config.html_title,
        app.builder.get_target_uri(pagename),
        site,
    )
    context["metatags"] = context.get("metatags", "") + "\n" + tags
    day = context["built_on"]
    name, file = LICENCE
    licence = f'<a href="{context["pathto"](file, 1)}">{name}</a>'
    bibliography = context["pathto"]("bibliography").removesuffix(
        "#"
    )  # "#" is its address on the page itself
    cite = f'<a href="{bibliography}#cite">Cite this book</a>'
    date = f" of {day.day} {day:%B %Y}" if day else ""
    context["theme_extra_footer"] = (
        f"<p>Version {app.config.version}{date}. Text, figures and code: {licence}. {cite}.</p>"
    )


class CiteBook(SphinxDirective):
    """The entry for this book in other people's bibliographies."""

    def run(self) -> list[nodes.Node]:
        block = nodes.literal_block("", "", language="bibtex", classes=["cite-book"])
        return [block]


def entry(title: str, author: str, year: str, version: str, address: str) -> str:
    """This book in BibTeX. The author is an organization, hence the second pair of braces."""
    fields = {
        "title": title,
        "author": f"{{{author}}}",
        "year": year,
        "note": f"Version {version}",
        "url": address,
    }
    lines = [f"  {name:6} = {{{text}}}," for name, text in fields.items() if text]
    return "\n".join(["@book{arbook,", *lines, "}"])


def fill_in(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Write the entry, now that the title of the front page is known."""
    for block in doctree.findall(nodes.literal_block):
        if "cite-book" in block["classes"]:
            home = Home.of(Project.load(app.confdir))
            title = app.env.titles[app.config.root_doc].astext()
            year = app.config.copyright[:4]
            text = entry(title, app.config.author, year, app.config.version, home.site or home.url)
            block.rawsource = text
            block[:] = [nodes.Text(text)]


def citing_sections(pages: dict[str, str]) -> dict[str, dict[str, dict[str, str]]]:
    """Where each work is cited: its anchor -> {title of a page: {address of a section of it: title of the section}}."""
    places: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for page, text in sorted(pages.items()):
        title = section = address = ""
        for step in _STEP.finditer(text):
            if step["section"]:
                section = re.sub(r"<[^>]*>", "", step["title"]).strip()
                title, address = title or section, f"{page}#{step['section']}"
            elif address:
                places[step["work"]][title][address] = section
    return places


def link_back(bibliography: str, places: dict[str, dict[str, dict[str, str]]]) -> str:
    """The bibliography, each work of which says where it is cited."""

    def link(address: str, text: str) -> str:
        return f'<a class="reference internal" href="{address}">{text}</a>'

    def on_page(title: str, sections: dict[str, str]) -> str:
        """The page, which is a link if the work is cited before its first section, and the sections in parentheses."""
        top = next((link(*found) for found in sections.items() if found[1] == title), title)
        below = [link(*found) for found in sections.items() if found[1] != title]
        return f"{top} ({', '.join(below)})" if below else top

    def extended(work: re.Match) -> str:
        found = [on_page(title, sections) for title, sections in places.get(work[1], {}).items()]
        return work[0] + (
            f'\n<p class="cited-in">Cited in {", ".join(found)}.</p>' if found else ""
        )

    return _WORK.sub(extended, re.sub(r'\n<p class="cited-in">.*?</p>', "", bibliography))


def finish(app: Sphinx, error: Exception | None) -> None:
    """Link the bibliography back to the pages, and put the licence beside them."""
    if error or app.builder.format != "html":
        return
    root = Path(app.outdir)
    pages = {
        path.relative_to(root).as_posix(): path.read_text("utf8")
        for path in root.glob("nbs/*.html")
    }
    bibliography = root / "bibliography.html"
    text = link_back(bibliography.read_text("utf8"), citing_sections(pages))
    bibliography.write_text(text, "utf8")
    shutil.copy(Path(app.confdir, "LICENSE"), root / LICENCE[1])


def setup(app: Sphinx) -> dict:
    app.add_directive("cite-book", CiteBook)
    app.connect("config-inited", configure, priority=150)  # when the address is known
    app.connect("html-page-context", introduce)
    app.connect("doctree-resolved", fill_in)
    app.connect("build-finished", finish)
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}
