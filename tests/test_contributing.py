"""What is there for those who change the book: their page, their forms, their tools, and the workflows."""

import configparser
import json
import os
import re
import shutil
import subprocess
import tomllib

import pytest
import yaml
from conftest import ROOT
from test_house import GRAPH

SETTINGS = configparser.ConfigParser(interpolation=None)
SETTINGS.read_string((ROOT / "settings.ini").read_text("utf8"))
SETTINGS = SETTINGS["DEFAULT"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf8")
MAKE = (ROOT / "Makefile").read_text("utf8")

# The source distribution has no files whose name begins with a dot.
needs_clone = pytest.mark.skipif(
    not (ROOT / ".github").exists(), reason="only a clone has the files of GitHub"
)
WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text("utf8"))
    for path in (ROOT / ".github" / "workflows").glob("*.yml")
}


def test_the_citation_agrees_with_the_settings():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf8"))
    assert citation["cff-version"] == "1.2.0" and citation["message"]
    assert citation["version"] == SETTINGS["version"]
    assert citation["title"].startswith(f"{SETTINGS['title']}: ")
    assert citation["abstract"] == SETTINGS["description"] == PROJECT["description"]
    assert citation["keywords"] == SETTINGS["keywords"].split()
    assert [author["name"] for author in citation["authors"]] == [SETTINGS["author"]]
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    address = SETTINGS["git_url"].strip()
    assert citation.get("repository-code", "") == address


def test_the_page_names_files_and_commands_that_exist():
    text = re.sub(r"\s+", " ", PAGE)
    for target in re.findall(r"\bmake ([a-z]+)\b", PAGE):
        assert re.search(rf"^{target}:", MAKE, re.MULTILINE), target
    paths = [p for p in re.findall(r"`([\w./*-]+)`", text) if "/" in p or re.search(r"\.\w+$", p)]
    paths = [path for path in paths if not path.startswith((".venv/", "arbook."))]
    assert len(paths) > 8
    homes = [ROOT, ROOT / "arbook"]
    written = {"05_ngrams.py"}  # by the command beside it
    missing = [
        p
        for p in paths
        if p not in written and not any([*home.glob(p.rstrip("/"))] for home in homes)
    ]
    assert missing == []
    for name in re.findall(r"`(arbook\.\w+)`", text):
        assert (ROOT / f"{name.replace('.', '/')}.py").exists(), name


def storeys(picture: str) -> list[set[str]]:
    """The rooms on each line of the picture, from above; what stands far to the right says what they are for."""
    lines = [line[:56] for line in picture.splitlines()]
    return [set(re.findall(r"[a-z]+", line)) for line in lines if re.search("[a-z]", line)]


def wrong_in(rooms: list[set[str]], graph: dict[str, set[str]]) -> set[tuple[str, str]]:
    """The imports that lead up in a picture."""
    floor = {name: number for number, names in enumerate(rooms) for name in names}
    return {(name, other) for name in graph for other in graph[name] if floor[other] < floor[name]}


def test_the_picture_of_the_house_shows_every_room_once_and_nobody_imports_from_above():
    rooms = storeys(re.search(r"```text\n(.*?)```", PAGE, re.DOTALL)[1])
    graph = {name: imported for name, imported in GRAPH.items() if name != "__main__"}
    assert sorted(name for names in rooms for name in names) == sorted(graph)
    assert wrong_in(rooms, graph) == set()


@needs_clone
def test_every_form_asks_something_and_can_be_filled_in():
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[0-9]*.yml"))
    assert len(forms) == 3
    for path in forms:
        form = yaml.safe_load(path.read_text("utf8"))
        assert form["name"] and form["description"], path
        names = [part["id"] for part in form["body"]]
        assert len(names) == len(set(names)) >= 2
        for part in form["body"]:
            assert part["type"] in {"input", "textarea", "dropdown", "checkboxes"}
            assert part["attributes"]["label"]


@needs_clone
def test_a_review_skips_what_is_generated():
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("only a clone has attributes")
    command = ["git", "check-attr", "linguist-generated", "diff", "--"]
    names = ["arbook/ar.py", "arbook/_modidx.py", "nbs/01_least_squares.ipynb"]
    found = subprocess.run([*command, *names], cwd=ROOT, capture_output=True, text=True).stdout
    assert "arbook/ar.py: linguist-generated: set" in found
    assert "arbook/_modidx.py: diff: unset" in found
    assert "nbs/01_least_squares.ipynb: linguist-generated: unspecified" in found


