"""Pictures of ideas on the pages that show them, and the scripts of what can be touched.

A Markdown cell shows a drawing as notebook programs know it, in a figure of plain HTML:

    <figure class="picture">
    <img src="pictures/shift.svg" alt="Every id has an arrow to the next one, which is its target">
    <figcaption>The targets are the ids, one step later.</figcaption>
    </figure>

On its page the drawing stands in the text instead of being loaded: then its classes take the colours of the theme
(`_static/touch.css`), in the dark too. A file by itself has no theme, so each begins with a short style of its own, the
same in all of them, which stays behind; `python _ext/pictures.py` writes it into files that lack it.

With `class="touch" data-touch="NAME"` the picture is the still of an interaction. Its page, and no other, then loads
`touch.js` and `touch-NAME.js`, and between them what a line of the latter asks for: "// needs live.js". Jupyter Book
would load every script of `_static` on every page.
"""

from __future__ import annotations

import re
from html import escape, unescape
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

logger = logging.getLogger(__name__)

STYLE = """<style>
  svg { font: 12px system-ui, sans-serif; color: #1f2328; }
  text { fill: currentColor; } .line { fill: none; stroke: currentColor; } .fill { fill: currentColor; }
  .ink { color: #1f2328; } .mute { color: #59626d; } .past { color: #1b5e93; } .now { color: #a34700; }
  .off { color: #dfe3e7; } .strong { font-weight: 600; }
</style>"""
FIGURE = re.compile(r'<figure\b[^>]*\bclass="(?:picture|touch)\b.*?</figure>', re.DOTALL)
IMAGE = re.compile(
    r'<img\b(?=[^>]*\ssrc="(?P<src>[^":]+\.svg)")(?=[^>]*\salt="(?P<alt>[^"]*)")[^>]*>'
)
TOUCH = re.compile(r'<figure\b[^>]*\bdata-touch="([\w-]+)"')
NEEDS = re.compile(r"^// needs (\S+\.js)$", re.MULTILINE)
OWN_STYLE = re.compile(r"\s*<style>.*?</style>", re.DOTALL)


def drawing(svg: str, alt: str) -> str:
    """The text of an SVG file as a part of a page: without its own style, and with a name for screen readers.

    What is an image has no parts for them; a drawing with links is a group, in which they can be reached.
    """
    svg = OWN_STYLE.sub("", svg[svg.index("<svg") :], count=1).strip()
    role = "group" if "<a " in svg else "img"
    return svg.replace("<svg", f'<svg role="{role}" aria-label="{escape(unescape(alt))}"', 1)


def with_drawings(body: str, folder: Path) -> str:
    """The body of a page, its pictures drawn into it; their files lie in folders below that of the page."""

    def draw(image: re.Match) -> str:
        return drawing((folder / image["src"]).read_text("utf8"), image["alt"])

    return FIGURE.sub(lambda figure: IMAGE.sub(draw, figure[0]), body)


def touched(body: str) -> list[str]:
    """The names of the interactions on a page."""
    return list(dict.fromkeys(TOUCH.findall(body)))


def scripts_of(names: list[str], static: Path) -> list[str]:
    """The scripts that a page with these interactions loads, in their order."""
    needed = []
    for name in names:
        file = static / f"touch-{name}.js"
        needed += NEEDS.findall(file.read_text("utf8")) if file.exists() else []
    own = [f"touch-{name}.js" for name in names]
    return list(dict.fromkeys(["touch.js", *needed, *own])) if names else []


def complete_page(app: Sphinx, name: str, template: str, context: dict, doctree: object) -> None:
    """Draw the pictures of a page, and let it load the scripts of its interactions."""
    if not (body := context.get("body")):
        return
    try:
        context["body"] = with_drawings(body, Path(app.srcdir, name).parent)
    except OSError as error:
        logger.warning(f"a picture is missing: {error.filename}", location=name)
    for script in scripts_of(touched(body), Path(app.srcdir, "_static")):
        if not Path(app.srcdir, "_static", script).exists():
            logger.warning(f"_static/{script} is missing", location=name)
        app.add_js_file(script, loading_method="defer")


def keep_scripts_back(app: Sphinx, config: Config) -> None:
    """Take interactions out of what every page loads."""
    kept_back = ("touch", "live", "model-")
    config.html_js_files = [
        file for file in config.html_js_files if not str(file).startswith(kept_back)
    ]


def setup(app: Sphinx) -> dict:
    app.connect("config-inited", keep_scripts_back)
    app.connect("html-page-context", complete_page)
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}


def give_style(folder: Path) -> None:
    """Write the style of a picture that stands alone into the files of a folder."""
    for file in folder.glob("*.svg"):
        svg = OWN_STYLE.sub("", file.read_text("utf8"), count=1)
        file.write_text(re.sub(r"(<svg\b[^>]*>)", rf"\1\n{STYLE}", svg, count=1), "utf8")


if __name__ == "__main__":
    give_style(Path(__file__).parents[1] / "nbs" / "pictures")
