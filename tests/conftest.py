"""What the tests share: where things are, a browser, when a missing tool may be skipped, and no clock."""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]

# No test depends on how fast or how busy the machine is.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")

# A shell switches Ctrl-C off for what it starts in the background, and programs that tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# PyTorch's compiler keeps what it has compiled, and does not ask whether it was for this processor.
kept = f"arbook-inductor-{os.getuid()}-{os.environ.get('ATEN_CPU_CAPABILITY', 'native')}"
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir(), kept)))


def count_calls(function: Callable, *arguments: Any) -> int:
    """Count the functions that Python calls on the way: work per item in Python shows, and no load does."""
    calls, before = 0, sys.getprofile()

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        function(*arguments)
    finally:
        sys.setprofile(before)
    return calls


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


@pytest.fixture
def processor(monkeypatch):
    """Pretend to have a processor with so many times the speed in bfloat16; None: it cannot."""

    import torch
    from arbook import machines

    def have(gain: float | None) -> None:
        def rate(device, dtype, **options):
            if dtype == torch.bfloat16 and gain is None:
                raise RuntimeError("could not create a primitive descriptor")
            return 1e9 * (gain if dtype == torch.bfloat16 else 1.0)

        machines._bfloat16_gain.cache_clear()
        monkeypatch.setattr(machines, "matmul_rate", rate)

    yield have
    machines._bfloat16_gain.cache_clear()
