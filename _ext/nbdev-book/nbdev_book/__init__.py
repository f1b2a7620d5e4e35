"""A Sphinx extension that renders nbdev notebooks in a Jupyter Book.

nbdev gives comments such as ``#| export`` or ``#| hide`` a meaning, and Jupyter Book knows nothing of it. This
extension closes the gap:

``directives``  what each directive means, as pure functions
``project``     the settings of the nbdev project, and the files on which a notebook's results depend
``source``      which names the text of a cell defines and imports
``plain``       plain Markdown, as every notebook program shows it -> MyST
``reader``      text of a notebook -> the notebook that the page shows
``api``         links between a chapter's cells, its prose and the reference pages
``home``        the address of the book, where it has one
``execute``     a command that runs stale notebooks in parallel, before Sphinx starts

``sync``        a command that checks that notebooks and library agree

It needs nothing but ``nbdev_book`` in Sphinx's list of extensions, and the book's configuration beside nbdev's.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

from . import api, directives, home
from .project import Project
from .reader import code_cells, input_files
from .source import imported_names, parse, shorten_docstrings

logger = logging.getLogger(__name__)


def use_reader(app: Sphinx, config: Config) -> None:
    """Make myst-nb read notebooks through ``reader.read``."""
    config.nb_custom_formats[".ipynb"] = [
        "nbdev_book.reader.read",
        {"root": str(app.confdir)},
        False,
    ]


def inspect_notebook(app: Sphinx, docname: str, source: list[str]) -> None:
    """Before a notebook becomes a page: warn of bad directives, note its files and the names that it exports."""
    if not str(app.env.doc2path(docname)).endswith(".ipynb"):
        return
    project = Project.load(app.confdir)
    cells = list(code_cells(nbformat.reads(source[0], as_version=4), project))
    for cell in cells:
        for complaint in directives.complaints(cell.directives, also_known=project.test_flags):
            logger.warning(f"cell {cell.number}: {complaint}", type="nbdev", location=docname)
    for file in input_files(cells, project):
        app.env.note_dependency(str(file))
    api.note_exports(app.env, docname, [name for cell in cells for name in cell.names])
    for cell in cells:
        api.note_names(app.env, imported_names(parse(cell.code), project.package))
        api.note_names(app.env, {name.removeprefix(f"{cell.module}."): name for name in cell.names})


class ShowLess(SphinxTransform):
    """Take lines marked ``#| hide_line``, and the details of docstrings, out of the code that the page shows.

    The notebook has run by then, and the one to download keeps all of it.
    """

    default_priority = 6

    def apply(self, **kwargs) -> None:
        short = Project.load(self.app.confdir).short_docstrings
        for block in self.document.findall(nodes.literal_block):
            if block.parent.get("nb_element") == "cell_code_source":
                exported = (
                    block.parent.parent.get("cell_metadata", {}).get("nbdev", {}).get("module")
                )
                code = directives.visible(block.astext())
                block.rawsource = shorten_docstrings(code) if short and exported else code
                block[:] = [nodes.Text(block.rawsource)]


class TameOutputs(SphinxTransform):
    """Let results be pages' parts: `show_doc` begins with a rule, which may only stand between paragraphs of a page,
    and shows a signature as if it were code."""

    default_priority = 5

    def apply(self, **kwargs) -> None:
        for output in self.document.findall(nodes.container):
            if output.get("nb_element") == "cell_code_output":
                for rule in list(output.findall(nodes.transition)):
                    rule.parent.remove(rule)
                for block in output.findall(nodes.literal_block):
                    if block.get("language") == "python":
                        block["language"] = "none"


def add_style(app: Sphinx) -> None:
    """Let the site have the extension's few rules of style, ahead of the book's own."""
    app.config.html_static_path.append(str(Path(__file__).with_name("static")))


def setup(app: Sphinx) -> dict:
    app.setup_extension("myst_nb")
    app.connect("builder-inited", add_style)
    app.add_css_file("nbdev_book.css", priority=300)
    app.connect("config-inited", use_reader, priority=100)
    app.connect("source-read", inspect_notebook)
    app.add_transform(ShowLess)
    app.add_transform(TameOutputs)
    api.setup(app)
    home.setup(app)
    return {
        "version": "0.1",
        "env_version": 3,
        "parallel_read_safe": False,
        "parallel_write_safe": True,
    }
