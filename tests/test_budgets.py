"""How much a page asks of its reader: the budgets of idea pages and engine pages, and how they are measured."""

import dataclasses

import budgets
import matplotlib
import nbformat
import pytest
from conftest import ROOT
from nbdev_book.project import Project
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PROJECT = Project.load(ROOT)
SITE = ROOT / "_build" / "html"
NAMES = sorted(path.stem for path in (ROOT / "nbs").glob("*.ipynb"))

# What is not yet so: pages written before there were budgets. The list only shrinks.
STILL: dict[str, set[str]] = {
    "06_recurrent": {"height"},
    "08_steps": {"longest"},
    "08_training": {"longest", "core"},
    "09_sampling": {"longest"},
    "a3_cli": {"longest"},
}


# This book


@pytest.mark.parametrize("name", NAMES)
def test_a_page_asks_no_more_of_its_reader_than_its_budget(name):
    page = budgets.count(ROOT / "nbs" / f"{name}.ipynb", PROJECT)
    assert page.exceeded - STILL.get(name, set()) == set(), page


@pytest.fixture(scope="module")
def tab(browser):
    tab = browser.new_page(reduced_motion="reduce")
    yield tab
    tab.close()


@pytest.mark.site
@pytest.mark.parametrize("name", NAMES)
def test_a_built_page_keeps_its_budget_and_no_exception_is_left_over(name, site, tab):
    page = budgets.count(ROOT / "nbs" / f"{name}.ipynb", PROJECT)
    page = budgets.measured(page, tab, SITE)
    assert page.height, "the page is not built"
    assert page.exceeded == STILL.get(name, set()), page


def test_exceptions_are_of_pages_that_exist():
    assert STILL.keys() <= set(NAMES)


# A notebook is counted as the page shows it


def write(tmp_path, *cells) -> budgets.Page:
    """The count of a notebook of cells, given as code, or as Markdown if they begin with a mark of it."""
    made = [
        new_markdown_cell(text[3:]) if text.startswith("md ") else new_code_cell(text)
        for text in cells
    ]
    path = tmp_path / "page.ipynb"
    nbformat.write(new_notebook(cells=made), path)
    return budgets.count(path, PROJECT)


def test_a_page_is_of_ideas_if_it_makes_no_module(tmp_path):
    assert write(tmp_path, "x = 1").is_idea
    assert not write(tmp_path, "#| default_exp ar", "x = 1").is_idea


@pytest.mark.parametrize(
    ("markdown", "words"),
    [
        ("One two, three.", 3),
        ("# A title — of four words", 5),
        ("before\n$$\na + b = c\n$$ (eq-sum)\nafter", 2),
        ("inline $a + b$ counts as it is read", 8),
        ("```python\nx = 1\n```\none", 1),
        ("a [link to](https://example.org/a) it", 4),
        ('<figure class="picture">\n<figcaption>Two words.</figcaption>\n</figure>', 2),
    ],
)
def test_words_of_prose_are_counted_and_nothing_else(markdown, words, tmp_path):
    assert write(tmp_path, f"md {markdown}").words == words


def test_what_is_folded_or_hidden_does_not_count(tmp_path):
    page = write(
        tmp_path,
        "import numpy as np\nimport torch",
        "#| hide\nx = 1",
        "#| code-fold: true\n" + "x = 1\n" * 40,
        "#| hide_input\nx = 1",
        "y = 2\nz = 3  #| hide_line\n",
        "md ### Exercise: One\n\nfour words of text",
        "md #### Solution\n\nnot counted at all",
        "x = 1\n" * 30,
        "md ## After\n\nthree more words",
        "longest = 1\nlast = 2",
    )
    assert (page.lines, page.longest, page.widest) == (3, 2, 11)
    assert page.words == 2 + 4 + 1 + 3


def test_exported_cells_fold_by_length_and_show_one_line_of_their_docstrings(tmp_path):
    long = "\n".join(f"    x{i} = {i}" for i in range(12))
    page = write(
        tmp_path,
        "#| default_exp ar",
        f"#| export\ndef f():\n{long}",
        '#| export\ndef g():\n    """Say.\n\n    More.\n    """\n    return 1',
    )
    assert (page.lines, page.longest, page.core) == (3, 3, 0)


def test_one_core_cell_may_be_longer(tmp_path):
    def lines(n):
        return "#| code-fold: show\n" + "\n".join(["x = 1"] * n)

    page = write(tmp_path, lines(25), "x = 1\n" * 15)
    assert (page.core, page.longest, page.exceeded) == (25, 15, set())
    assert write(tmp_path, lines(26)).exceeded == {"core"}
    assert write(tmp_path, lines(25), lines(16)).exceeded == {"longest"}
    assert write(tmp_path, "x = 1\n" * 16).exceeded == {"longest"}


@pytest.mark.parametrize("is_idea", [True, False])
def test_each_bound_is_a_bound_and_what_is_not_known_is_not_asked(is_idea):
    bounds = budgets.IDEA if is_idea else budgets.ENGINE
    least = dict(words=0, lines=0, longest=0, core=0, widest=0)
    page = budgets.Page("one", is_idea, **least)
    assert page.exceeded == set()
    for name, bound in bounds.items():
        worse = {"cut": ["table"], "letters": 8.9}.get(name, bound + 1)
        good = {"cut": []}.get(name, bound)
        assert dataclasses.replace(page, **{name: good}).exceeded == set()
        assert dataclasses.replace(page, **{name: worse}).exceeded == {name}
    assert f"{bounds['longest'] + 1}*" in budgets.table(
        [dataclasses.replace(page, longest=bounds["longest"] + 1)]
    )


# A page is measured as it is seen

BLOCK = '<div style="height: {}px"></div>'
PICTURE = (
    '<figure class="picture"><svg viewBox="0 0 100 100" style="height: 100px; width: {1}px">'
    '<text font-size="{0}" y="50">a</text></svg></figure>'
)


@pytest.fixture
def look(tab, tmp_path):
    def look(body: str) -> dict:
        page = tmp_path / "page.html"
        style = "body { margin: 0 } figure { margin: 0 } .scroll { overflow-x: auto }"
        page.write_text(
            f"<!doctype html><style>{style}</style><article>{body}</article>",
            "utf8",
        )
        return budgets.measure(tab, page)

    return look


def test_the_first_picture_and_the_longest_stretch_without_one(look):
    picture = PICTURE.format(20, 100)
    body = BLOCK.format(300) + picture + BLOCK.format(700) + picture + BLOCK.format(500)
    found = look(body)
    assert found["picture"] == pytest.approx(300, abs=1)
    assert found["stretch"] == pytest.approx(700, abs=6)  # a line of text may have a descender
    assert found["height"] == pytest.approx(1700, abs=12)
    assert look(BLOCK.format(1200))["picture"] >= 1200  # no picture is the latest of all
    table = BLOCK.format(300) + "<table><tr><td>1</table>" + BLOCK.format(400) + picture
    found = look(table)  # a table breaks a stretch, and is no picture
    assert 400 == pytest.approx(found["stretch"], abs=2) and found["picture"] > 700


def test_a_folded_picture_is_none(look):
    folded = f"<details><summary>More</summary>{PICTURE.format(20, 100)}</details>"
    assert look(BLOCK.format(500) + folded + BLOCK.format(500))["stretch"] > 1000


def test_what_is_cut_on_a_phone_is_found(look):
    wide = "<table style='width: 600px'><tr><td>wide</table>"
    assert look(f"<div class=scroll>{wide}</div>")["cut"] == ["table wide"]
    assert look(wide)["cut"] == ["table wide"]
    formula = "<div class='math scroll' id=eq-one><div style='width: {}px'>x</div></div>"
    assert look(formula.format(600))["cut"] == ["formula eq-one"]
    assert look(formula.format(300))["cut"] == []
    figure = "<svg id=fig viewBox='0 0 10 10' style='width: 500px'></svg>"
    assert look(figure)["cut"] == ["figure fig"]
    assert look("<pre class=scroll>" + "code " * 100 + "</pre>")["cut"] == []


def test_letters_are_as_small_as_they_are_shown(look):
    """A drawing 100 units wide that is shown 200 pixels wide doubles its letters."""
    assert look(PICTURE.format(12, 100))["letters"] == pytest.approx(12, abs=0.1)
    small = PICTURE.format(12, 50).replace("height: 100px", "height: 50px")
    assert look(PICTURE.format(12, 100) + small)["letters"] == pytest.approx(6, abs=0.1)
    assert look("<p>none</p>")["letters"] is None


def test_letters_of_figures_by_matplotlib_are_measured_by_their_glyphs(tmp_path):
    """6.5 inches are 468 points; shown 234 pixels wide, letters of 10 points are 5 pixels."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.fonttype": "path", "font.size": 10}):
        figure, axes = plt.subplots(figsize=(6.5, 3))
        axes.set_title("title", fontsize=20)
        figure.savefig(tmp_path / "figure.svg")
        plt.close(figure)
    svg = (tmp_path / "figure.svg").read_text("utf8")
    assert budgets.smallest_letters(svg, 234) == pytest.approx(5, abs=0.01)
    assert budgets.smallest_letters("<svg viewBox='0 0 1 1'></svg>", 234) is None


def test_silent_cells_are_those_of_the_page_that_show_nothing():
    cell = '<div class="cell"><div class="cell_input">x</div>{}</div>'
    shows = cell.format('<div class="cell_output">1</div>')
    silent = cell.format("")
    exported = cell.format('<p class="nbdev-mark">arbook.ar</p>')
    folded = (
        '<div class="cell"><details class="hide"><div class="cell_input">x</div></details></div>'
    )
    solved = f'<div class="solution">{silent}</div>'
    page = "<article>" + shows * 3 + silent + exported * 5 + folded * 2 + solved + "</article>"
    assert budgets.silent_share(page) == 25


# The command


def test_the_command_prints_a_row_for_every_page_and_says_if_one_asks_too_much(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(ROOT)
    budgets.main(["a6_files", "a2_plots", "--site", str(tmp_path)])
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()] == [
        "page",
        "a2_plots",
        "a6_files",
    ]
    assert "not built" in printed.err
    page = dataclasses.replace(budgets.count(ROOT / "nbs" / "a6_files.ipynb", PROJECT), longest=26)
    monkeypatch.setattr(budgets, "count", lambda *_: page)
    assert budgets.main(["a6_files", "--site", str(tmp_path)]) == 1
    with pytest.raises(SystemExit):
        budgets.main(["no_page"])
    assert "got no_page" in capsys.readouterr().err