@needs_clone
def test_hooks_before_a_commit_run_what_lint_runs():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf8"))["repos"][0][
        "hooks"
    ]
    entries = {hook["id"]: hook["entry"] for hook in hooks}
    for name, part in (
        ("export", "-m nbdev_book.sync"),
        ("ruff-check", "ruff check"),
        ("ruff-format", "ruff format"),
    ):
        assert part in entries[name] and part in MAKE
    assert entries["clean"].endswith("-m nbdev_book.sync --clear")
    assert all(hook["language"] == "system" for hook in hooks)  # nothing is downloaded
    pattern = next(hook["files"] for hook in hooks if hook["id"] == "export")
    for name in ("nbs/05_ngrams.ipynb", "arbook/ngram.py", "settings.ini", "references.bib"):
        assert re.search(pattern, name)
    assert not re.search(pattern, "tests/test_ngram.py")


@needs_clone
def test_the_container_has_a_python_that_the_library_takes():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf8"))
    version = re.search(r"python:(\d+\.\d+)", container["image"])[1]
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    target = re.search(r"make (\S+)$", container["updateContentCommand"])[1]
    assert f"{target.replace('.venv', '$(VENV)')}:" in MAKE


def waits_for(workflow: dict, job: str) -> set[str]:
    """The jobs that have to succeed before a job."""
    needs = workflow["jobs"][job].get("needs", [])
    needs = {needs} if isinstance(needs, str) else set(needs)
    return needs.union(*(waits_for(workflow, each) for each in needs))


@needs_clone
def test_nothing_is_published_before_the_tests_have_passed():
    pages = WORKFLOWS["pages"]
    publishing = [
        name
        for name, job in pages["jobs"].items()
        if any("deploy-pages" in step.get("uses", "") for step in job.get("steps", []))
    ]
    assert publishing == ["publish"]
    assert waits_for(pages, "publish") == {"tests"}
    assert "if" not in pages["jobs"]["publish"], (
        "a condition of its own would run it after a failure"
    )
    assert pages["jobs"]["tests"]["uses"] == "./.github/workflows/tests.yml"
    assert "workflow_call" in WORKFLOWS["tests"][True]  # YAML reads `on` as true
    assert any(step.get("run") == ".ci/run" for step in WORKFLOWS["tests"]["jobs"]["book"]["steps"])


@needs_clone
def test_every_promised_python_is_tested_and_the_oldest_packages_with_the_oldest():
    matrix = WORKFLOWS["tests"]["jobs"]["library"]["strategy"]["matrix"]
    promised = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    assert set(promised) <= set(matrix["python"])
    oldest = min(promised, key=lambda version: int(version.split(".")[1]))
    assert PROJECT["requires-python"] == f">={oldest}"
    assert {"python": oldest, "packages": "oldest"} in matrix["include"]


@needs_clone
def test_every_script_and_folder_that_a_workflow_runs_exists():
    scripts = 0
    for workflow in WORKFLOWS.values():
        for job in workflow["jobs"].values():
            for step in job.get("steps", []):
                command = step.get("run", "")
                for script in re.findall(r"^\.ci/\w+", command):
                    assert os.access(ROOT / script, os.X_OK), script
                    scripts += 1
                for folder in re.findall(r"'?\./(_ext/[\w-]+)", command):
                    assert (ROOT / folder / "pyproject.toml").exists()
                assert (ROOT / step.get("working-directory", ".")).is_dir()
    assert scripts >= 2


# Wrong examples


def test_an_import_from_above_is_found_in_a_picture():
    picture = "  cli        the command of all\n  ar ── leastsquares     series\n"
    rooms = storeys(picture.replace("the", " " * 50 + "the").replace("series", " " * 40 + "series"))
    assert rooms == [{"cli"}, {"ar", "leastsquares"}]
    assert wrong_in(rooms, {"cli": {"ar"}, "ar": {"leastsquares"}}) == set()
    assert wrong_in(rooms, {"ar": {"cli"}}) == {("ar", "cli")}


def test_a_job_that_does_not_wait_is_found():
    jobs = {"tests": {}, "build": {"needs": ["tests"]}, "publish": {"needs": "build"}, "hasty": {}}
    assert waits_for({"jobs": jobs}, "publish") == {"tests", "build"}
    assert waits_for({"jobs": jobs}, "hasty") == set()
