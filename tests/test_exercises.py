"""The page of all exercises: what it lists, and the boxes that a reader ticks."""

import doctest
import io
import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import exercises
import pytest
from bs4 import BeautifulSoup
from conftest import ROOT
from section_search import page_records
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace
from test_touch import PAGE

HEAD = '{}\n\nHow many?\n\nHand in: `grade("{}", n)`, a number.'
TOC = """format: jb-book
root: index
parts:
  - caption: One
    numbered: true
    chapters:
      - file: nbs/01_a
        sections:
          - file: nbs/01_b
          - file: nbs/01_none
  - caption: Between
    chapters: [{file: nbs/a_tool}, {file: api/x}]
  - caption: Two
    numbered: true
    chapters: [{file: nbs/02_none}, {file: nbs/03_c}]
"""


def title(text: str, name: str) -> str:
    return f'### Exercise: {text} <a id="ex-{name}"></a>'


def notebook(path: Path, *texts: str) -> None:
    cells = [{"cell_type": "markdown", "source": text.splitlines(True)} for text in texts]
    cells.append({"cell_type": "code", "source": [title("No", "no")]})
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}), "utf8")


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Path:
    """The sources of a small book."""
    root = tmp_path_factory.mktemp("book")
    (root / "nbs").mkdir()
    (root / "_static").mkdir()
    (root / "_static" / "exercises.js").write_text("", "utf8")
    (root / "_toc.yml").write_text(TOC, "utf8")
    (root / "index.md").write_text("# All\n\n```{exercises}\n```\n", "utf8")
    (root / "other.md").write_text(
        "---\norphan: true\n---\n# Other\n\nHand in: `grade(1)`.\n\nHand in: x.\n", "utf8"
    )
    head = title("In your head", "head")
    notebook(root / "nbs/01_a.ipynb", "# First\n\n> x", HEAD.format(head, "head"), "#### Solution")
    one, two = title("*ran* after *dog*", "ran"), title("Yours & the neighbour's", "yours")
    notebook(root / "nbs/01_b.ipynb", "# Second", "## Exercises", one, HEAD.format(two, "another"))
    notebook(root / "nbs/01_none.ipynb", "# Without")
    notebook(root / "nbs/a_tool.ipynb", "# Tool", HEAD.format(title("Tool", "tool"), "tool"))
    notebook(root / "nbs/02_none.ipynb", "# Nothing to do")
    notebook(root / "nbs/03_c.ipynb", "# Third", title("Last", "last"))
    return root


def test_the_example_holds():
    result = doctest.testmod(exercises)
    assert result.attempted and not result.failed


def test_chapters_have_their_numbers_and_pages_without_exercises_are_left_out(book):
    found = {heading: pages for heading, pages in exercises.read_chapters(book)}
    assert list(found) == ["1 First", "Tool", "3 Third"]
    assert [page.title for page in found["1 First"]] == ["First", "Second"]
    names = [(one.name, one.is_graded) for page in found["1 First"] for one in page.exercises]
    assert names == [
        ("head", True),
        ("ran", False),
        ("yours", False),
    ]  # handed in under its own name


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")
def test_the_page_links_every_exercise_marks_what_can_be_handed_in_and_alone_loads_the_script(
    book, tmp_path
):
    warnings = io.StringIO()
    settings = {
        "extensions": ["myst_parser", "exercises"],
        "html_static_path": ["_static"],
        "html_js_files": ["exercises.js"],  # as Jupyter Book finds it
    }
    with docutils_namespace():
        html = tmp_path / "html"
        app = Sphinx(book, None, html, tmp_path, "html", settings, None, warnings)
        app.build()
    assert not warnings.getvalue()
    texts = [(html / f"{name}.html").read_text("utf8") for name in ("index", "other")]
    assert ["exercises.js" in text for text in texts] == [True, False]
    page, other = (BeautifulSoup(text, "html.parser") for text in texts)
    assert [line.text for line in other.select(".arb-hand-in")] == ["Hand in: grade(1)."]
    assert [h.find(string=True) for h in page.select("section section h2")] == [
        "1 First",
        "Tool",
        "3 Third",
    ]
    links = {item["data-exercise"]: item.a["href"] for item in page.select("li[data-exercise]")}
    assert links == {
        "head": "nbs/01_a.html#ex-head",
        "ran": "nbs/01_b.html#ex-ran",
        "yours": "nbs/01_b.html#ex-yours",
        "tool": "nbs/a_tool.html#ex-tool",
        "last": "nbs/03_c.html#ex-last",
    }
    marked = [item["data-exercise"] for item in page.select("li:has(.arb-mark)")]
    assert marked == ["head", "tool"]
    assert (
        page.select_one("[data-exercise=ran] a").decode_contents()
        == "<em>ran</em> after <em>dog</em>"
    )
    assert "5 exercises; 2 of them" in page.text
    article = f"<article>{page.select_one('section')}</article>"
    assert [section[1] for section in page_records(article)["sections"]] == [
        "All"
    ]  # no search for lists
    assert not page.select(".arb-exercises input") and not page.select(".arb-done:not([hidden])")


