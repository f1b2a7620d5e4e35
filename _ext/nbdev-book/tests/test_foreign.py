"""A project of somebody else, with other names, other folders and other habits: exported, run and shown."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from nbdev_book import sync
from nbdev_book.project import Project, find_notebooks
from nbdev_book.reader import read
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell, writes

ROOT = Path(__file__).resolve().parents[1]

SETTINGS = """[DEFAULT]
repo = sea-shells
lib_name = %(repo)s
user = Somebody
author = Somebody
author_email = somebody@example.org
description = Shells by the sea
keywords = shells
git_url = https://github.com/%(user)s/%(repo)s/
branch = trunk
version = 2.7
lib_path = src/sea_shells
nbs_path = notebooks
tst_flags = slow
"""
PYPROJECT = """[project]
name = "sea-shells"
dynamic = ["version"]

[project.urls]
Repository = "https://github.com/Somebody/sea-shells"

[tool.nbdev]
branch = "trunk"
lib_path = "src/sea_shells"
nbs_path = "notebooks"
tst_flags = ["slow"]
"""
BOTH = {"settings.ini": SETTINGS, "pyproject.toml": PYPROJECT}
OWN = (
    "settings.ini" if version("nbdev").startswith("2.") else "pyproject.toml"
)  # what the installed nbdev reads
SHELLS = [
    new_raw_cell("---\ntitle: Not for this book\n---"),
    new_markdown_cell("# Shells\n\n> What lies on the beach"),
    new_code_cell("#| default_exp shells"),
    new_code_cell("#| hide\nfrom nbdev.showdoc import *"),
    new_code_cell("#| export\nimport json\n\nfrom fastcore.basics import patch"),
    new_code_cell('#| export\nclass Shell:\n    """A shell of so many rings."""\n\n'
                  "    def __init__(self, rings: int) -> None:\n        self.rings = rings"),
    new_code_cell('#|export\n@patch\ndef age(self: Shell) -> int:\n    """One year a ring."""\n    return self.rings'),
    new_code_cell("#| exporti\ndef _polish(shell: Shell) -> Shell:\n    return shell"),
    new_markdown_cell("A `Shell` knows its `Shell.age`."),
    new_code_cell("Shell(3).age()"),
    new_code_cell("#| eval: false\nraise RuntimeError('NOT_RUN')"),
    new_code_cell("#| slow\nprint('A_FLAG')"),
    new_code_cell("#| echo: false\nshow_doc(Shell)"),
    new_code_cell("#| hide\nimport nbdev; nbdev.nbdev_export()"),
]  # fmt: skip
COUNT = [
    new_markdown_cell("# Counting\n\n> How many"),
    new_code_cell("#| default_exp deep.count"),
    new_code_cell("#| export\nfrom fastcore.basics import patch\n\nfrom sea_shells.shells import Shell"),
    new_code_cell('#| export\nLEAST, MOST = 1, 9\n\ndef total(shells: list[Shell]) -> int:\n    """All rings."""\n'
                  "    return sum(shell.age() for shell in shells)"),
    new_code_cell('#| export\n@patch\ndef twice(self: Shell) -> int:\n    """Its rings, counted twice."""\n'
                  "    return 2 * self.rings"),
    new_code_cell("#| echo: false\nprint('RINGS', total([Shell(2), Shell(5)]), Shell(4).twice())"),
    new_code_cell("import json\njson.loads(open('../../tides/high.json').read())['tide']"),
    new_code_cell("#| hide\nimport nbdev; nbdev.nbdev_export()"),
]  # fmt: skip
# The configuration that README gives is the one that is tried.
CONFIG = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text("utf8"), re.DOTALL)[1]
TOC = """format: jb-book
root: start
chapters:
  - file: notebooks/00_shells
  - file: notebooks/deep/10_count
  - file: reference/modules
    sections:
      - file: reference/shells
      - file: reference/deep.count
"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf8")
    return root


def entries(module: str) -> str:
    return f"# `{module}`\n\n```{{eval-rst}}\n.. nbdev-module:: {module}\n```\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the package as pip installs it: what is tried is what a stranger gets."""
    folder = tmp_path_factory.mktemp("installed")
    ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    copy = shutil.copytree(ROOT, folder / "copy", ignore=ignored)
    options = [
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        folder / "packages",
    ]
    command = [sys.executable, "-m", "pip", "install", *options, copy]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder / "packages"


