"""What the pages load, made lighter once they are written.

The theme loads a script of 1.5 MB that knows two thousand icons, for the dozen that the pages show: each of them is
drawn into its page instead. And it brings style rules for everything that a site may use; those for classes that no
page and no script of this site mentions are left out.
"""

from __future__ import annotations

import re
from pathlib import Path

import tinycss2
from sphinx.application import Sphinx
from tinycss2.ast import Node

ICONS = "_static/scripts/fontawesome.js"
STYLES = {"fab": 0, "fa-brands": 0, "far": 1, "fa-regular": 1, "fas": 2, "fa-solid": 2, "fa": 2}
_ICON = re.compile(r'<(i|span) class="([^"]*\bfa-[^"]*)"((?:\s+[\w-]+="[^"]*")*)\s*></\1>')
_SET = re.compile(
    r"=\{[\w\"-]+:\[\d+,\d+,"
)  # where each of the sets begins: brands, regular, solid
_LOADER = re.compile(r"[^\S\n]*<script[^>]*scripts/fontawesome\.js[^>]*></script>\n?")


class Icons:
    """The icons in Font Awesome's script."""

    def __init__(self, script: str):
        starts = [match.start() for match in _SET.finditer(script)]
        self.sets = [
            script[start:end] for start, end in zip(starts, [*starts[1:], len(script)], strict=True)
        ]

    def find(self, style: int, name: str) -> tuple[str, str, str] | None:
        """Width, height and path of an icon, by its name or by one of its other names."""
        entry = r'(\d+),(\d+),\[{}\],"\w+","([^"]+)"'
        own = rf'[{{,]"?{re.escape(name)}"?:\[' + entry.format(r"[^\]]*")
        other = r":\[" + entry.format(rf'[^\]]*"{re.escape(name)}"[^\]]*')
        found = re.search(own, self.sets[style]) or re.search(other, self.sets[style])
        return found and found.groups()

    def draw(self, text: str) -> str:
        """A page with its icons drawn, as the script would have done in the reader's browser."""

        def picture(icon: re.Match) -> str:
            classes = icon[2].split()
            style = next((STYLES[name] for name in classes if name in STYLES), None)
            names = [name[3:] for name in classes if name.startswith("fa-") and name not in STYLES]
            shape = style is not None and next(
                filter(None, (self.find(style, n) for n in names)), None
            )
            if not shape:
                return icon[0]
            width, height, path = shape
            kept = " ".join(name for name in classes if name not in STYLES)
            mode = re.sub(r'\stitle="[^"]*"', "", icon[3])  # the button around it has a name
            return (
                f'<svg class="svg-inline--fa {kept}"{mode} aria-hidden="true" viewBox="0 0 {width} {height}">'
                f'<path fill="currentColor" d="{path}"/></svg>'
            )

        return _ICON.sub(picture, text)


def classes(selector: list[Node]) -> set[str]:
    """The classes that an element must have if a selector matches it; what is in `:not()` or `:is()` is no must."""
    pairs = zip(selector, selector[1:], strict=False)
    return {name.value for dot, name in pairs if dot == "." and name.type == "ident"}


def used_rules(rules: list[Node], words: set[str]) -> str:
    """The rules of a style sheet that can match where only `words` occur as classes, and the notices of its authors."""
    kept = []
    for rule in rules:
        if rule.type == "comment":
            kept += [rule.serialize()] * rule.value.startswith("!")
        elif rule.type == "qualified-rule":
            selectors: list[list[Node]] = [[]]
            for part in rule.prelude:
                selectors.append([]) if part == "," else selectors[-1].append(part)
            matching = [
                tinycss2.serialize(one).strip() for one in selectors if classes(one) <= words
            ]
            if matching:
                kept.append(f"{','.join(matching)}{{{tinycss2.serialize(rule.content).strip()}}}")
        elif rule.type == "at-rule" and rule.lower_at_keyword in {"media", "supports"}:
            inner = used_rules(tinycss2.parse_rule_list(rule.content, skip_whitespace=True), words)
            if inner:
                kept.append(f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{inner}}}")
        elif rule.type != "whitespace":
            kept.append(rule.serialize())
    return "\n".join(kept)


def lighten(root: Path) -> None:
    """Draw the icons into the pages below `root`, and keep the style rules that something can match."""
    script = root / ICONS
    pages = [path for path in root.rglob("*.html") if "_static" not in path.parts]
    if script.exists():
        icons = Icons(script.read_text("utf8"))
        for page in pages:
            page.write_text(_LOADER.sub("", icons.draw(page.read_text("utf8"))), "utf8")
        for file in (script, script.with_suffix(".js.map")):  # but not the licence of the icons
            file.unlink()
    words: set[str] = set()
    for file in [*pages, *root.rglob("*.js")]:
        words |= set(re.findall(r"[\w-]+", file.read_text("utf8")))
    for sheet in root.rglob("*.css"):
        rules = tinycss2.parse_stylesheet(sheet.read_text("utf8"), skip_whitespace=True)
        sheet.write_text(used_rules(rules, words), "utf8")


def finish(app: Sphinx, error: Exception | None) -> None:
    if not error and app.builder.format == "html":
        lighten(Path(app.outdir))


def setup(app: Sphinx) -> dict:
    app.connect("build-finished", finish, priority=950)  # when nothing changes the pages any more
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}