def test_this_book_lists_every_exercise_of_its_notebooks_once():
    listed = [
        one.name for _, pages in exercises.read_chapters(ROOT) for p in pages for one in p.exercises
    ]
    texts = [path.read_text("utf8") for path in sorted((ROOT / "nbs").glob("*.ipynb"))]
    written = [name for text in texts for name in re.findall(r'<a id=\\"ex-([\w-]+)\\"></a>', text)]
    assert sorted(listed) == sorted(written) and len(set(listed)) == len(listed) > 100


# In the browser


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    """The list of this book by itself, with its script and style."""
    parts = ["<style>a { color: var(--pst-color-link) }</style><h1>Exercises</h1>"]
    chapters = list(exercises.read_chapters(ROOT))
    n = sum(len(page.exercises) for _, pages in chapters for page in pages)
    parts.append(exercises.total(n, 1))
    for heading, pages in chapters:
        rows = exercises.listing(pages, "{}.html".format)
        parts.append(f"<section><h2>{heading}</h2>{rows}</section>")
    static = (ROOT / "_static").as_uri()
    text = PAGE.format(static=static, body="\n".join(parts))
    scripts = r'<script src="[^"]*touch[^"]*" defer></script>'
    text = re.sub(scripts, "", text).replace(
        "</head>", f'<script src="{static}/exercises.js" defer></script></head>'
    )
    file = tmp_path_factory.mktemp("list") / "exercises.html"
    file.write_text(text, "utf8")
    return file.as_uri()


@pytest.fixture
def page(browser, address) -> Iterator:
    context = browser.new_context(viewport={"width": 800, "height": 900})
    page = context.new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(address)
    yield page
    assert page.errors == []
    context.close()


def counts(page) -> list[str]:
    return page.locator(".arb-done").all_inner_texts()


def test_ticks_survive_a_reload_and_are_counted_by_chapter_and_in_all(page):
    boxes, n = page.get_by_role("checkbox"), page.locator("li[data-exercise]").count()
    chapter = page.locator("section").nth(0).get_by_role("checkbox").count()
    assert boxes.count() == n > 100
    assert counts(page)[:2] == [f"0 of {n} done.", f"0 of {chapter} done."]
    box = page.get_by_role("checkbox", name="Done: Count the windows")
    box.focus()
    page.keyboard.press("Space")
    boxes.nth(n - 1).check()
    assert counts(page)[:2] == [f"2 of {n} done.", f"1 of {chapter} done."]
    page.reload()
    assert box.is_checked() and boxes.nth(n - 1).is_checked()
    assert counts(page)[:2] == [f"2 of {n} done.", f"1 of {chapter} done."]
    box.uncheck()
    page.reload()
    assert not box.is_checked() and counts(page)[0] == f"1 of {n} done."


@pytest.mark.parametrize("kept", ["{", "null", "7", '"x"', '["no-such-exercise", 3]'])
def test_whatever_is_in_the_store_the_page_works(page, kept):
    page.evaluate("text => localStorage.setItem('arbook-exercises', text)", kept)
    page.reload()
    assert counts(page)[0].startswith("0 of ")
    page.get_by_role("checkbox").nth(0).check()
    page.reload()
    assert counts(page)[0].startswith("1 of ")


def test_two_tabs_agree(page, address):
    other = page.context.new_page()
    other.goto(address)
    other.get_by_role("checkbox").nth(3).check()
    page.wait_for_function("document.querySelectorAll('input')[3].checked")
    page.get_by_role("checkbox").nth(5).check()
    other.wait_for_function("document.querySelectorAll('input')[5].checked")
    assert counts(other) == counts(page) and counts(page)[0].startswith("2 of ")


def test_without_scripts_the_list_is_one_of_links(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert (
        page.get_by_role("checkbox").count() == 0 and page.locator(".arb-done:visible").count() == 0
    )
    assert page.get_by_role("link", name="Count the windows").is_visible()
    context.close()


def test_a_browser_that_keeps_nothing_still_counts(browser, address):
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new Error('blocked') } })"
    )
    page.goto(address)
    for place in (0, 1):
        page.get_by_role("checkbox").nth(place).check()
    assert counts(page)[0].startswith("2 of ")
    context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_list_is_accessible_and_fits_a_phone(page, theme):
    """Two chapters are enough: the others look the same."""
    page.evaluate(
        "() => [...document.querySelectorAll('section')].slice(2).forEach(s => s.remove())"
    )
    page.set_viewport_size({"width": 390, "height": 800})
    page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    script = Path(find_spec("axe_playwright_python").submodule_search_locations[0], "axe.min.js")
    page.evaluate(script.read_text("utf8"))
    found = page.evaluate(
        "axe.run(document, {preload: false, runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})"
    )
    assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []
