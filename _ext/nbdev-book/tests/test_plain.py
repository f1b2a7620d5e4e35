"""Plain Markdown in notebooks, and what becomes of it on a page."""

import pytest
from nbdev_book import plain
from nbformat.v4 import new_code_cell, new_markdown_cell
from pybtex.database import parse_string

WORKS = {"akaike1974": "Akaike, 1974", "schwarz1978": "Schwarz, 1978", "lecture1": "Lecture, 2025"}


def in_myst(text: str) -> str:
    return plain.in_myst(text, WORKS)


@pytest.mark.parametrize("written, meant", [
    ("by [(eq-ls)](#eq-ls) and", "by {eq}`eq-ls` and"),
    ("[Figure cup](#fig-cup) shows", "{numref}`fig-cup` shows"),
    ("see [chapter 1](01_start.ipynb#sec-fast).", "see {ref}`chapter 1 <sec-fast>`."),
    ("see [above](#sec-fast)", "see {ref}`above <sec-fast>`"),
    ("(exercise [ex-epoch](#ex-epoch))", "(exercise {ref}`ex-epoch <ex-epoch>`)"),
    ("a test ([Akaike, 1974](#akaike1974)).", "a test {cite}`akaike1974`."),
    ("([Akaike, 1974](#akaike1974); [Schwarz, 1978](#schwarz1978)):", "{cite}`akaike1974,schwarz1978`:"),
    ("([Akaike, 1974](#akaike1974);\n[Schwarz, 1978](#schwarz1978))", "{cite}`akaike1974,schwarz1978`"),
    ("([](#akaike1974))", "{cite}`akaike1974`"),
    ("in $[m, 1)$, ([Akaike, 1974](#akaike1974))", "in $[m, 1)$, {cite}`akaike1974`"),
    ("in $[m, 1)$ by [(eq-ls)](#eq-ls)", "in $[m, 1)$ by {eq}`eq-ls`"),
    ("## Fast <a id=\"sec-fast\"></a>\n\nText", "(sec-fast)=\n## Fast\n\nText"),
    ("## `f` of $x$ <a id=\"sec-f\"></a>", "(sec-f)=\n## `f` of $x$"),
])  # fmt: skip
def test_links_and_labels_get_their_meaning(written, meant):
    assert in_myst(written) == meant


@pytest.mark.parametrize("text", [
    "[a page](02_tokens.ipynb)",
    "[elsewhere](https://example.org/#eq-1)",
    "([a part](#part))",  # no work of that name
    "([Akaike, 1974](#akaike1974); [a part](#part))",
    "`[(eq-ls)](#eq-ls)`",
    "```\n[(eq-ls)](#eq-ls)\n## Title <a id=\"x\"></a>\n```",
    "## A title\n\nand text",
    "> a quotation",
    "> **bold** at its start",
    "$x_{[a](b)}$ and a[0](1)",
    "",
])  # fmt: skip
def test_everything_else_stays_as_it_is(text):
    assert in_myst(text) == text


def test_a_theorem_and_its_proof_become_numbered_boxes():
    theorem = '> **Theorem: Rank.** <a id="thm-rank"></a>\n>\n> By [(eq-ls)](#eq-ls).\n>\n> So.'
    text = f"{theorem}\n\n> **Proof.** Clear.\n\nAfter"
    assert in_myst(text) == (
        "::::{prf:theorem} Rank\n:label: thm-rank\n\nBy {eq}`eq-ls`.\n\nSo.\n::::\n\n"
        "::::{prf:proof}\n\nClear.\n::::\n\nAfter"
    )


@pytest.mark.parametrize("kind, css", [("Note", "note"), ("Important", "important")])
def test_a_quotation_that_says_so_becomes_a_box(kind, css):
    assert in_myst(f"Before\n\n> **{kind}: Rows or columns?**\n> Both.\n\nAfter") == (
        f"Before\n\n::::{{admonition}} Rows or columns?\n:class: {css}\n\nBoth.\n::::\n\nAfter"
    )


EXERCISE = '### Exercise: By hand <a id="ex-hand"></a>\n\nFit ([Akaike, 1974](#akaike1974)).'
EXERCISE_ON_THE_PAGE = ":::::{exercise} By hand\n:label: ex-hand\n\nFit {cite}`akaike1974`.\n:::::"
SOLUTION_ON_THE_PAGE = "::::{solution-start} ex-hand\n:class: dropdown\n::::"


def page(*cells) -> list[str]:
    nodes = [new_markdown_cell(c) if isinstance(c, str) else new_code_cell(c[0]) for c in cells]
    return [cell.source for cell in plain.in_myst_cells(nodes, WORKS)]


def test_a_solution_reaches_over_cells_as_far_as_the_next_heading():
    for heading in ("## Sources", "### More", EXERCISE):
        after = EXERCISE_ON_THE_PAGE if heading == EXERCISE else heading
        assert page(EXERCISE, "#### Solution", "Like this:", ["1 + 1"], "So.", heading) == [
            EXERCISE_ON_THE_PAGE, SOLUTION_ON_THE_PAGE, "Like this:", "1 + 1", "So.", plain.SOLVED, after,
        ]  # fmt: skip


def test_the_last_solution_ends_with_the_notebook():
    cells = page(EXERCISE, "#### Solution\n\nSee [(eq-ls)](#eq-ls).", ["1 + 1"])
    assert cells == [
        EXERCISE_ON_THE_PAGE,
        SOLUTION_ON_THE_PAGE + "\n\nSee {eq}`eq-ls`.",
        "1 + 1",
        plain.SOLVED,
    ]


def test_headings_in_code_end_no_solution():
    assert (
        page(EXERCISE, "#### Solution", ["# a comment"], "Text\n```\n# comment\n```")[-1]
        == plain.SOLVED
    )


BIB = r"""
@article{one, author = {Akaike, Hirotugu}, year = 1974}
@article{two, author = {Box, George and Jenkins, Gwilym}, year = 1970}
@article{many, author = {M{\"u}ller, A. and van den Oord, B. and Zhang, C.}, year = 2016}
@misc{team, author = {{R Core Team}}, year = 2026}
@book{edited, editor = {Knuth, Donald}, year = 1997}
@misc{undated, author = {de Moivre, Abraham}}
"""


@pytest.mark.parametrize("key, name", [
    ("one", "Akaike, 1974"),
    ("two", "Box and Jenkins, 1970"),
    ("many", "Müller et al., 2016"),
    ("team", "R Core Team, 2026"),
    ("edited", "Knuth, 1997"),
    ("undated", "de Moivre"),
])  # fmt: skip
def test_works_are_cited_by_author_and_year(key, name):
    assert plain.cited_as(parse_string(BIB, "bibtex").entries[key]) == name


def test_citations_take_their_names_from_the_bibliography():
    text = (
        "$[m, 1)$ ([](#akaike1974); [S., 1978](#schwarz1978)), [a part](#part), `[](#akaike1974)`"
    )
    named = "$[m, 1)$ ([Akaike, 1974](#akaike1974); [Schwarz, 1978](#schwarz1978)), [a part](#part), `[](#akaike1974)`"
    assert plain.with_names(text, WORKS) == named
    assert plain.with_names(named, WORKS) == named


def test_a_bibliography_that_changes_is_read_again(tmp_path):
    assert plain.bibliography(tmp_path) == {}
    file = tmp_path / "references.bib"
    file.write_text(BIB, "utf8")
    assert plain.bibliography(tmp_path)["one"] == "Akaike, 1974"
    file.write_text(BIB.replace("1974", "1973"), "utf8")
    assert plain.bibliography(tmp_path)["one"] == "Akaike, 1973"
