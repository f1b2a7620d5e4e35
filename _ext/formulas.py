r"""Formulas that stand on the page when it opens: typeset once, while the book is built.

MathJax, taken from the wheel of sphinx-mathjax-offline, runs in the build inside mini-racer, the JavaScript engine of
Chromium as a Python package. A page then carries drawings instead of a script of 2 MB that draws them while the reader
waits. Each formula is an SVG in the colour of the text, with MathML beside it that is invisible and that screen readers
read. An unknown command or an open brace is a warning at its line, so it stops the build.

A formula draws its letters by reference: ``<use xlink:href="#MJX-TEX-I-1D465">``. Each page gets the outlines of the
letters that it uses, once. Drawings are most of a page, so they take their places last: until then their TeX stands
there, and whatever reads the page meanwhile has less to read.
"""

from __future__ import annotations

import re
from functools import cache
from html import escape, unescape
from importlib.metadata import files
from pathlib import Path

from docutils import nodes
from py_mini_racer import JSEvalException, MiniRacer
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)

COMPONENTS = (
    "startup",
    "core",
    "adaptors/liteDOM",  # a document without a browser
    "input/tex-full",
    "output/svg",
    "output/svg/fonts/tex",
    "a11y/assistive-mml",
)

BEFORE = "var window = undefined; var MathJax = {startup: {typeset: false}, loader: {load: []}};"

# The packages left out are those that hide an error in red text, or that load files.
AFTER = """
var parts = MathJax._, tools = parts.adaptors.liteAdaptor.liteAdaptor();
parts.a11y['assistive-mml'].AssistiveMmlHandler(parts.handlers.html_ts.RegisterHTMLHandler(tools));
var left_out = ['noundefined', 'noerrors', 'require', 'autoload'];
var tex = new parts.input.tex_ts.TeX({
  packages: parts.input.tex.AllPackages.AllPackages.filter(name => !left_out.includes(name)),
  formatError: (jax, error) => { throw Error(error.message) },
});
var svg = new parts.output.svg_ts.SVG({fontCache: 'global', font: new parts.output.svg.fonts.tex_ts.TeXFont()});
var page = parts.mathjax.mathjax.document('', {InputJax: tex, OutputJax: svg});
function typeset(source, display) {
  return tools.outerHTML(page.convert(source, {display: display, em: 16, ex: 8, containerWidth: 1280}));
}
function outlines() { return tools.outerHTML(svg.fontCache.getCache()) }
function styles() { return tools.textContent(svg.styleSheet(page)) }
"""

# What a page does not need: notes of MathJax to itself but those about tables, which its style sheet names, and
# the names of languages, which HTML knows.
NOTES = re.compile(r' (?:data-(?!line|frame|table|mml-node="mtable")[\w-]+|xmlns(?::\w+)?)="[^"]*"')
OUTLINE = re.compile(r'<path id="(MJX[^"]+)"[^>]*></path>')
WIDTH = re.compile(r'<svg[^>]* width="([\d.]+)ex"')
PHONE = 34  # ex, less than a phone shows of a line
PLACE = re.compile(r"<x-(inline|display)>(.*?)</x-\1>", re.DOTALL)
LETTER = re.compile(r'xlink:href="#(MJX[^"]+)"')


@cache
def engine() -> MiniRacer:
    """The one engine of this build, with MathJax in it."""
    folder = next(
        Path(file.locate()).parent
        for file in files("sphinx-mathjax-offline") or []
        if file.name == "tex-svg-full.js"
    )
    machine = MiniRacer()
    machine.eval(BEFORE)
    for component in COMPONENTS:
        machine.eval(folder.joinpath(f"{component}.js").read_text("utf8"))
    machine.eval(AFTER)
    return machine


@cache
def typeset(source: str, display: bool = False) -> str:
    """A formula as HTML. It is the same wherever it stands, so it is made once.

    Raises
    ------
    ValueError
        If TeX would not accept it.
    """
    try:
        return NOTES.sub("", engine().call("typeset", source, display))
    except JSEvalException as error:
        # the message goes on with the source of MathJax
        reason = str(error).strip().splitlines()[0].rpartition("Error: ")[2]
        raise ValueError(reason) from None


def displayed(source: str) -> str:
    r"""The TeX of a displayed formula, in which ``\\`` starts a line and an empty line starts a formula."""
    lines = [line for line in re.split(r"\n\s*\n", source) if line.strip()]
    lines = [rf"\begin{{split}}{line}\end{{split}}" if r"\\" in line else line for line in lines]
    return (
        lines[0] if len(lines) == 1 else r"\begin{aligned}" + r"\\ ".join(lines) + r"\end{aligned}"
    )


def parts(
    translator: HTML5Translator, node: nodes.Element, source: str, display: bool
) -> tuple[str, str]:
    """The start of the element around a formula, and what holds its place; with a warning if it cannot be typeset."""
    tag, kind = ("div", "display") if display else ("span", "inline")
    place, width = f"<x-{kind}>{escape(source, quote=False)}</x-{kind}>", None
    try:
        width = WIDTH.search(typeset(source, display))
    except ValueError as error:
        logger.warning(f"formula: {error}: {source}", type="formulas", location=node)
        place = f"<code>{escape(source, quote=False)}</code>"
    # A phone scrolls a wide formula, so the keyboard has to reach it.
    is_wide = width and float(width[1]) > PHONE
    names = "math notranslate nohighlight" + " wide" * bool(is_wide)
    focus = {"tabindex": "0"} if is_wide else {}
    return translator.starttag(node, tag, "", CLASS=names, **focus), place


def visit_math(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body += [*parts(translator, node, node.astext(), False), "</span>"]
    raise nodes.SkipNode


def visit_math_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    source = node.astext() if node.get("nowrap") else displayed(node.astext())
    start, place = parts(translator, node, source, True)
    translator.body.append(start)
    if node.get("number"):
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})')
        translator.add_permalink_ref(node, "Permalink to this equation")
        translator.body.append("</span>")
    translator.body.append(f"{place}</div>\n")
    raise nodes.SkipNode


def with_drawings(page: str) -> str:
    """A page with its formulas in their places."""
    return PLACE.sub(lambda place: typeset(unescape(place[2]), place[1] == "display"), page)


def with_outlines(page: str, outlines: dict[str, str]) -> str:
    """A page with the outlines of its letters, hidden at its start."""
    used = "".join(outlines[name] for name in sorted(set(LETTER.findall(page))))
    hidden = f'<svg aria-hidden="true" style="position:absolute;width:0;height:0"><defs>{used}</defs></svg>'
    return re.sub(r"<body[^>]*>", lambda body: body[0] + hidden, page, count=1) if used else page


def finish(app: Sphinx, error: Exception | None) -> None:
    """When all pages are written, give each its formulas and their letters, and all of them the style sheet."""
    if error or app.builder.format != "html":
        return
    outlines = {match[1]: match[0] for match in OUTLINE.finditer(engine().call("outlines"))}
    for path in Path(app.outdir).rglob("*.html"):
        page = path.read_text("utf8")
        if (complete := with_outlines(with_drawings(page), outlines)) != page:
            path.write_text(complete, "utf8")
    styles = engine().call("styles").replace("[data-c]", "")
    Path(app.outdir, "_static", "formulas.css").write_text(styles, "utf8")


def setup(app: Sphinx) -> dict:
    app.add_html_math_renderer("built", (visit_math, None), (visit_math_block, None))
    app.config.html_math_renderer = "built"
    app.add_css_file("formulas.css")
    app.connect("build-finished", finish, priority=600)  # after what links names in code
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": False}
