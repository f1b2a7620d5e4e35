"""What the tests share: where things are, a browser, and when a missing tool may be skipped."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "_ext"))


def unavailable(reason: str) -> None:
    """Skip what this machine cannot do. Continuous integration can do everything, so there it is a failure."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built book."""
    folder = ROOT / "_build" / "html"
    if not (folder / ".complete").exists():
        unavailable("the book is not built; build it with: make book")
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Chromium from the system's packages, driven through Playwright."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        unavailable("Chromium is missing; install it with: apt-get install chromium")
    with playwright.sync_playwright() as session:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        chromium = session.chromium.launch(executable_path=program, args=arguments)
        yield chromium
        chromium.close()
