"""The bridge between nbdev and Jupyter Book: its pure functions, and a small book that uses all of them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nbdev_book import directives as dv
from nbdev_book import execute
from nbdev_book.project import Project, data_files, fingerprint, library_files
from nbdev_book.reader import read
from nbdev_book.source import definitions, parse, shorten_docstrings
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).resolve().parents[1]
BOOK = Path(__file__).with_name("book")
PROJECT = Project.load(BOOK)

# No test depends on how fast or how busy the machine is.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

names = st.sampled_from(sorted(dv.KNOWN))
words = st.from_regex(r"[a-z][a-z0-9_.]{0,8}", fullmatch=True)
statements = st.sampled_from(
    ["x = 1", "print('#| export')", "# a comment", "", "def f():\n    return 1"]
)


# Directives


@given(st.dictionaries(names, words), st.lists(statements))
def test_directives_and_code_are_told_apart_whatever_they_are(directives, lines):
    code = "\n".join(["start = 0", *lines])
    head = "\n".join(f"#| {name}: {value}" for name, value in directives.items())
    assert dv.split(f"{head}\n{code}") == (directives, code)


@given(
    st.dictionaries(names, words),
    st.sampled_from(["#| {}: {}", "#|{} {}", "# | {}: {}"]),
    st.lists(statements),
)
def test_directives_are_those_that_nbdev_finds(directives, form, lines):
    source = "\n".join(
        [*(form.format(name, value) for name, value in directives.items()), "start = 0", *lines]
    )
    process = pytest.importorskip("nbdev.process")
    if not hasattr(process, "extract_directives"):
        pytest.skip("nbdev 3 has no such function")
    theirs = process.extract_directives(new_code_cell(source))  # names may keep their colon
    assert dv.split(source)[0] == {
        name.rstrip(":"): " ".join(value) for name, value in theirs.items()
    }


@given(st.lists(statements))
def test_code_without_directives_stays_as_it_is(lines):
    code = "\n".join(["start = 0", *lines])
    assert dv.split(code) == ({}, code)


def test_a_magic_above_a_directive_stays_with_the_code():
    assert dv.split("%%time\n#| echo: false\nx = 1") == ({"echo": "false"}, "%%time\nx = 1")


def test_a_caption_keeps_its_colons_and_loses_its_quotes():
    assert dv.split('#| fig-cap: "Error: lower is better"')[0] == {
        "fig-cap": "Error: lower is better"
    }


@pytest.mark.parametrize(
    ("line", "tag"),
    [
        ("hide", "remove-cell"),
        ("default_exp core", "remove-cell"),
        ("include: false", "remove-cell"),
        ("hide_input", "remove-input"),
        ("echo: false", "remove-input"),
        ("hide_output", "remove-output"),
        ("output: false", "remove-output"),
        ("warning: false", "remove-stderr"),
        ("code-fold: true", "hide-input"),
        ("eval: false", "skip-execution"),
        ("error: true", "raises-exception"),
    ],
)
def test_each_directive_has_its_tag(line, tag):
    assert dv.tags(dv.split(f"#| {line}")[0]) == [tag]


@pytest.mark.parametrize(
    "line", ["export", "exports", "exporti", "echo: true", "eval: true", "code-fold: false"]
)
def test_directives_that_hide_nothing_have_no_tag(line):
    assert dv.tags(dv.split(f"#| {line}")[0]) == []


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ("#| sporty", "unknown directive `sporty`"),
        ("#| echo: maybe", "`echo` is true or false, not `maybe`"),
        ("#| fig-alt:", "`fig-alt` needs a value"),
        ("#| label: fig-x", "`label` without `fig-cap`"),
    ],
)
def test_a_slip_in_a_directive_is_named(lines, complaint):
    (found,) = dv.complaints(dv.split(lines)[0])
    assert found.startswith(complaint)


def test_flags_of_the_test_runner_are_known():
    assert dv.complaints({"slow": ""}, also_known=PROJECT.test_flags) == []
    assert dv.complaints({"slow": ""}) != []


@given(st.lists(st.tuples(st.sampled_from(["x = 1", "y = 'a'", ""]), st.booleans())))
def test_exactly_the_marked_lines_are_hidden(lines):
    code = "\n".join(line + "  #| hide_line" * hidden for line, hidden in lines)
    assert dv.visible(code) == "\n".join(line for line, hidden in lines if not hidden)


# Project


@pytest.mark.parametrize("name", ["core", "use"])
def test_names_of_exported_cells_are_those_that_nbdev_puts_into_all(name):
    (notebook,) = BOOK.glob(f"nbs/*_{name}.ipynb")
    cells = read(notebook.read_text("utf8"), str(BOOK)).cells
    found = [full for cell in cells for full in cell.metadata.get("nbdev", {}).get("names", [])]
    exported = re.search(r"__all__ = (\[.*\])", (BOOK / f"tiny/{name}.py").read_text("utf8"))[1]
    assert [full for full in found if full.count(".") == 2] == [
        f"tiny.{name}.{short}" for short in eval(exported)
    ]


LONG = '''class A:
    """A thing.

    It has parts.
    """

    def f(self):
        r\'\'\'Do.

        At length. """quoted"""
        \'\'\'
        text = """not
        a docstring"""
        return text


def g():
    "Short."
'''

SHORT = '''class A:
    """A thing."""

    def f(self):
        r\'\'\'Do.\'\'\'
        text = """not
        a docstring"""
        return text


def g():
    "Short."
'''


def test_docstrings_are_cut_to_their_first_line_and_nothing_else_changes():
    assert shorten_docstrings(LONG) == shorten_docstrings("\n\n" + LONG) == SHORT
    assert shorten_docstrings(SHORT) == SHORT


@pytest.mark.parametrize("code", ["def f(:", "%%time\nx = 1", "!ls", ""])
def test_code_without_docstrings_is_not_touched(code):
    assert shorten_docstrings(code) == code


def test_private_names_are_not_listed():
    code = "_a = 1\nb: int = 2\n__all__ = []\nclass C:\n    def _m(self): ...\n    def n(self): ..."
    code += "\nclass _D:\n    def n(self): ..."
    assert definitions(parse(code)) == ["b", "C", "C.n"]


@pytest.mark.parametrize(
    "code", ["import tiny", "import tiny.core", "from tiny import use", "import tiny.use as u"]
)
def test_library_files_are_those_that_python_loads(code):
    listing = "import sys; print(*(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'tiny'), sep='\\n')"
    loaded = subprocess.run(
        [sys.executable, "-c", f"{code}\n{listing}"], cwd=BOOK, capture_output=True, text=True
    )
    assert library_files([parse(code)], PROJECT) == {Path(line) for line in loaded.stdout.split()}


def test_code_with_magics_has_a_syntax_tree_and_broken_code_has_an_empty_one():
    assert library_files([parse("%matplotlib inline\n!ls\nimport tiny.core")], PROJECT) != set()
    assert parse("def f(:").body == []


@pytest.mark.parametrize(
    "text", ["../runs/numbers.json", "runs/numbers.json", "../runs/", "../runs/../runs"]
)
def test_a_string_that_names_a_file_or_folder_of_the_project_is_an_input(text):
    assert data_files([parse(f"open({text!r})")], PROJECT) == {BOOK / "runs" / "numbers.json"}


@pytest.mark.parametrize(
    "text", ["../../..", "/etc/passwd", "numbers.json", "runs/none.json", "a/b\0", "/" * 5000]
)
def test_other_strings_are_not_inputs(text):
    assert data_files([parse(f"open({text!r})")], PROJECT) == set()


def test_the_fingerprint_follows_the_content_and_the_environment(tmp_path, monkeypatch):
    (tmp_path / "settings.ini").write_text(
        "[DEFAULT]\nlib_name = tiny\nbook_environment = SOME_VARIABLE\n"
    )
    project, file = Project.load(tmp_path), tmp_path / "a.py"
    seen = set()
    for content, value in [("1", "x"), ("2", "x"), ("2", "y")]:
        file.write_text(content)
        monkeypatch.setenv("SOME_VARIABLE", value)
        seen |= {fingerprint([file], project), fingerprint([file], project)}
    assert len(seen) == 3


# Reader


def read_cells(*sources: str) -> list:
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    return read(nbformat.writes(notebook), str(BOOK)).cells


@pytest.mark.parametrize(
    "code", ["import nbdev; nbdev.nbdev_export()", "from nbdev import *\nnbdev_export()"]
)
def test_the_cell_that_writes_the_library_is_dropped(code):
    assert [cell.source for cell in read_cells("x = 1", f"#| hide\n{code}")] == ["x = 1"]


def test_code_links_learn_what_hidden_and_exporting_cells_define():
    cells = read_cells(
        "#| default_exp core", "#| hide\nimport numpy as np", "#| export\ndef f(): ...", "f(np.pi)"
    )
    prefaces = {cell.source: cell.metadata.get("nbdev", {}).get("preface") for cell in cells}
    assert prefaces["def f(): ..."] == ["import numpy as np"]
    assert prefaces["f(np.pi)"] == ["from tiny.core import f"]


def test_reading_twice_gives_the_same_notebook():
    text = (BOOK / "nbs" / "01_use.ipynb").read_text("utf8")
    assert read(text, str(BOOK)) == read(text, str(BOOK))


# A book


def build(folder: Path) -> tuple[subprocess.CompletedProcess, subprocess.CompletedProcess | None]:
    """Run the notebooks, then Sphinx if they ran, as the Makefile does."""
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
        "JUPYTER_PREFER_ENV_PATH": "1",
    }
    options = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
    execution = subprocess.run([sys.executable, "-m", "nbdev_book.execute"], **options)
    if execution.returncode:
        return execution, None
    shutil.rmtree(folder / "_build" / "html", ignore_errors=True)
    shutil.rmtree(folder / "_build" / ".doctrees", ignore_errors=True)
    command = [
        Path(sys.executable).with_name("jupyter-book"),
        "build",
        ".",
        "-W",
        "-n",
        "--keep-going",
    ]
    return execution, subprocess.run(command, **options)


def executed(execution: subprocess.CompletedProcess) -> set[str]:
    """The notebooks that a run reports."""
    return set(re.findall(r" s  nbs/(\w+)\.ipynb", execution.stdout))


@pytest.fixture(scope="module")
def first_build(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("first") / "book"
    shutil.copytree(BOOK, folder, ignore=shutil.ignore_patterns("_build", "__pycache__"))
    execution, sphinx = build(folder)
    assert executed(execution) == {"00_core", "01_use", "02_alone"}, (
        execution.stdout + execution.stderr
    )
    assert sphinx.returncode == 0, sphinx.stdout + sphinx.stderr
    return folder


@pytest.fixture
def book(first_build, tmp_path) -> Path:
    """A copy of the built book, to be edited by one test."""
    return Path(shutil.copytree(first_build, tmp_path / "book"))


@pytest.fixture(scope="module")
def page(first_build):
    """Read a page of the built book."""

    def parsed(name: str) -> BeautifulSoup:
        text = (first_build / "_build" / "html" / f"{name}.html").read_text("utf8")
        return BeautifulSoup(text, "html.parser").select_one("article")

    return parsed


@pytest.fixture(scope="module")
def use(page) -> str:
    return page("nbs/01_use").get_text()


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text("utf8")
    assert old in text
    file.write_text(text.replace(old, new), "utf8")


def test_without_an_address_no_page_points_anywhere(first_build):
    for file in (first_build / "_build" / "html").rglob("*.html"):
        if "_static" not in file.parts:
            text = file.read_text("utf8")
            assert not re.search(
                r"colab\.research|github\.com/(?!executablebooks)|github\.io", text
            ), file
            assert "og:url" not in text and 'rel="canonical"' not in text
    assert not (first_build / "_build" / "html" / "sitemap.xml").exists()


def test_with_an_address_pages_have_buttons_and_the_site_a_map(book):
    edit(book / "settings.ini", "git_url =", "git_url = https://github.com/Somebody/tiny")
    _, sphinx = build(book)
    assert sphinx.returncode == 0, sphinx.stdout + sphinx.stderr
    text = (book / "_build" / "html" / "nbs" / "00_core.html").read_text("utf8")
    colab = "https://colab.research.google.com/github/Somebody/tiny/blob/main/nbs/00_core.ipynb"
    assert colab in text and 'href="https://github.com/Somebody/tiny"' in text
    assert "https://somebody.github.io/tiny/nbs/00_core.html" in text
    site_map = (book / "_build" / "html" / "sitemap.xml").read_text("utf8")
    assert "https://somebody.github.io/tiny/nbs/00_core.html" in site_map


def test_no_directive_is_left_on_a_page(page):
    for name in ("nbs/00_core", "nbs/01_use", "nbs/02_alone"):
        for code in page(name).select(".cell_input pre"):
            assert not code.get_text().lstrip().startswith("#|")


@pytest.mark.parametrize("text", ["OUTPUT_WITHOUT_CODE\n", "OUTPUT_WITHOUT_CODE_2", "FOLDED_CODE", "TO_STDOUT",
                                  "CELL_OF_TABLE", "ANSWER 42", "TEST_FLAGS_ARE_KNOWN", "ValueError: EXPECTED_ERROR",
                                  "raise RuntimeError('NOT_RUN')", "'OUTPUT_' + 'SUPPRESSED'"])  # fmt: skip
def test_what_is_wanted_is_shown(use, text):
    assert text in use


@pytest.mark.parametrize("text", ["OUTPUT_OF_HIDDEN_CELL", "print('OUTPUT_WITHOUT_CODE", "OUTPUT_SUPPRESSED",
                                  "NEITHER_NOR", "TO_STDERR", "HIDDEN_LINE", "nbdev_export",
                                  "RuntimeError: NOT_RUN"])  # fmt: skip
def test_what_is_hidden_is_not_shown(use, text):
    assert text not in use


def test_a_hidden_line_runs(use):
    assert "hidden_line = " not in use
    assert "ab" * len("HIDDEN_LINE") in use


def test_a_directive_inside_a_string_stays(use):
    assert "#| export" in use


def test_folded_code_carries_its_summary(page):
    details = page("nbs/01_use").find("details", class_="hide")
    assert "The long way" in details.find("summary").get_text()
    assert "'FOLDED_' + 'CODE'" in details.get_text()


def test_a_figure_has_number_caption_and_alternative_text(page):
    figure = page("nbs/01_use").find("figure", id="fig-dot")
    assert "A dot: it is round" in figure.find("figcaption").get_text()
    assert figure.find("img")["alt"] == "A black dot"
    reference = page("nbs/01_use").find("a", class_="reference", href="#fig-dot")
    assert re.fullmatch(r"Fig\. \d+", reference.get_text())


def test_alternative_text_needs_no_caption(page):
    (image,) = page("nbs/01_use").find_all("img", alt="The same dot again")
    assert image.find_parent("figure") is None


@pytest.mark.parametrize(
    ("chapter", "anchor", "target"),
    [
        ("nbs/00_core", "tiny.core.LIMIT", "api/core.html#tiny.core.LIMIT"),
        ("nbs/00_core", "tiny.core.Counter", "api/core.html#tiny.core.Counter"),
        ("nbs/01_use", "tiny.use.quadruple", "api/use.html#tiny.use.quadruple"),
    ],
)
def test_an_exported_cell_leads_to_the_reference(page, chapter, anchor, target):
    mark = page(chapter).find(id=anchor).find("p", class_="nbdev-mark")
    assert mark.get_text() == f"in {anchor.rpartition('.')[0]}"
    assert mark.find("a")["href"] == f"../{target}"
    name, _, fragment = target.partition(".html#")
    assert page(name).find(id=fragment) is not None


def test_internal_cells_lead_to_their_module(page):
    (cell,) = [
        cell for cell in page("nbs/00_core").select("div.cell") if "_helper" in cell.get_text()
    ]
    assert cell.select_one(".nbdev-mark a")["href"] == "../api/core.html#module-tiny.core"


@pytest.mark.parametrize("name", ["LIMIT", "double", "Counter", "Counter.add"])
def test_each_entry_of_the_reference_leads_back_to_its_cell(page, name):
    origin = page("api/core").find("dt", id=f"tiny.core.{name}").select_one(".nbdev-origin")
    assert origin.get_text() == "explained in The core"
    assert origin.find("a")["href"] == f"../nbs/00_core.html#tiny.core.{name}"
    assert page("nbs/00_core").find(id=f"tiny.core.{name}") is not None


def test_the_reference_opens_with_a_table_of_names_constants_last_and_shows_annotations_as_written(
    page,
):
    table = page("api/core").find("table", class_="autosummary")
    assert [row.find("a").get_text() for row in table.select("tr")] == [
        "double",
        "Counter",
        "LIMIT",
    ]
    signature = page("api/core").find("dt", id="tiny.core.Counter.add").get_text().strip()
    assert signature.startswith("add(x: float) → Counter")


def test_a_function_with_overloads_is_one_name_with_the_signature_that_is_run(page):
    entries = page("api/core").select("dt.sig[id='tiny.core.Counter.times']")
    assert len(entries) == len(page("nbs/00_core").select("[id='tiny.core.Counter.times']")) == 1
    described = entries[0].find_parent("dl").find_all("dt", class_="sig", recursive=False)
    assert [entry.get_text().strip().split("explained")[0] for entry in described] == [
        "times(n: int | str) → float | str"
    ]


def test_a_constant_does_not_show_the_docstring_of_its_type(page):
    assert (
        "integer"
        not in page("api/core").find("dt", id="tiny.core.LIMIT").find_next_sibling("dd").get_text()
    )


@pytest.mark.parametrize("name", ["double", "Counter.add"])
def test_backticks_in_prose_lead_to_the_reference(page, name):
    links = {
        link.get_text(): link["href"] for link in page("nbs/00_core").select("p > a:has(code)")
    }
    assert links[name] == f"../api/core.html#tiny.core.{name}"


@pytest.mark.parametrize("text", ["x", "tiny.core.missing"])
def test_other_backticks_stay_plain(page, text):
    (code,) = [code for code in page("nbs/00_core").select("p code") if code.get_text() == text]
    assert code.find_parent("a") is None


@pytest.mark.parametrize(
    ("chapter", "code", "name"),
    [
        ("nbs/00_core", "double(21)", "double"),  # defined in the same notebook
        ("nbs/00_core", "counter.add(3)", "Counter.add"),  # through an instance
        ("nbs/01_use", "Counter().add(", "Counter"),  # imported in a hidden cell
        ("nbs/01_use", "return double(double(x))", "double"),  # inside a definition
    ],
)
def test_names_in_code_lead_to_the_reference(page, chapter, code, name):
    (block,) = [
        block for block in page(chapter).select(".cell_input pre") if code in block.get_text()
    ]
    assert f"../api/core.html#tiny.core.{name}" in {link["href"] for link in block.select("a")}


@pytest.mark.parametrize("name", ["00_core", "01_use", "02_alone"])
def test_the_notebook_for_download_is_the_source_byte_for_byte(first_build, name):
    served = first_build / "_build" / "html" / "_sources" / "nbs" / f"{name}.ipynb"
    assert served.read_bytes() == (BOOK / "nbs" / f"{name}.ipynb").read_bytes()


# Building again


def test_nothing_runs_again_when_nothing_has_changed(book):
    execution, sphinx = build(book)
    assert executed(execution) == set()
    assert sphinx.returncode == 0
    assert sphinx.stdout.count("Using cached notebook") == 3


def test_prose_can_change_without_a_run(book):
    edit(book / "nbs" / "02_alone.ipynb", "Uses nothing", "Still uses nothing")
    assert executed(build(book)[0]) == set()


def test_a_change_of_the_library_runs_exactly_the_notebooks_that_import_it(book):
    edit(book / "tiny" / "core.py", "return 2 * x", "return x + x")
    assert executed(build(book)[0]) == {"01_use"}


def test_a_change_of_a_data_file_runs_exactly_the_notebooks_that_name_it(book):
    edit(book / "runs" / "numbers.json", "42", "43")
    execution, _ = build(book)
    assert executed(execution) == {"01_use"}
    assert "ANSWER 43" in (book / "_build" / "html" / "nbs" / "01_use.html").read_text("utf8")


def test_a_misspelt_directive_fails_the_build_and_is_named(book):
    edit(book / "nbs" / "02_alone.ipynb", "print('ALONE'", "#| sporty: false\\nprint('ALONE'")
    _, sphinx = build(book)
    assert sphinx.returncode != 0
    assert re.search(
        r"02_alone\.ipynb.*cell 2: unknown directive `sporty`", sphinx.stdout + sphinx.stderr
    )


def test_a_cell_that_fails_stops_the_build_with_its_error(book):
    edit(book / "nbs" / "02_alone.ipynb", "6 * 7", "6 / 0")
    execution, sphinx = build(book)
    assert execution.returncode == 1 and sphinx is None
    assert "02_alone.ipynb  FAILED" in execution.stdout
    assert "ZeroDivisionError" in execution.stdout


def test_workers_and_threads_are_counted_by_the_cores_that_may_be_used(monkeypatch):
    """One core of many, an odd number, a system that cannot tell; and never no thread at all."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for cores, workers, threads in (({5}, 4, "1"), ({0, 1, 2}, 1, "3"), ({0, 1, 2}, 2, "1")):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, found=cores: found, raising=False)
        monkeypatch.setattr(os, "environ", {})
        assert execute.available_cores() == len(cores)
        assert list(execute.run_all({}, workers=workers, timeout=1)) == []
        assert os.environ["OMP_NUM_THREADS"] == threads
    monkeypatch.delattr(os, "sched_getaffinity")
    assert execute.available_cores() == 8
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert execute.available_cores() == 1


