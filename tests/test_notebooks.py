"""The notebooks as notebooks: what a plain Jupyter runs and shows, without the book around it."""

import itertools
import json
import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
EVERY = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def sources(path: Path, kind: str) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


@EVERY
def test_formulas_are_written_so_that_every_viewer_sets_them(path):
    for text in sources(path, "markdown"):
        assert "{math}" not in text
        for body in re.findall(r"^\$\$\n(.*?)^\$\$", text, re.MULTILINE | re.DOTALL):
            assert body.strip() and "\n\n" not in body  # an empty line ends a formula


@EVERY
def test_prose_is_plain_markdown(path):
    """No directive, role or label of the book, which any other viewer of notebooks would show as it stands."""
    for text in sources(path, "markdown"):
        assert not re.findall(r"^(?:`{3,}|:{3,})\{.*|^:{3,}$|^\([\w-]+\)=$", text, re.MULTILINE)
        assert not re.findall(r"\{[a-z:]+\}`", text)


@EVERY
def test_every_exercise_has_a_solution_that_opens_folded(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    headings = [
        ("".join(cell["source"]).splitlines()[0], cell["metadata"])
        for cell in cells
        if cell["cell_type"] == "markdown" and "".join(cell["source"]).startswith("#")
    ]
    for (heading, _), (following, metadata) in itertools.pairwise(headings):
        if heading.startswith("### Exercise: "):
            assert following == "#### Solution"
            assert metadata.get("jp-MarkdownHeadingCollapsed") is True
    assert not headings[-1][0].startswith("### Exercise: ")


@EVERY
def test_no_cell_writes_the_library(path):
    assert not any("nbdev_export" in code for code in sources(path, "code"))


@EVERY
def test_pages_and_docstrings_refer_to_nothing_that_a_reader_cannot_find(path):
    codes = r"\((?:[SE]\d+[a-g]?|A9)(?:, |\))|\bchecklist row\b|\b[Ll]ecture \[\d\]"
    for text in sources(path, "markdown") + sources(path, "code"):
        assert not re.search(codes, text)


@EVERY
def test_captions_name_nothing_by_a_shade_that_the_dark_mode_inverts(path):
    for code in sources(path, "code"):
        for caption in re.findall(r"^#\| fig-(?:cap|alt): (.*)$", code, re.MULTILINE):
            assert not re.search(
                r"\b(?:black|white|dark|darker|light|lighter)\b", caption, re.IGNORECASE
            )


@EVERY
def test_a_text_that_may_be_missing_has_two_fallbacks_and_is_shown_where_it_is_loaded(path):
    for code in sources(path, "code"):
        loads = r'^(\w+) = data\.splits\("(?:tinyshakespeare|ptb)"(.*)\)$'
        for name, rest in re.findall(loads, code, re.MULTILINE):
            assert 'fallback=("shakespeare", "pydoc")' in rest
            assert code.splitlines()[-1] == name  # the value of the cell is what is shown


# With the corpora, the book itself runs them all.
APART = [
    (name, False) for name in ("02_tokens", "a1_data", "a4_autodiff", "a4_proof", "a4b_pytorch")
]


@pytest.mark.slow
@pytest.mark.parametrize("name, corpora", [*APART, ("02_tokens", True)])
def test_a_notebook_runs_from_top_to_bottom_outside_the_book(name, corpora, tmp_path, monkeypatch):
    shutil.copy(ROOT / "nbs" / f"{name}.ipynb", tmp_path)
    if not corpora:
        monkeypatch.delenv("ARBOOK_DATA", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        for variable in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(variable, "http://127.0.0.1:9")  # where nobody answers
    elif "ARBOOK_DATA" not in os.environ:
        pytest.skip("set ARBOOK_DATA to the folder of the corpora")
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    notebook = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, resources=resources).execute()
    assert any(cell.get("outputs") for cell in notebook.cells)


def test_the_program_of_fifteen_lines_has_fifteen():
    path = ROOT / "nbs" / "a4b_pytorch.ipynb"
    (program,) = (code for code in sources(path, "code") if "class Line" in code)
    program = program[: program.index("with torch.no_grad()")]  # what it has learned
    lines = [line for line in program.splitlines() if line.strip() and not line.startswith("#|")]
    assert len(lines) == 15
