"""What the sources of the pages say, without running them."""

import json
import re
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "nbs").glob("*.ipynb"))
READ = [path for path in NOTEBOOKS if path.stem[:2] in {"06", "07", "08", "09", "10", "11", "a3"}]
pages = pytest.mark.parametrize("path", READ, ids=lambda path: path.stem)


def cells(path):
    return ["".join(cell["source"]) for cell in json.loads(path.read_text("utf-8"))["cells"]]


@pages
def test_pages_and_docstrings_refer_to_nothing_that_a_reader_cannot_find(path):
    codes = r"\((?:[SE]\d+[a-g]?|A9)(?:, |\))|\bchecklist row\b|\b[Ll]ecture \[\d\]"
    assert not [source for source in cells(path) if re.search(codes, source)]


@pages
def test_captions_name_nothing_by_a_shade_that_the_dark_mode_inverts(path):
    shown = re.findall(r"^#\| fig-(?:cap|alt): .*$", "\n".join(cells(path)), re.MULTILINE)
    shades = r"\b(?:black|white|dark|light|darker|lighter)\b"
    assert not [line for line in shown if re.search(shades, line, re.IGNORECASE)]


@pages
def test_a_text_that_may_be_missing_has_two_fallbacks_and_is_named_where_it_is_loaded(path):
    for source in cells(path):
        loads = re.findall(r'data\.(?:splits|text)\("(?:tinyshakespeare|ptb)"(.*?)\)\n', source)
        assert all('fallback=("shakespeare", "pydoc")' in f"{rest})" for rest in loads)
        if loads:
            name = re.search(r"^(\w+) = data\.splits", source, re.MULTILINE)[1]
            assert source.splitlines()[-1] == name  # the value of the cell is what is shown