@pytest.fixture(scope="module")
def do(installed):
    """Run a command of the environment in a project, with the installed package and the project's library."""

    def run(root: Path, *command: str) -> subprocess.CompletedProcess:
        program = sync.program(command[0])
        paths = {
            "PYTHONPATH": f"{installed}{os.pathsep}{root / 'src'}",
            "JUPYTER_PREFER_ENV_PATH": "1",
        }
        return subprocess.run(
            [program, *command[1:]],
            cwd=root,
            env=os.environ | paths,
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture(scope="module")
def exported(do, tmp_path_factory) -> Path:
    """The project after `nbdev_export`."""
    root = write(
        tmp_path_factory.mktemp("foreign") / "sea-shells",
        {
            OWN: BOTH[OWN],
            "_config.yml": CONFIG,
            "_toc.yml": TOC,
            "start.md": "# Start\n\nHere.\n",
            "tides/high.json": '{"tide": "HIGH"}',
            "reference/modules.md": "# Reference\n\n```{eval-rst}\n.. nbdev-modules:: sea_shells\n```\n",
            "reference/shells.md": entries("sea_shells.shells"),
            "reference/deep.count.md": entries("sea_shells.deep.count"),
            "notebooks/00_shells.ipynb": writes(new_notebook(cells=SHELLS)),
            "notebooks/deep/10_count.ipynb": writes(new_notebook(cells=COUNT)),
            "notebooks/_draft.ipynb": writes(new_notebook(cells=[new_code_cell("1 / 0")])),
        },
    )
    result = do(root, "nbdev_export")
    assert result.returncode == 0, result.stderr
    assert do(root, "nbdev_clean").returncode == 0
    return root


@pytest.fixture(scope="module", params=BOTH)
def book(exported, do, request, tmp_path_factory) -> Path:
    """The project, with its settings where nbdev 2 or nbdev 3 has them, and its book."""
    if OWN == "pyproject.toml" != request.param:
        pytest.skip("nbdev 3 refuses settings.ini")
    root = shutil.copytree(exported, tmp_path_factory.mktemp("book") / "sea-shells")
    (root / OWN).unlink()
    (root / request.param).write_text(BOTH[request.param], "utf8")
    execution = do(root, "python", "-m", "nbdev_book.execute")
    assert execution.returncode == 0, execution.stdout + execution.stderr
    assert set(re.findall(r" s  (\S+)", execution.stdout)) == {
        "notebooks/00_shells.ipynb", "notebooks/deep/10_count.ipynb",
    }  # fmt: skip
    sphinx = do(root, "jupyter-book", "build", ".", "-W", "-n", "--keep-going")
    assert sphinx.returncode == 0, sphinx.stdout + sphinx.stderr
    return root


@pytest.fixture
def page(book):
    def parsed(name: str) -> BeautifulSoup:
        text = (book / "_build" / "html" / f"{name}.html").read_text("utf8")
        return BeautifulSoup(text, "html.parser").select_one("article")

    return parsed


# Settings


@pytest.mark.parametrize(("file", "text"), BOTH.items())
def test_settings_mean_the_same_in_either_file(file, text, tmp_path):
    root = write(tmp_path, {file: text, "src/sea_shells/__init__.py": '__version__ = "2.7"\n'})
    assert Project.load(root) == Project(
        root=tmp_path, package="sea_shells", library=tmp_path / "src" / "sea_shells",
        notebooks=tmp_path / "notebooks", is_recursive=True, test_flags=frozenset(["slow"]), environment=(),
        short_docstrings=False, fold=None, version="2.7", branch="trunk",
        repository="https://github.com/Somebody/sea-shells",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("settings.ini", "[DEFAULT]\nrepo = sea-shells\n"),
        ("pyproject.toml", '[project]\nname = "sea-shells"\n[tool.nbdev]\n'),
    ],
)
def test_what_is_not_set_is_as_nbdev_has_it(file, text, tmp_path):
    project = Project.load(write(tmp_path, {file: text}))
    assert (project.package, project.library) == ("sea_shells", tmp_path / "sea_shells")
    assert (project.notebooks, project.branch) == (tmp_path / "nbs", "main")
    assert (project.version, project.repository) == ("", "")


