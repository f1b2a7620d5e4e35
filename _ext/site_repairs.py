"""Small repairs of the HTML that the theme and its extensions write, found by testing for accessibility."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

REPAIRS = {
    # ARIA 1.2 deprecates the role, and a list demands list items.
    'role="doc-biblioentry"': 'role="listitem"',
    # A button in the sidebar that shows an arrow and says nothing.
    '<summary><span class="toctree-toggle"': '<summary aria-label="Pages below"><span class="toctree-toggle"',
}

# The theme says it up to three times.
VIEWPORT = re.compile(r'<meta\b[^>]*name="viewport"[^>]*>')

# A chapter has hundreds of links in its code, to some dozens of names. With the Tab key each name is one stop, where it
# occurs first; the mouse and screen readers find all of them.
CODE_LINK = re.compile(r'<a class="sphinx-codeautolink-a" href="([^"]+)"(?! tabindex)')

# A signature on several lines, which Sphinx writes as a list of definitions without terms.
SIGNATURE = re.compile(r'(<span class="sig-paren">\(</span>\s*)<dl>(.*?)</dl>', re.DOTALL)


def mend(text: str) -> str:
    """The repaired text of a page."""
    for broken, whole in REPAIRS.items():
        text = text.replace(broken, whole)
    text = _one_stop_a_name(text)
    if first := VIEWPORT.search(text):
        text = text[: first.end()] + VIEWPORT.sub("", text[first.end() :])
    return SIGNATURE.sub(_without_definitions, text)


def _one_stop_a_name(text: str) -> str:
    seen: set[str] = set()

    def link(match: re.Match) -> str:
        again = match[1] in seen
        seen.add(match[1])
        return match[0] + ' tabindex="-1"' * again

    return CODE_LINK.sub(link, text)


def _without_definitions(signature: re.Match) -> str:
    opening, lines = signature.groups()
    return f"{opening}<div>{lines.replace('dd>', 'div>')}</div>"


def mend_pages(app: Sphinx, error: Exception | None) -> None:
    """Repair every page that has been written."""
    if error or app.builder.format != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text("utf8")
        if (mended := mend(text)) != text:
            page.write_text(mended, "utf8")


def setup(app: Sphinx) -> dict:
    app.connect("build-finished", mend_pages)
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}
