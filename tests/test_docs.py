"""The examples in the docstrings: they are run, for every module."""

import doctest
import importlib
import pkgutil

import arbook
import pytest

MODULES = sorted(m.name for m in pkgutil.iter_modules(arbook.__path__) if m.name[0] != "_")
WITHOUT = {"cli", "plots"}  # a command shows its examples in the appendix, a figure on the pages


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_docstrings_are_right(name):
    result = doctest.testmod(importlib.import_module(f"arbook.{name}"))
    assert result.failed == 0 and (result.attempted > 0 or name in WITHOUT)
