"""The address of the book: one setting, and nothing that points anywhere while it is empty."""

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from nbdev_book.home import BLOCKS, rewritten
from nbdev_book.project import Project, find_notebooks

ADDRESS = "https://github.com/Somebody/tiny-book"


def settled(folder: Path, address: str) -> Project:
    settings = re.sub(
        r"(?m)^git_url =.*$", f"git_url = {address}", (ROOT / "settings.ini").read_text()
    )
    (folder / "settings.ini").write_text(settings)
    return Project.load(folder)


@pytest.fixture
def copy(tmp_path) -> Path:
    """The files of this book that can name an address."""
    for name in ("README.md", "index.md", "settings.ini"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs", ignore=shutil.ignore_patterns(".*"))
    return tmp_path


def test_files_of_this_book_name_the_address_of_its_settings():
    assert rewritten(Project.load(ROOT)) == {}


def test_a_setting_appears_everywhere_and_disappears_again(copy):
    before = {
        path: path.read_text() for path in copy.rglob("*") if path.suffix in {".md", ".ipynb"}
    }
    for path, text in rewritten(settled(copy, ADDRESS)).items():
        path.write_text(text)
    readme, front = (copy / "README.md").read_text(), (copy / "index.md").read_text()
    assert (
        f"git clone {ADDRESS}\ncd tiny-book\n" in readme and f"pip install git+{ADDRESS}" in readme
    )
    assert (
        f"pip install git+{ADDRESS}" in front and "Colab" in front and "pip install ." not in front
    )
    notebooks = find_notebooks(Project.load(copy))
    assert len(notebooks) >= 15
    for path in notebooks:
        first = next(c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code")
        assert f'HOME = "{ADDRESS}"\n' in first["source"], path
    assert rewritten(Project.load(copy)) == {}
    for path, text in rewritten(settled(copy, "")).items():
        path.write_text(text)
    assert {path: path.read_text() for path in before} == before


def test_every_marked_passage_is_known_and_every_known_one_is_marked():
    marked = [
        re.findall(r"<!-- home: (\w+) -->", (ROOT / name).read_text())
        for name in ("README.md", "index.md")
    ]
    assert sorted({*marked[0], *marked[1]}) == sorted(BLOCKS)


FIRST_CELL = "\n".join(
    line
    for line in "".join(
        json.loads((ROOT / "nbs" / "02_tokens.ipynb").read_text())["cells"][1]["source"]
    ).splitlines()
)


@pytest.mark.parametrize(
    ("home", "beside", "expected"),
    [
        ("", True, "install -q -e ..[book]"),
        (ADDRESS, True, "install -q -e ..[book]"),
        (ADDRESS, False, f"install -q 'arbook[book] @ git+{ADDRESS}'"),
        ("", False, None),
    ],
)
def test_a_notebook_without_the_library_installs_it_or_says_what_to_do(
    home, beside, expected, tmp_path, monkeypatch
):
    asked = []
    shell = type("Shell", (), {"run_line_magic": lambda self, *given: asked.append(given)})()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    (tmp_path / "nbs").mkdir()
    monkeypatch.chdir(tmp_path / "nbs")
    if beside:
        (tmp_path / "pyproject.toml").touch()
    cell = FIRST_CELL.replace('HOME = ""', f'HOME = "{home}"')
    if expected:
        exec(cell, {})
        assert asked == [("pip", expected)]
    else:
        with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[book\]'"):
            exec(cell, {})
        assert asked == []


def test_every_notebook_begins_with_the_same_cell():
    for path in find_notebooks(Project.load(ROOT)):
        cells = json.loads(path.read_text())["cells"]
        first = next(cell for cell in cells if cell["cell_type"] == "code")
        assert "".join(first["source"]) == FIRST_CELL, path


def test_no_file_of_the_project_names_an_address_that_is_not_the_books():
    own = Project.load(ROOT).repository
    for name in ("README.md", "index.md", "pyproject.toml", "_config.yml", "settings.ini"):
        found = re.findall(r"https?://(?:[\w.-]*github[\w.-]*)/\S*", (ROOT / name).read_text())
        assert [
            address
            for address in found
            if "arbook" in address and not address.startswith(own or "-")
        ] == []
