"""The score board of the book on a page that is no notebook.

```{ladder} tinyshakespeare
```
"""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Ladder(SphinxDirective):
    """The table of `arbook.plots.ladder`, each model of which leads to its page."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        from arbook.plots import ladder

        self.env.note_dependency(str(self.env.srcdir / "runs" / "ladder.json"))
        table = ladder(self.arguments[0], link="nbs/{}.html").data
        return [nodes.raw("", f'<div class="cell_output">{table}</div>', format="html")]


def setup(app: Sphinx) -> dict:
    app.add_directive("ladder", Ladder)
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}
