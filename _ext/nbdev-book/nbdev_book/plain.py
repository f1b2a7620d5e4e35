"""Plain Markdown, as every notebook program shows it, into the MyST that makes a page with numbers and folds.

A notebook is read in Jupyter, in VS Code, in Colab and on GitHub too, and none of them knows MyST's directives and
roles. So notebooks use forms that read well everywhere, and this module gives them their meaning on the page:

=================================================  ===========================================================
``[(eq-normal)](#eq-normal)``                      the number of the equation ``$$ ... $$ (eq-normal)``
``[Figure cup](#fig-cup)``                         the number of a figure
``[chapter 1](01_start.ipynb#sec-cup)``            a reference to what carries the label
``([Akaike, 1974](#akaike1974))``                  a citation; several are separated by semicolons
``## Backtests <a id="sec-backtests"></a>``        a heading with a label
``### Exercise: By hand <a id="ex-hand"></a>``     an exercise, as long as its cell
``#### Solution``                                  its solution, folded, as far as the next heading
``> **Theorem: Rank.** <a id="thm-rank"></a>``     a theorem, as long as the quotation; so is ``> **Proof.**``
``> **Note: Rows or columns?**``                   a box; so is ``> **Important: ...**``
=================================================  ===========================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell
from pybtex.database import Entry, parse_file
from pybtex.richtext import Text

BLOCK = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
LABEL = r'(?:[ \t]*<a id="(?P<label>[\w-]+)"></a>)?'
HEADING = re.compile(rf"^(?P<marks>#+)[ \t]+(?P<title>.*?){LABEL}[ \t]*$", re.MULTILINE)
BOX = re.compile(
    rf"^> \*\*(?P<kind>Theorem|Proof|Note|Important)(?:: (?P<title>.*?))??\.?\*\*{LABEL}(?P<rest>.*(?:\n>.*)*)",
    re.MULTILINE,
)
REFERENCE = re.compile(
    r"\[(?P<text>[^\[\]]*)\]\((?:\w+\.ipynb)?#(?P<label>(?P<kind>[a-z]+)-[\w-]+)\)"
)
CITATION = re.compile(r"\[(?P<text>[^\[\]]*)\]\(#(?P<key>\w+)\)")
CITATIONS = re.compile(r"\(\[[^\[\]]*\]\(#\w+\)(?:;\s\[[^\[\]]*\]\(#\w+\))*\)")

Replacement = Callable[[re.Match], str]

SOLVED = "::::{solution-end}\n::::"


def bibliography(root: Path) -> dict[str, str]:
    """The works of the bibliography in a folder: key -> how the text cites it, such as "Box et al., 2015"."""
    works = {}
    for file in sorted(Path(root).glob("*.bib")):
        works |= _works(file, file.stat().st_mtime_ns)
    return works


@cache
def _works(file: Path, changed: int) -> dict[str, str]:
    return {key: cited_as(entry) for key, entry in parse_file(file).entries.items()}


def cited_as(entry: Entry) -> str:
    """Author and year, as the page cites a work."""
    people = entry.persons.get("author") or entry.persons.get("editor") or []
    names = [str(Text.from_latex(" ".join(p.prelast_names + p.last_names))) for p in people]
    if len(names) > 2:
        names = [f"{names[0]} et al."]
    return ", ".join([" and ".join(names), entry.fields.get("year", "")]).strip(", ")


def outside(code: re.Pattern, text: str, change: re.Pattern, by: Replacement) -> str:
    """Replace a pattern where the text is prose."""
    parts = code.split(text)
    parts[::2] = [change.sub(by, part) for part in parts[::2]]
    return "".join(parts)


def with_names(text: str, works: dict[str, str]) -> str:
    """The text, each citation under the name that the bibliography gives to the work."""

    def named(citation: re.Match) -> str:
        key = citation["key"]
        return f"[{works[key]}](#{key})" if key in works else citation[0]

    return outside(CODE, text, CITATION, named)


def in_myst(text: str, works: Iterable[str] = ()) -> str:
    """Markdown with the links, labels and boxes of a notebook, in MyST."""
    text = outside(BLOCK, text, HEADING, _heading)
    text = outside(BLOCK, text, BOX, _box)
    text = outside(CODE, text, CITATIONS, lambda group: _citations(group[0], works))
    return outside(CODE, text, REFERENCE, _reference)


def _heading(heading: re.Match) -> str:
    marks, title, label = heading["marks"], heading["title"], heading["label"]
    return f"({label})=\n{marks} {title}" if label else heading[0]


def _box(box: re.Match) -> str:
    kind, title, label = box["kind"], box["title"] or "", box["label"]
    is_proof = kind in {"Theorem", "Proof"}
    options = [f":label: {label}"] * bool(label) + [f":class: {kind.lower()}"] * (not is_proof)
    body = re.sub("^> ?", "", box["rest"].strip(), flags=re.MULTILINE).strip()
    directive = f"prf:{kind.lower()}" if is_proof else "admonition"
    opening = f"::::{{{directive}}} {title}".rstrip()
    return "\n".join([opening, *options, "", body, "::::"])


def _citations(group: str, works: Iterable[str]) -> str:
    keys = [citation["key"] for citation in CITATION.finditer(group)]
    return f"{{cite}}`{','.join(keys)}`" if all(key in works for key in keys) else group


def _reference(link: re.Match) -> str:
    if link["kind"] == "eq":
        return f"{{eq}}`{link['label']}`"
    if link["kind"] == "fig":
        return f"{{numref}}`{link['label']}`"
    return f"{{ref}}`{link['text']} <{link['label']}>`"


def in_myst_cells(cells: list[NotebookNode], works: Iterable[str] = ()) -> list[NotebookNode]:
    """The cells of a notebook, its prose in MyST: exercises and their solutions reach over several of them."""
    done: list[NotebookNode] = []
    exercise, is_open = "", False
    for cell in cells:
        if cell.cell_type == "markdown":
            first = HEADING.match(cell.source)
            body = cell.source[first.end() :].strip() if first else cell.source
            if first and is_open:
                done.append(new_markdown_cell(SOLVED))
                is_open = False
            if first and first["title"].startswith("Exercise: "):
                exercise = first["label"] or ""
                title = first["title"].removeprefix("Exercise: ")
                opening = f":::::{{exercise}} {title}\n:label: {exercise}"
                cell.source = f"{opening}\n\n{in_myst(body, works)}\n:::::"
            elif first and first["title"] == "Solution":
                is_open = True
                opening = f"::::{{solution-start}} {exercise}\n:class: dropdown\n::::"
                cell.source = f"{opening}\n\n{in_myst(body, works)}".rstrip()
            else:
                cell.source = in_myst(cell.source, works)
        done.append(cell)
    return done + [new_markdown_cell(SOLVED)] * is_open
