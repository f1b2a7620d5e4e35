"""The address of a book: what is one, what follows from it, and which files change when it does."""

import json

import pytest
from nbdev_book.home import Home

ADDRESS = "https://github.com/Somebody/tiny-book"


@pytest.mark.parametrize(
    "address", ["tiny", "http://x.org/a/b", "https://github.com/a", "https://a/b/c/d"]
)
def test_what_is_no_address_of_a_repository_is_refused(address):
    with pytest.raises(ValueError, match="git_url must be empty or like"):
        Home(address)


def test_only_github_shows_pages_at_an_address_that_follows():
    assert Home(ADDRESS).site == "https://somebody.github.io/tiny-book/"
    assert Home("https://codeberg.org/a/b").site == Home("").site == ""


FIRST = {"cell_type": "code", "source": ['HOME = ""\n', "1 + 1"]}


def test_only_the_first_cell_of_code_learns_the_address():
    prose = {"cell_type": "markdown", "source": ['HOME = ""']}
    text = json.dumps({"cells": [prose, FIRST, FIRST]})
    cells = json.loads(Home(ADDRESS).write_notebook(text))["cells"]
    assert cells == [prose, FIRST | {"source": [f'HOME = "{ADDRESS}"\n', "1 + 1"]}, FIRST]


@pytest.mark.parametrize(
    "cells", [[], [{"cell_type": "code", "source": "\u00e9t\u00e9 = 1"}], [FIRST]]
)
def test_a_notebook_in_which_nothing_changes_stays_as_its_program_wrote_it(cells):
    text = json.dumps({"cells": cells}, indent=3, ensure_ascii=True)
    assert Home("").write_notebook(text) == text


def test_passages_of_a_text_follow_the_address_and_other_text_does_not():
    text = "A\n<!-- home: install -->\nold\n<!-- home -->\n<!-- other -->\nB\n"
    assert f"pip install git+{ADDRESS}" in Home(ADDRESS).write(text)
    assert "old" not in Home("").write(text)
    assert Home(ADDRESS).write("A\n<!-- other -->\n") == "A\n<!-- other -->\n"
