"""Cards that show what a link leads to: a formula, a figure, an exercise, a work, a function's signature.

When all pages are written, every place that a link of the book points to is cut out of its page and kept in one of two
scripts: `previews/names.js` for the reference pages, `previews/pages.js` for the rest. They are scripts, and not data,
because a browser loads scripts from the disk and nothing else. `previews.js` asks for them when it first needs them.
"""

from __future__ import annotations

import hashlib
import html
import json
import posixpath
import re
from pathlib import Path
from urllib.parse import unquote

from sphinx.application import Sphinx

_ARTICLE = re.compile(r'<article class="bd-article".*?</article>', re.DOTALL)
_LINK = re.compile(r"<a\b[^>]*>")
_CARDS = re.compile(r'class="[^"]*\b(?:internal|sphinx-codeautolink-a)\b')
_HREF = re.compile(r'href="([^"#:]*)#([^"]+)"')
_OPEN = re.compile(r"<([\w-]+)(?=[\s>])[^>]*?\sid=\"([^\"]+)\"[^>]*>")
_HEADING = re.compile(r"\s*(?:<span[^>]*></span>\s*)*<h(\d)[^>]*>(.*?)</h\1>", re.DOTALL)
_PARAGRAPH = re.compile(r"\s*<p>.*?</p>", re.DOTALL)
_REFERENCE = re.compile(r'(?<=href="#)[^"]+|(?<=url\(#)[^)]+|(?<=labelledby=")[^"]+')
_ID = re.compile(r'\sid="([^"]*)"')


class Page:
    """The text of a page, and where each of its elements with an id begins."""

    def __init__(self, name: str, text: str):
        self.name, self.text = name, text
        self.starts = {match[2]: match for match in _OPEN.finditer(text)}

    def end(self, start: re.Match) -> int:
        """Where the element ends that `start` opens."""
        if start[0].endswith("/>") or start[1] == "img":
            return start.end()
        depth = 1
        for tag in re.compile(rf"<(/?){start[1]}(?=[\s>])[^>]*>").finditer(self.text, start.end()):
            if not tag[0].endswith("/>"):
                depth += -1 if tag[1] else 1
            if depth == 0:
                return tag.end()
        return start.end()

    def element(self, name: str) -> str:
        """The element with this id, from its first character to its last."""
        start = self.starts[name]
        return self.text[start.start() : self.end(start)]

    def snippet(self, name: str) -> str:
        """What a card shows of the element with this id; empty if there is nothing to show."""
        if name not in self.starts:
            return ""
        start, whole = self.starts[name], self.element(name)
        after = self.text[self.end(start) : self.end(start) + 20_000]
        if start[1] == "dt":
            return _signature(whole) + _first(_PARAGRAPH, after.lstrip().removeprefix("<dd>"))
        if "citation" in start[0]:
            return _first(_PARAGRAPH, whole[whole.index("<p>") :])
        if start[1] in {"figure", "table"} or re.search(
            r'"[^"]*\b(math|admonition|proof)\b', start[0]
        ):
            return whole
        below = whole[len(start[0]) :] if start[1] == "section" else after
        if heading := _HEADING.match(below):  # a section, or the label in front of its heading
            return f"<p><strong>{heading[2]}</strong></p>" + _first(
                _PARAGRAPH, below[heading.end() :]
            )
        return _first(_PARAGRAPH, below) if start[1] == "span" else ""  # what a module is about


def _first(pattern: re.Pattern, text: str) -> str:
    match = pattern.match(text)
    return match[0].strip() if match else ""


def _signature(definition: str) -> str:
    """A signature without its links and colours."""
    bare = re.sub(
        r'<span class="nbdev-origin">.*|<a class="headerlink".*', "", definition, flags=re.DOTALL
    )
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", "", bare)).split())
    text = text.replace("( ", "(").replace(", )", ")")  # from one parameter a line
    return f"<code>{html.escape(text, quote=False)}</code>"


def portable(page: Page, snippet: str, shapes: dict[str, str]) -> str:
    """Make a piece of a page fit for any page: no links, pictures from the book's root, no id of its source.

    An id that the piece refers to, such as a letter that all formulas of its page share, is named by a hash of what it
    stands for. If that lies outside the piece, it goes into `shapes`.
    """
    text = re.sub(r'<a class="headerlink".*?</a>', "", snippet, flags=re.DOTALL)
    text = re.sub(r"</?a\b[^>]*>", "", text)
    folder = posixpath.dirname(page.name)
    text = re.sub(
        r'(?<=\ssrc=")(?!data:)[^"]+',
        lambda m: posixpath.normpath(posixpath.join(folder, m[0])),
        text,
    )
    names = {}
    own = set(_ID.findall(text))
    for name in set(_REFERENCE.findall(text)) & set(page.starts):
        element = page.element(name)
        names[name] = "card-" + hashlib.sha256(element.encode()).hexdigest()[:10]
        if name not in own:
            shapes[names[name]] = element.replace(f'id="{name}"', f'id="{names[name]}"', 1)
    text = _REFERENCE.sub(lambda match: names.get(match[0], match[0]), text)
    return _ID.sub(lambda match: f' id="{names[match[1]]}"' if match[1] in names else "", text)


def targets(page: Page) -> set[tuple[str, str]]:
    """The places (page, id) that the links in the text of a page lead to."""
    found = set()
    article = _ARTICLE.search(page.text)
    for link in _LINK.findall(article[0]) if article else ():
        if _CARDS.search(link) and (address := _HREF.search(link)):
            path = posixpath.join(posixpath.dirname(page.name), unquote(address[1]))
            found.add(
                (posixpath.normpath(path) if address[1] else page.name, html.unescape(address[2]))
            )
    return found


def collect(pages: dict[str, str]) -> dict[str, dict]:
    """The contents of the two scripts, from the texts of all pages by their path below the book's root."""
    read = {name: Page(name, text) for name, text in pages.items()}
    files: dict[str, dict] = {kind: {"cards": {}, "shapes": {}} for kind in ("names", "pages")}
    for name, anchor in sorted(set().union(*map(targets, read.values()))):
        if name in read and (snippet := read[name].snippet(unquote(anchor))):
            file = files["names" if name.startswith("api/") else "pages"]
            file["cards"][f"{name}#{unquote(anchor)}"] = portable(
                read[name], snippet, file["shapes"]
            )
    return files


def write_previews(app: Sphinx, error: Exception | None) -> None:
    """Write the scripts once the pages are as readers get them."""
    if error or app.builder.format != "html":
        return
    write(Path(app.outdir))


def write(root: Path) -> None:
    """Write the scripts for the pages below `root`."""
    paths = [path for path in root.rglob("*.html") if "_static" not in path.parts]
    pages = {path.relative_to(root).as_posix(): path.read_text("utf8") for path in paths}
    folder = root / "_static" / "previews"
    folder.mkdir(exist_ok=True)
    for kind, content in collect(pages).items():
        data = json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        (folder / f"{kind}.js").write_text(f"arbookPreviews.{kind} = {data};\n", "utf8")


def setup(app: Sphinx) -> dict:
    app.connect("build-finished", write_previews, priority=900)  # after everything that mends pages
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}
