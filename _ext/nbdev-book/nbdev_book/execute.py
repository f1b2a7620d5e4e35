"""Run the notebooks whose results are not in the execution cache, several at a time.

Sphinx reads documents one after the other, and would run their notebooks one after the other. This command fills the
same cache beforehand, through the same reader, so that Sphinx finds every result there.

    python -m nbdev_book.execute --cache _build/.jupyter_cache
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn, JupyterCacheAbstract
from nbclient import NotebookClient
from nbformat import NotebookNode

from .project import Project, find_notebooks
from .reader import read

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Run:
    """A notebook that has run."""

    path: Path
    notebook: NotebookNode
    seconds: float
    error: str | None


def is_cached(notebook: NotebookNode, cache: JupyterCacheAbstract) -> bool:
    """Whether the cache holds results of exactly this code, with exactly these inputs."""
    try:
        cache.match_cache_notebook(notebook)
    except KeyError:
        return False
    return True


def run(path: Path, notebook: NotebookNode, timeout: float) -> Run:
    """Run a notebook in its own folder, at most ``timeout`` seconds in all."""
    start = time.monotonic()
    client = NotebookClient(
        notebook,
        resources={"metadata": {"path": str(path.parent)}},
        timeout_func=lambda cell: max(1, int(start + timeout - time.monotonic())),
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],  # of the kernel itself, not of the notebook
    )
    error = None
    try:
        client.execute()
    except (
        Exception
    ) as failure:  # whatever happens to one notebook, the others finish and the report is printed
        error = f"{type(failure).__name__}: {failure}"
    return Run(path, notebook, time.monotonic() - start, error)


def available_cores() -> int:
    """How many cores this process may use, which a container or `taskset` can make fewer than the machine has."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


def run_all(notebooks: dict[Path, NotebookNode], *, workers: int, timeout: float) -> Iterator[Run]:
    """Run notebooks in parallel and yield each when it is done. The workers share the cores evenly."""
    threads = max(1, available_cores() // workers)
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, str(threads))  # inherited by the kernels
    with ProcessPoolExecutor(workers) as pool:
        futures: list[Future[Run]] = [
            pool.submit(run, path, nb, timeout) for path, nb in notebooks.items()
        ]
        for future in as_completed(futures):
            yield future.result()


def report(done: Run, root: Path) -> str:
    """One line for a notebook that ran, the traceback of one that failed. Colours only on a terminal."""
    line = f"{done.seconds:6.1f} s  {done.path.relative_to(root)}"
    if done.error is None:
        return line
    text = f"{line}  FAILED\n{done.error}"
    return text if sys.stdout.isatty() else _COLOURS.sub("", text)


def main(arguments: list[str] | None = None) -> int:
    """Run what is stale; the exit status says whether all is well."""
    parser = argparse.ArgumentParser(
        prog="python -m nbdev_book.execute", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(),
        help="the root of the nbdev project (default: this folder)",
    )
    parser.add_argument(
        "--cache", type=Path, default=Path("_build/.jupyter_cache"), help="the execution cache"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=available_cores(),
        help="notebooks at a time (default: cores)",
    )
    parser.add_argument(
        "--timeout", type=float, default=300, help="seconds for one notebook (default: 300)"
    )
    options = parser.parse_args(arguments)

    project = Project.load(options.root)
    cache = get_cache(str(options.cache))
    notebooks = {
        path: read(path.read_text("utf8"), str(project.root)) for path in find_notebooks(project)
    }
    stale = {
        path: notebook for path, notebook in notebooks.items() if not is_cached(notebook, cache)
    }
    print(f"{len(notebooks)} notebooks, {len(stale)} to run", flush=True)

    failures = 0
    for done in run_all(
        stale, workers=min(options.workers, len(stale) or 1), timeout=options.timeout
    ):
        print(report(done, project.root), flush=True)
        if done.error is None:
            bundle = CacheBundleIn(
                done.notebook, str(done.path), data={"execution_seconds": done.seconds}
            )
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
        else:
            failures += 1
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
