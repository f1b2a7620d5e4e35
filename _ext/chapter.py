"""Begin a chapter: its notebook in the book's form, and its line in every list.

    python3 _ext/chapter.py diffusion "Diffusion"

The new chapter is the last one. What its author has to say is marked with TO WRITE, and a test names every mark that is
left. Run `make export` next. Needs nothing but Python.
"""

import argparse
import json
import keyword
import re
import sys
from pathlib import Path

MARK = "TO WRITE"

# A cell is a kind and a text; exercises are folded where the notebook program can fold headings.
PAGE = [
    ("markdown", """# {title}

> {mark}: what the reader builds on this page, in one line.

{mark}: from what it is built, and what was still missing.

The question of this chapter: **{mark}?**"""),
    ("code", "{first}"),
    ("code", "#| default_exp {name}"),
    ("code", """#| export
from __future__ import annotations

from collections.abc import Sequence"""),
    ("markdown", """## {mark}: the first idea <a id="sec-{label}"></a>

{mark}: why it is needed. A small example that fits in the head, a formula, and the function that computes it:

$$
p_i = \\frac{{n_i}}{{\\sum_j n_j}} .
$$ (eq-{label})"""),
    ("code", '''#| export
def shares(counts: Sequence[int]) -> list[float]:
    """The part of the whole that each count is.

    Parameters
    ----------
    counts : sequence of int
        At least one of them above 0.

    Returns
    -------
    list of float
        Numbers from 0 to 1 that add up to 1.

    Raises
    ------
    ValueError
        If there is nothing to share.

    Examples
    --------
    >>> shares([1, 3])
    [0.25, 0.75]
    """
    total = sum(counts)
    if total <= 0:
        raise ValueError(f"counts must add up to more than 0, got {{list(counts)}}")
    return [count / total for count in counts]'''),
    ("code", "shares([2, 3, 5])"),
    ("markdown", "{mark}: what the numbers say. They are those of [(eq-{label})](#eq-{label})."),
    ("markdown", "## Summary\n\n{mark}: what the reader can do now."),
    ("markdown", "## Exercises"),
    ("markdown", """### Exercise: {mark} <a id="ex-{label}"></a>

{mark}: a question whose answer takes a few lines."""),
    ("markdown", "#### Solution"),
    ("code", "assert sum(shares([1, 2, 3, 4])) == 1.0"),
    ("markdown", "## Sources\n\n{mark}: the works that this page stands on."),
]  # fmt: skip

TESTS = '''"""{title}: {mark}, what is tested, in one line."""

import pytest
from arbook.{name} import shares


@pytest.mark.parametrize("counts", [[1], [0, 2], [3, 4, 5]])
def test_shares_add_up_to_one(counts):
    assert sum(shares(counts)) == pytest.approx(1.0)


def test_nothing_cannot_be_shared():
    with pytest.raises(ValueError, match="counts must add up to more than 0"):
        shares([0, 0])
'''
REFERENCE = "# `arbook.{name}`\n\n```{{eval-rst}}\n.. nbdev-module:: arbook.{name}\n```\n"


def exported(notebook):
    """The module that a notebook exports; an idea page exports none."""
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    found = filter(None, (re.match(r"#\| default_exp (\w+)$", code) for code in cells))
    return next((match[1] for match in found), None)


def after(text, pattern, line):
    """A text with a line after the last one that a pattern matches, and after all that is indented below that one."""
    lines = text.splitlines()
    found = [number for number, each in enumerate(lines) if re.match(pattern, each)]
    if not found:
        raise ValueError(f"no line is like {pattern}")
    place = found[-1] + 1
    indent = len(lines[found[-1]]) - len(lines[found[-1]].lstrip())
    while place < len(lines) and lines[place].startswith(" " * (indent + 1)):
        place += 1
    return "\n".join([*lines[:place], line, *lines[place:]]) + "\n"


def page(words, metadata, first):
    """The notebook of a chapter, as text."""
    cells = []
    for number, (kind, text) in enumerate(PAGE, 1):
        source = first if text == "{first}" else text.format(**words)
        cell = {
            "cell_type": kind,
            "id": f"{number:08x}",
            "metadata": {},
            "source": source.splitlines(True),
        }
        if source.startswith("#### Solution"):
            cell["metadata"] = {"jp-MarkdownHeadingCollapsed": True}
        if kind == "code":
            cell = {"cell_type": kind, "execution_count": None, **cell, "outputs": []}
            cell = {key: cell[key] for key in sorted(cell)}
        cells.append(cell)
    notebook = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def begin(root, name, title):
    """The new files and the changed ones, each with its text."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ValueError(
            f"NAME must be a word in small letters that Python takes as a name, got {name!r}"
        )
    notebooks = {path.stem: json.loads(path.read_text("utf8")) for path in root.glob("nbs/*.ipynb")}
    made = {stem: exported(notebook) for stem, notebook in notebooks.items()}
    modules = {stem: module for stem, module in made.items() if module}
    if name in modules.values():
        raise ValueError(f"NAME must be new: there is a module {name!r} already")
    chapters = sorted(stem for stem in modules if re.match(r"\d\d", stem))
    number = int(chapters[-1][:2]) + 1
    in_chapters = "|".join(modules[stem] for stem in chapters)
    stem = f"{number:02d}_{name}"
    words = {"name": name, "title": title, "mark": MARK, "label": name.replace("_", "-")}
    last = notebooks[chapters[-1]]
    first = next("".join(c["source"]) for c in last["cells"] if c["cell_type"] == "code")

    def text(file):
        return (root / file).read_text("utf8")

    toc = after(text("_toc.yml"), r" *- file: nbs/\d\d_", f"      - file: nbs/{stem}")
    toc = after(toc, rf" *- file: api/({in_chapters})$", f"          - file: api/{name}")
    about = f"| `arbook.{name}` | {number} {title} | {MARK}: what it holds |"
    built = f"| {{doc}}`{number} {title} <nbs/{stem}>` | {MARK}: what the reader builds | {MARK}: and finds out |"
    offered = [
        line
        for line in text("arbook/__init__.pyi").splitlines()
        if line.startswith("from . import ")
    ]
    before = [line for line in offered if line < f"from . import {name} "]
    return {
        f"nbs/{stem}.ipynb": page(words, last["metadata"], first),
        f"api/{name}.md": REFERENCE.format(**words),
        f"tests/test_{name}.py": TESTS.format(**words),
        "_toc.yml": toc,
        "README.md": after(text("README.md"), rf"\| `arbook\.({in_chapters})`", about),
        "index.md": after(text("index.md"), r"\| \{doc\}`\d", built),
        "arbook/__init__.pyi": after(
            text("arbook/__init__.pyi"),
            re.escape(before[-1]) if before else r"# `plots`",
            f"from . import {name} as {name}",
        ),
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="make chapter", description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of its module, such as diffusion")
    parser.add_argument("title", nargs="?", help="of its page (default: the name)")
    options = parser.parse_args(arguments)
    root = Path.cwd()
    title = options.title or options.name.replace("_", " ").capitalize()
    try:
        files = begin(root, options.name, title)
    except ValueError as error:
        parser.error(str(error))
    for name, text in files.items():
        print(("changed  " if (root / name).exists() else "new      ") + name)
        (root / name).write_text(text, "utf8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