@pytest.mark.parametrize("files", [{}, {"pyproject.toml": '[project]\nname = "sea-shells"\n'}])
def test_a_folder_without_nbdev_is_refused_by_name(files, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no settings\.ini, no pyproject\.toml with \[tool\.nbdev\]"
    ):
        Project.load(write(tmp_path, files))


def test_notebooks_are_those_that_nbdev_exports(tmp_path):
    names = ["a.ipynb", "in/b.ipynb", "_c.ipynb", "_in/d.ipynb", ".ipynb_checkpoints/a.ipynb"]
    root = write(tmp_path, {"settings.ini": SETTINGS} | {f"notebooks/{name}": "" for name in names})
    assert [path.name for path in find_notebooks(Project.load(root))] == ["a.ipynb", "b.ipynb"]
    (root / "settings.ini").write_text(SETTINGS + "recursive = False\n")
    assert [path.name for path in find_notebooks(Project.load(root))] == ["a.ipynb"]


# Export


def test_notebooks_and_library_agree_until_one_of_them_is_changed_by_hand(exported, do, tmp_path):
    root = shutil.copytree(exported, tmp_path / "sea-shells")
    agreed = do(root, "python", "-m", "nbdev_book.sync")
    assert (agreed.returncode, agreed.stdout) == (0, "notebooks and library agree\n"), agreed.stderr
    library = root / "src" / "sea_shells" / "deep" / "count.py"
    library.write_text(library.read_text("utf8") + "\nMORE = 1\n", "utf8")
    differing = do(root, "python", "-m", "nbdev_book.sync")
    assert differing.returncode == 1
    assert differing.stdout.startswith("src/sea_shells/deep/count.py: differs"), differing.stderr
    assert do(root, "python", "-m", "nbdev_book.sync", "--write").returncode == 0
    assert do(root, "python", "-m", "nbdev_book.sync").returncode == 0


def test_stored_results_are_named_unless_they_are_allowed(exported, do, tmp_path):
    root = shutil.copytree(exported, tmp_path / "sea-shells")
    notebook = root / "notebooks" / "00_shells.ipynb"
    content = json.loads(notebook.read_text("utf8"))
    shown = next(cell for cell in content["cells"] if "Shell(3).age()" in cell["source"])
    shown["outputs"] = [{"name": "stdout", "output_type": "stream", "text": ["3\n"]}]
    notebook.write_text(json.dumps(content, indent=1) + "\n", "utf8")
    found = do(root, "python", "-m", "nbdev_book.sync")
    assert found.returncode == 1 and found.stdout.startswith(
        "notebooks/00_shells.ipynb: holds outputs"
    )
    assert do(root, "python", "-m", "nbdev_book.sync", "--allow-outputs").returncode == 0
    cleared = do(root, "python", "-m", "nbdev_book.sync", "--clear")
    assert (cleared.returncode, cleared.stdout) == (0, "notebooks/00_shells.ipynb\n")
    assert do(root, "python", "-m", "nbdev_book.sync").returncode == 0


def test_taking_results_out_leaves_all_else_as_it_is(tmp_path, capsys):
    prose, code = new_markdown_cell("# Shells"), new_code_cell("1 + 1", metadata={"tags": ["kept"]})
    clean = json.loads(writes(new_notebook(cells=[prose, code])))
    run = json.loads(json.dumps(clean))
    shown = [{"name": "stdout", "output_type": "stream", "text": ["2\n"]}]
    run["cells"][1] |= {"execution_count": 7, "outputs": shown}
    root = write(tmp_path, {"settings.ini": SETTINGS, "notebooks/a.ipynb": json.dumps(run)})
    untouched = (
        write(tmp_path, {"notebooks/b.ipynb": json.dumps(clean, indent=3)}) / "notebooks/b.ipynb"
    )
    sync.clear(Project.load(root))
    assert capsys.readouterr().out == "notebooks/a.ipynb\n"
    assert json.loads((root / "notebooks/a.ipynb").read_text("utf8")) == clean
    assert untouched.read_text("utf8") == json.dumps(clean, indent=3)


