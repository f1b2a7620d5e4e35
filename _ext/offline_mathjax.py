"""MathJax without a network: one script, copied at build time from the wheel of sphinx-mathjax-offline.

That wheel carries all of MathJax 3 (24 MB). Its SVG renderer with every TeX extension is a single file of 2 MB, which
needs no fonts and loads nothing else.
"""

from __future__ import annotations

import shutil
from importlib.metadata import files
from pathlib import Path

from sphinx.application import Sphinx

SCRIPT = "mathjax/tex-svg-full.js"


def copy_script(app: Sphinx, error: Exception | None) -> None:
    """Put the script beside the theme's own."""
    if error or app.builder.format != "html":
        return
    source = next(
        file.locate()
        for file in files("sphinx-mathjax-offline") or []
        if file.name == "tex-svg-full.js"
    )
    target = Path(app.outdir, "_static", SCRIPT)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def setup(app: Sphinx) -> dict:
    app.setup_extension("sphinx.ext.mathjax")
    app.config.mathjax_path = SCRIPT
    app.connect("build-finished", copy_script)
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}
