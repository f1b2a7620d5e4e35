"""What the measurements share: where they ran, and how their records are written."""

import datetime
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from arbook.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]


def peak_mb() -> float:
    """Return the most memory that this program has held so far, in MB.

    Linux counts it anew for each program. What `getrusage` says is inherited: a small child of a large process seems
    large.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        if lines:
            return int(lines[0].split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def provenance(script: str, packages: Sequence[str], note: str) -> dict:
    """Say when, where and with what a script ran."""
    import torch  # here, not above: a measurement of memory must not pay for it
    from arbook.runs import code_revision, device_name

    return {
        "date": datetime.date.today().isoformat(),
        "command": f"python -m bench.{script}",
        "revision": code_revision(),
        "processor": device_name(torch.device("cpu")),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "note": note,
    }


def write(path: Path, record: dict) -> None:
    """Write a record as JSON, whole or not at all."""
    write_atomically(path, json.dumps(record, indent=1) + "\n")
    print(f"\nwritten to {path.relative_to(ROOT)}")


def run_apart(script: str, *arguments: object) -> dict:
    """Run `python -m bench.SCRIPT ARGUMENTS` in a process of its own, and read the JSON that it prints."""
    command = [sys.executable, "-m", f"bench.{script}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)
