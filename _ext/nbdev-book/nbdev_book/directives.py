"""What nbdev's directives mean on a page: pure functions from a cell's text to myst-nb's vocabulary.

A directive is a comment such as ``#| export`` or ``#| fig-cap: Two series`` among the first lines of a code cell.
nbdev reads directives when it exports and tests; here they decide what a reader of the book sees.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

EXPORTS = {"export", "exporti", "exports"}
FLAGS = {"hide", "hide_input", "hide_output"}
SWITCHES = {"echo", "output", "include", "eval", "warning", "error", "code-fold"}
TEXTS = {"default_exp", "label", "fig-cap", "fig-alt", "code-summary"}
KNOWN = EXPORTS | FLAGS | SWITCHES | TEXTS

_DIRECTIVE = re.compile(r"^\s*#\s*\|\s*(?P<name>[\w-]*)\s*:?\s*(?P<value>.*?)\s*$")
_MAGIC = re.compile(r"^\s*%%\w")
_HIDDEN_LINE = re.compile(r"#\s*\|\s*hide_line\s*$")
_NBDEV_EXPORT = re.compile(r"(?:^|;)\s*(?:nbdev\.)?nbdev_export\(\s*\)", re.MULTILINE)


def split(source: str) -> tuple[dict[str, str], str]:
    """Separate a cell's directives from the code below them.

    As in nbdev, directives end at the first line of code, so a ``#|`` inside a string is safe. Cell magics may stand
    among the directives and belong to the code.
    """
    directives, magics = {}, []
    lines = source.split("\n")
    for number, line in enumerate(lines):
        if match := _DIRECTIVE.match(line):
            if match["name"]:
                directives[match["name"]] = _unquote(match["value"])
        elif _MAGIC.match(line):
            magics.append(line)
        elif line.strip():
            return directives, "\n".join(magics + lines[number:])
    return directives, "\n".join(magics)


def _unquote(value: str) -> str:
    """Drop the quotes that YAML wants around a caption with a colon."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


def is_off(directives: Mapping[str, str], name: str) -> bool:
    """Whether a switch such as ``eval`` is set to false."""
    return directives.get(name, "").lower() in {"false", "no"}


def is_on(directives: Mapping[str, str], name: str) -> bool:
    """Whether a switch such as ``code-fold`` is set to true."""
    return directives.get(name, "").lower() in {"true", "yes"}


def complaints(directives: Mapping[str, str], *, also_known: Collection[str] = ()) -> list[str]:
    """What is wrong with a cell's directives: a misspelt one would otherwise be silently without effect."""
    found = [
        f"unknown directive `{name}`"
        for name in directives
        if name not in KNOWN and name not in also_known
    ]
    for name in directives:
        if name in SWITCHES and not (is_on(directives, name) or is_off(directives, name)):
            if (name, directives[name]) != ("code-fold", "show"):
                found.append(f"`{name}` is true or false, not `{directives[name]}`")
        if name in TEXTS and not directives[name]:
            found.append(f"`{name}` needs a value")
    if "label" in directives and "fig-cap" not in directives:
        found.append(
            "`label` without `fig-cap`: only a figure with a caption has a number to refer to"
        )
    return found


def tags(directives: Mapping[str, str]) -> list[str]:
    """The myst-nb cell tags (and nbclient's ``skip-execution``) that do what the directives say."""
    wanted = {
        "remove-cell": "hide" in directives
        or "default_exp" in directives
        or is_off(directives, "include"),
        "remove-input": "hide_input" in directives or is_off(directives, "echo"),
        "remove-output": "hide_output" in directives or is_off(directives, "output"),
        "remove-stderr": is_off(directives, "warning"),
        "hide-input": is_on(directives, "code-fold"),
        "skip-execution": is_off(directives, "eval"),
        "raises-exception": is_on(directives, "error"),
    }
    return [tag for tag, is_wanted in wanted.items() if is_wanted]


def rendering(directives: Mapping[str, str]) -> dict:
    """The ``mystnb`` cell metadata for captions, alternative texts and the label of a folded cell."""
    options: dict = {}
    if caption := directives.get("fig-cap"):
        options["figure"] = {"caption": caption}
        if label := directives.get("label"):
            options["figure"]["name"] = label
    if alt := directives.get("fig-alt"):
        options["image"] = {"alt": alt}
    if summary := directives.get("code-summary"):
        options |= {"code_prompt_show": summary, "code_prompt_hide": summary}
    return options


def visible(code: str) -> str:
    """The code without the lines that end in ``#| hide_line``: they run, and are not shown."""
    return "\n".join(line for line in code.split("\n") if not _HIDDEN_LINE.search(line))


def writes_library(code: str) -> bool:
    """Whether this is the customary last cell, which exports the library. Building a page must not rewrite it."""
    return bool(_NBDEV_EXPORT.search(code))