def test_a_notebook_that_takes_too_long_is_stopped(book):
    edit(
        book / "nbs" / "02_alone.ipynb",
        "print('ALONE'",
        "import time; time.sleep(3_600); print('ALONE'",
    )
    command = [sys.executable, "-m", "nbdev_book.execute", "--timeout", "2"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{book}"}
    execution = subprocess.run(
        command, cwd=book, env=environment, capture_output=True, text=True, timeout=900
    )
    assert execution.returncode == 1
    assert "Timeout" in execution.stdout


def folded(tmp_path, *cells, fold="12") -> list[str | None]:
    """What stands over the fold of each code cell of a notebook; None over an open one."""
    (tmp_path / "settings.ini").write_text(
        f"[DEFAULT]\nlib_name = shells\nbook_docstrings = summary\nbook_fold = {fold}\n"
    )
    nodes = [nbformat.v4.new_code_cell(cell) for cell in ("#| default_exp core", *cells)]
    page = read(nbformat.writes(nbformat.v4.new_notebook(cells=nodes)), str(tmp_path))
    shown = [node for node in page.cells if "remove-cell" not in node.metadata.tags]
    assert all(
        ("hide-input" in node.metadata.tags) == ("mystnb" in node.metadata) for node in shown
    )
    return [node.metadata.get("mystnb", {}).get("code_prompt_show") for node in shown]


COUNT = 'def count(x):\n    """Count `shells`.\n\n    All of them.\n    """\n' + 12 * "    x += 1\n"


def test_a_long_exported_cell_folds_under_what_it_says_of_itself(tmp_path):
    many = "\n".join(f"def f{i}(x): return x\n\n" for i in range(5)) + "_hidden = 1"
    assert folded(tmp_path, f"#| export\n{COUNT}", f"#| exporti\n{many}", COUNT) == [
        "count: count shells · 14 lines",
        "f0, f1, f2 and 2 more · 15 lines",
        None,
    ]


def test_docstrings_that_the_page_cuts_do_not_count(tmp_path):
    short = COUNT.replace(12 * "    x += 1\n", 10 * "    x += 1\n")
    longer = COUNT.replace(12 * "    x += 1\n", 11 * "    x += 1\n")
    assert folded(tmp_path, f"#| export\n{short}", f"#| export\n{longer}") == [
        None,
        "count: count shells · 13 lines",
    ]


def test_imports_fold_and_what_does_more_does_not(tmp_path):
    style = "import numpy as np\nfrom shells import plots\n\nplots.use_style()"
    cells = (style, "import numpy as np\nx = np.ones(3)", "plots.use_style()")
    assert folded(tmp_path, *cells) == ["Imports · 4 lines", None, None]


def test_the_author_has_the_last_word_about_a_fold(tmp_path):
    cells = (
        f"#| export\n#| code-fold: show\n{COUNT}",
        f"#| export\n#| code-fold: false\n{COUNT}",
        "#| code-fold: true\n#| code-summary: Code of the figure\nx = 1",
    )
    assert folded(tmp_path, *cells) == [None, None, "Code of the figure · 1 line"]
    assert dv.complaints({"code-fold": "show"}) == []


def test_without_the_setting_nothing_folds_by_itself(tmp_path):
    assert folded(tmp_path, f"#| export\n{COUNT}", "import os", fold="") == [None, None]