@pytest.mark.parametrize("name", ["shells", "deep.count"])
def test_names_are_those_that_nbdev_puts_into_all(exported, name):
    (notebook,) = exported.glob(f"notebooks/**/*_{name.rpartition('.')[2]}.ipynb")
    cells = read(notebook.read_text("utf8"), str(exported)).cells
    found = [full for cell in cells for full in cell.metadata.get("nbdev", {}).get("names", [])]
    library = exported.joinpath("src/sea_shells", *name.split(".")).with_suffix(".py")
    expected = eval(re.search(r"__all__ = (\[.*\])", library.read_text("utf8"))[1])
    module = f"sea_shells.{name}."
    own = {full.removeprefix(module) for full in found if full.startswith(module)}
    assert {short for short in own if "." not in short} == set(expected)


# Pages


def test_results_are_on_the_pages_and_directives_are_not(page):
    shells, count = (
        page("notebooks/00_shells").get_text(),
        page("notebooks/deep/10_count").get_text(),
    )
    assert "A_FLAG" in shells and "RINGS 7 8" in count and "HIGH" in count
    assert "print('RINGS'" not in count and "RuntimeError: NOT_RUN" not in shells
    assert "Not for this book" not in shells
    for text in (shells, count):
        assert "#|" not in text and "nbdev_export" not in text and "showdoc" not in text


@pytest.mark.parametrize(
    ("chapter", "name", "target"),
    [
        ("00_shells", "sea_shells.shells.Shell", "../reference/shells.html"),
        ("00_shells", "sea_shells.shells.Shell.age", "../reference/shells.html"),
        ("deep/10_count", "sea_shells.deep.count.total", "../../reference/deep.count.html"),
        ("deep/10_count", "sea_shells.deep.count.MOST", "../../reference/deep.count.html"),
    ],
)
def test_cells_and_reference_lead_to_each_other(page, chapter, name, target):
    anchor = page(f"notebooks/{chapter}").find(id=name)
    cell = anchor if "cell" in anchor.get("class", []) else anchor.find_parent(class_="cell")
    links = {link["href"] for link in cell.select(".nbdev-mark a")}
    assert any(link.startswith(f"{target}#sea_shells.") for link in links)
    entry = page(target.lstrip("./").removesuffix(".html")).find("dt", id=name)
    assert entry.select_one(".nbdev-origin a")["href"] == f"../notebooks/{chapter}.html#{name}"


def test_a_method_added_elsewhere_leads_back_to_the_cell_that_adds_it(page):
    """The class is another module's, and has the method once both modules are imported."""
    assert page("notebooks/deep/10_count").find(id="sea_shells.shells.Shell.twice") is not None


@pytest.mark.parametrize("name", ["Shell", "Shell.age"])
def test_backticks_lead_to_the_reference(page, name):
    links = {a.get_text(): a["href"] for a in page("notebooks/00_shells").select("p > a:has(code)")}
    assert links[name] == f"../reference/shells.html#sea_shells.shells.{name}"


def test_what_nbdev_shows_of_a_name_is_part_of_the_page(page):
    shown = page("notebooks/00_shells").find(class_="rubric", string="Shell").parent
    assert "cell_output" in shown["class"] and "A shell of so many rings." in shown.get_text()


def test_the_table_of_modules_names_each_with_its_purpose(page):
    rows = [row.get_text(" ", strip=True) for row in page("reference/modules").select("tbody tr")]
    assert rows == ["sea_shells.shells What lies on the beach", "sea_shells.deep.count How many"]


def test_the_address_is_the_projects(book):
    text = (book / "_build" / "html" / "notebooks" / "00_shells.html").read_text("utf8")
    assert (
        "colab.research.google.com/github/Somebody/sea-shells/blob/trunk/notebooks/00_shells.ipynb"
        in text
    )
    assert "https://somebody.github.io/sea-shells/notebooks/00_shells.html" in text


def test_the_pages_have_the_extensions_style(book):
    text = (book / "_build" / "html" / "notebooks" / "00_shells.html").read_text("utf8")
    assert "nbdev_book.css" in text
    assert (book / "_build" / "html" / "_static" / "nbdev_book.css").exists()


def test_no_file_names_the_book_in_whose_repository_it_lies():
    here = ROOT.parents[1]
    if not (here / "settings.ini").is_file():
        pytest.skip("this copy lies in no book's repository")
    texts = {
        path: path.read_text("utf8")
        for path in ROOT.rglob("*.*")
        if path.suffix in {".py", ".css", ".toml", ".md", ".ipynb", ".ini", ".yml"}
    }
    assert len(texts) > 20
    name = Project.load(here).package
    assert [path for path, text in texts.items() if name in text.lower()] == []
