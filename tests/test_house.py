"""The house: who may import whom, how large a room is, what stands at the front door, and whether its lists agree.

A list of exceptions here only shrinks: it says what is not yet so, and an entry that is no longer needed fails a test
until it is taken off.
"""

import ast
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

MODELS = {
    "ngram", "recurrent", "transformer", "decoders", "distributions", "conditioning", "bidirectional",
}  # fmt: skip
USERS = {"rules", "sampling", "perplexity", "training", "compression"}
# On top of all: nobody imports `plots` or `check`, only the command imports the workshop, and nobody the command.
ROOF = {"plots": set(), "check": set(), "workshop": {"cli"}, "cli": {"__main__"}}

# What is not yet so.
STILL_UPWARDS: set[tuple[str, str]] = set()
STILL_KNOW_A_MODEL: set[tuple[str, str]] = set()
STILL_TWICE: set[str] = set()
STILL_LONG: dict[str, int] = {}
STILL_LARGE: dict[str, int] = {}
STILL_MANY: dict[str, int] = {}
STILL_IN_ALL = 0
STILL_UNLISTED: dict[str, set[str]] = {"README.md": set(), "index.md": set()}

# How large a room may be, and how many names it may show at its door.
LINES, CLASS_LINES, NAMES = 1_200, 150, 387  # 348 up to chapter 12; chapters 13 to 15 brought 39
MOST_NAMES = {
    "ar": 34, "leastsquares": 6, "tables": 4, "sources": 8, "data": 16, "tokens": 12, "encodings": 16, "micro": 22,
    "plots": 11, "training": 12, "runs": 16, "cli": 1, "workshop": 8, "rules": 24, "sampling": 24, "decoders": 4,
    "transformer": 18, "ngram": 13, "counting": 6, "arpa": 4, "compression": 20, "objective": 20, "conformance": 4,
    "recurrent": 20, "perplexity": 10, "guards": 12, "files": 10, "steps": 14, "checkpoints": 10, "machines": 6,
    "losses": 5, "live": 1, "distributions": 16, "check": 2, "conditioning": 14, "exposure": 11, "bidirectional": 14,
}  # fmt: skip
OTHERWISE = 20  # a chapter to come
# What users find in a module, wherever in the house it is made: only these may stand at a second door.
PROMISED = {
    "ar": {
        "DirectAR", "LinearAR", "Persistence", "SeasonalNaive", "backtest", "lag_matrix", "select_order", "simulate",
    },
    "tokens": {"BPETokenizer", "CharTokenizer", "WordTokenizer"},
    "objective": {
        "IGNORE", "LanguageModel", "autoregressive_loss", "compute_perplexity", "cross_entropy_gradient",
        "linear_cross_entropy", "perplexity", "squared_loss",
    },
    "ngram": {"ABSENT", "Level", "NGramCounts", "NGramLM", "UNSEEN", "count_ngrams", "rank_keys"},
    "recurrent": {"LSTMConfig", "LSTMLM"},
    "transformer": {"GPT", "GPTConfig", "KVCache"},
    "training": {"TrainConfig", "TrainResult", "load_model", "recorded_model", "save_model", "train"},
    "runs": {"load_model", "recorded_model", "save_model"},
    "sampling": {
        "Chain", "Generation", "Greedy", "MinP", "RepetitionPenalty", "Temperature", "TopK", "TopP", "Typical",
        "beam_search", "generate", "greedy_decode", "sample_next_token", "speculative_generate", "stream",
    },
    "perplexity": {"Score", "score"},
    "compression": {"compress", "decompress"},
    "data": {"GrammarSource", "MarkovSource", "available", "series", "splits", "text"},
}  # fmt: skip


@dataclass(frozen=True)
class Room:
    """A module of the library, as its text shows it."""

    source: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @cached_property
    def exported(self) -> list[str]:
        """The names of ``__all__``."""
        return [name for value in self._assigned("__all__") for name in ast.literal_eval(value)]

    @cached_property
    def defined(self) -> set[str]:
        """The names that the module itself makes at its top, and does not import."""
        names = set()
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            else:
                parts = [part for part in ast.walk(node) if isinstance(part, ast.Name)]
                names |= {part.id for part in parts if isinstance(part.ctx, ast.Store)}
        return names

    @cached_property
    def taken(self) -> set[str]:
        """The names that it imports at its top."""
        nodes = [node for node in self.tree.body if isinstance(node, ast.ImportFrom)]
        return {alias.asname or alias.name for node in nodes for alias in node.names}

    def _assigned(self, name: str) -> list[ast.expr]:
        assignments = [node for node in self.tree.body if isinstance(node, ast.Assign)]
        return [a.value for a in assignments if ast.unparse(a.targets[0]) == name]

    def imports(self, package: str, front: dict[str, str]) -> set[str]:
        """The modules of the package that are imported anywhere in it: at its top, in functions, for types only, by
        the name of a module or through the front."""
        found = set()
        for node in ast.walk(self.tree):
            match node:
                case ast.Import(names=names):
                    found |= {alias.name for alias in names}
                case ast.ImportFrom(module=module, names=names, level=level):
                    origin = ".".join(filter(None, [package if level else "", module]))
                    found |= {f"{origin}.{alias.name}" for alias in names}
                case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name == package:
                    found.add(f"{package}.{attribute}")
                case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
                    if ast.unparse(function).rpartition(".")[2] in {"import_module", "__import__"}:
                        found.add(f"{package}{name}" if name.startswith(".") else name)
        parts = [name.split(".")[1] for name in found if name.startswith(f"{package}.")]
        return {front.get(part, part) for part in parts} - {""}


def front_of(stub: str) -> dict[str, str]:
    """The module from which the front takes each of its names; of a module, itself."""
    nodes = [node for node in ast.parse(stub).body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or alias.name for node in nodes for alias in node.names}


def arrows(rooms: dict[str, Room], front: dict[str, str]) -> dict[str, set[str]]:
    """Which modules each module imports."""
    return {
        name: (room.imports("arbook", front) & rooms.keys()) - {name}
        for name, room in rooms.items()
    }


def floors_of(toc: dict, modules: dict[str, str]) -> dict[str, int]:
    """The floor of each module: the number of its chapter; 0 for pages without a number, the ground."""
    floors, number = {}, 0
    for part in toc["parts"]:
        for chapter in part["chapters"]:
            number += bool(part.get("numbered"))
            pages = [chapter, *chapter.get("sections", [])]
            for module in (modules[page["file"]] for page in pages if page["file"] in modules):
                floors[module] = number if part.get("numbered") else 0
    return floors


def upwards(graph: dict[str, set[str]], floors: dict[str, int]) -> set[tuple[str, str]]:
    """The arrows that lead to a later chapter, or from the ground to a chapter, and those into the roof."""
    found = set()
    for name, imported in graph.items():
        for other in imported:
            is_up = name not in ROOF and floors[other] > floors[name]
            if is_up or (other in ROOF and name not in ROOF[other]):
                found.add((name, other))
    return found


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """The modules that are loaded with one."""
    found, waiting = set(), [start]
    while waiting:
        for other in graph[waiting.pop()] - found:
            found.add(other)
            waiting.append(other)
    return found


def circles(graph: dict[str, set[str]]) -> set[str]:
    """The modules that lead back to themselves."""
    return {name for name in graph if name in reachable(graph, name)}


def models_known(graph: dict[str, set[str]]) -> set[tuple[str, str]]:
    """Who uses models of any kind, and yet loads one of them, itself or by way of others."""
    users = sorted(USERS & graph.keys())
    return {(user, model) for user in users for model in reachable(graph, user) & MODELS}


def defined_twice(rooms: dict[str, Room]) -> set[str]:
    """The public names that two modules make, or that one takes from another without a promise."""
    found, seen = set(), set()
    for module, room in rooms.items():
        for name in room.exported:
            if name in room.defined or name not in PROMISED.get(module, ()):
                found |= {name} & seen
                seen.add(name)
    return found


def public(rooms: dict[str, Room]) -> dict[str, int]:
    """How many names each module shows at its door, without those that it keeps by promise."""
    return {
        module: len(
            [n for n in room.exported if n in room.defined or n not in PROMISED.get(module, ())]
        )
        for module, room in rooms.items()
    }


def classes(rooms: dict[str, Room]) -> dict[str, int]:
    """The number of lines of each class."""
    return {
        f"{module}.{node.name}": node.end_lineno - node.lineno + 1
        for module, room in rooms.items()
        for node in ast.walk(room.tree)
        if isinstance(node, ast.ClassDef)
    }


def above(
    found: dict[str, int], bound: dict[str, int] | int, still: dict[str, int]
) -> dict[str, int]:
    """What is larger than its bound, and than what it is known to be."""
    return {
        name: size
        for name, size in found.items()
        if size
        > max(bound if isinstance(bound, int) else bound.get(name, OTHERWISE), still.get(name, 0))
    }


def done(found: dict[str, int], bound: dict[str, int] | int, still: dict[str, int]) -> set[str]:
    """The exceptions that are no longer needed."""
    limits = {
        name: bound if isinstance(bound, int) else bound.get(name, OTHERWISE) for name in still
    }
    return {name for name in still if found.get(name, 0) <= limits[name]}


# This house

ROOMS = {
    path.stem: Room(path.read_text("utf8"))
    for path in sorted((ROOT / "arbook").glob("*.py"))
    if path.stem not in {"__init__", "_modidx"}
}
PUBLIC = {name: room for name, room in ROOMS.items() if name != "__main__"}
FRONT = front_of((ROOT / "arbook" / "__init__.pyi").read_text("utf8"))
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text("utf8"))
GRAPH = arrows(ROOMS, FRONT)


def exports(path: Path) -> str | None:
    """The module that a notebook exports; an idea page exports none."""
    cells = json.loads(path.read_text("utf8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    found = re.search(r"^#\| default_exp (\w+)$", text, re.MULTILINE)
    return found and found[1]


PAGES = {f"nbs/{path.stem}": exports(path) for path in sorted((ROOT / "nbs").glob("*.ipynb"))}
MODULES = {page: module for page, module in PAGES.items() if module}
FLOORS = floors_of(TOC, MODULES) | {"__main__": 0}
NUMBERS = floors_of(
    TOC, {page: page for page in PAGES}
)  # of the chapter that a page belongs to, or 0


def in_toc(kind: str) -> list[str]:
    """The pages of the table of contents in a folder, in its order."""
    return re.findall(rf"file: ({kind}/\S+)", (ROOT / "_toc.yml").read_text("utf8"))


def test_a_module_imports_only_earlier_chapters_its_own_and_the_ground():
    graph = {name: imported for name, imported in GRAPH.items() if name != "__main__"}
    assert upwards(graph, FLOORS) == STILL_UPWARDS
    assert GRAPH["__main__"] == {"cli"}


def test_no_module_leads_back_to_itself():
    assert circles(GRAPH) == set()


def test_who_uses_any_model_knows_none():
    assert models_known(GRAPH) == STILL_KNOW_A_MODEL


def test_a_public_name_belongs_to_one_module():
    assert defined_twice(PUBLIC) == STILL_TWICE


def test_what_users_find_in_a_module_stays_there_wherever_it_is_made():
    for module, names in PROMISED.items():
        room = PUBLIC[module]
        assert names - room.defined - room.taken == set(), module


def test_a_module_shows_only_so_many_names():
    assert above(public(PUBLIC), MOST_NAMES, STILL_MANY) == {}
    assert done(public(PUBLIC), MOST_NAMES, STILL_MANY) == set()


def test_the_library_shows_only_so_many_names():
    # A chapter to come has names of its own.
    rooms = [room for module, room in PUBLIC.items() if module in MOST_NAMES]
    shown = {name for room in rooms for name in room.exported}
    assert len(shown) <= max(NAMES, STILL_IN_ALL)
    assert STILL_IN_ALL == 0 or len(shown) > NAMES, "the exception is no longer needed"


def test_a_module_and_a_class_have_only_so_many_lines():
    lines = {name: len(room.source.splitlines()) for name, room in ROOMS.items()}
    assert above(lines, LINES, STILL_LONG) == {}
    assert done(lines, LINES, STILL_LONG) == set()
    assert above(classes(ROOMS), CLASS_LINES, STILL_LARGE) == {}
    assert done(classes(ROOMS), CLASS_LINES, STILL_LARGE) == set()


def mypy(*arguments: str) -> list[str]:
    """What mypy has against some code, by the settings of this project."""
    command = [Path(sys.executable).with_name("mypy"), "--no-error-summary", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode in (0, 1) and not result.stderr, result  # 1: there are errors
    return [line for line in result.stdout.splitlines() if ": error: " in line]


@pytest.mark.slow
def test_types_hold_in_every_module():
    assert mypy() == []


@pytest.mark.slow
def test_a_wrong_type_is_found_also_where_nothing_is_annotated(tmp_path):
    text = "def f():\n    x: int = 'a'\n    return x.upper()  # type: ignore\n"
    (tmp_path / "wrong.py").write_text(text)
    found = mypy(str(tmp_path / "wrong.py"))
    assert [line.rpartition("  [")[2] for line in found] == ["assignment]", "ignore-without-code]"]


def silenced(source: str) -> list[str]:
    """The lines that silence a type checker without saying about what, and why: behind it, or in a comment above."""
    lines = source.splitlines()
    found = []
    for before, line in zip(["", *lines], lines, strict=False):
        asked = re.search(r"# type: ignore(\[[\w, -]+\])?(  # \S)?", line)
        if asked and not (asked[1] and (asked[2] or before.lstrip().startswith("#"))):
            found.append(line.strip())
    return found


def test_no_type_checker_is_silenced_without_a_reason():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["tool"]["mypy"]
    assert settings["check_untyped_defs"] and settings["packages"] == ["arbook"]
    quiet = {"ignore_errors", "follow_imports", "exclude", "disable_error_code"}
    assert [part for part in [settings, *settings["overrides"]] if part.keys() & quiet] == []
    assert {
        name: silenced(room.source) for name, room in ROOMS.items() if silenced(room.source)
    } == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x = f()  # type: ignore[misc]  # torch says so", 0),
        ("# torch says so\nx = f()  # type: ignore[misc]", 0),
        ("x = f()  # type: ignore[misc]", 1),
        ("x = f()  # type: ignore", 1),
        ("# torch says so\nx = f()  # type: ignore", 1),
    ],
)
def test_a_type_checker_that_is_silenced_is_found(text, found):
    assert len(silenced(text)) == found


# Its lists


def test_every_notebook_stands_in_the_table_of_contents_and_every_module_has_one_notebook():
    assert sorted(in_toc("nbs")) == sorted([*PAGES, "nbs/notation"])
    assert sorted(MODULES.values()) == sorted(PUBLIC)


def test_a_notebook_without_a_module_exports_nothing():
    """Cells of an idea page that were meant for the library would be lost without a word."""
    for page in PAGES.keys() - MODULES.keys():
        assert "#| export" not in (ROOT / f"{page}.ipynb").read_text("utf8"), page


def test_every_module_has_its_page_in_the_reference():
    stems = sorted(path.stem for path in (ROOT / "api").glob("*.md"))
    assert sorted(in_toc("api")) == [f"api/{stem}" for stem in stems]
    assert stems == sorted([*PUBLIC, "index"])
    for name in PUBLIC:
        page = f"# `arbook.{name}`\n\n```{{eval-rst}}\n.. nbdev-module:: arbook.{name}\n```\n"
        assert (ROOT / "api" / f"{name}.md").read_text("utf8") == page


def test_every_module_but_plots_is_offered_by_the_front():
    assert {name for name, module in FRONT.items() if name == module} == PUBLIC.keys() - {"plots"}


def test_every_module_has_tests_of_its_own():
    assert [name for name in PUBLIC if not (ROOT / "tests" / f"test_{name}.py").exists()] == []


def rows(text: str, pattern: str) -> list[str]:
    """What the first column of a table names, in its order."""
    return re.findall(rf"^\| {pattern}", text, re.MULTILINE)


def chapters_of(toc: dict) -> dict[str, str]:
    """The chapter of each page, by its first page, in the order of the table of contents."""
    chapters = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    return {
        page["file"]: chapter["file"]
        for chapter in chapters
        for page in [chapter, *chapter.get("sections", [])]
        if page["file"] in PAGES
    }


def test_the_readme_lists_every_module_once_chapters_in_the_order_of_the_book():
    named = rows((ROOT / "README.md").read_text("utf8"), r"`arbook\.(\w+)`")
    assert len(named) == len(set(named))
    assert PUBLIC.keys() - set(named) == STILL_UNLISTED["README.md"]
    assert set(named) <= PUBLIC.keys()
    chapters = [name for name in named if FLOORS[name]]
    assert [FLOORS[name] for name in chapters] == sorted(FLOORS[name] for name in chapters)


def test_the_front_page_lists_every_chapter_in_the_order_of_the_book():
    chapter_of = chapters_of(TOC)
    named = rows((ROOT / "index.md").read_text("utf8"), r"\{doc\}`[^<`]+ <(nbs/\w+)>`")
    assert len(named) == len(set(named))
    listed = {chapter_of[page] for page in named}
    assert set(chapter_of.values()) - listed == STILL_UNLISTED["index.md"]
    numbered = [page for page in chapter_of if NUMBERS[page]]
    assert [p for p in named if p in numbered] == [p for p in numbered if p in named]


def test_the_front_page_counts_chapters_as_the_book_does():
    text = (ROOT / "index.md").read_text("utf8")
    numbers = {page: int(n) for n, page in re.findall(r"\{doc\}`(\d+) [^<`]+ <(nbs/\w+)>`", text)}
    assert numbers == {page: NUMBERS[page] for page in numbers}
    assert len(numbers) + len(STILL_UNLISTED["index.md"]) == max(FLOORS.values())


def left_to_write(texts: dict[str, str]) -> dict[str, int]:
    """How many marks of the skeleton that `make chapter` writes are left in each file."""
    counts = {name: text.count("TO " + "WRITE") for name, text in texts.items()}
    return {name: count for name, count in counts.items() if count}


def test_nothing_of_a_new_chapter_is_left_to_write():
    pages = [
        *ROOT.glob("nbs/*.ipynb"),
        ROOT / "README.md",
        ROOT / "index.md",
        *ROOT.glob("tests/test_*.py"),
    ]
    texts = {str(path.relative_to(ROOT)): path.read_text("utf8") for path in pages}
    assert left_to_write({n: t for n, t in texts.items() if n != "tests/test_chapter.py"}) == {}


# Wrong houses: every rule finds what it is there to find


def house(**sources: str) -> dict[str, Room]:
    return {name: Room(source) for name, source in sources.items()}


@pytest.mark.parametrize(
    "line",
    [
        "from arbook.sampling import generate",
        "from .sampling import generate",
        "from . import sampling",
        "from arbook import sampling as s",
        "from arbook import generate",
        "import arbook.sampling",
        "import arbook.sampling as s",
        "import arbook\narbook.generate",
        "import arbook\narbook.sampling.generate",
        "def f():\n    from .sampling import generate",
        "class A:\n    def f(self):\n        import arbook.sampling",
        "if TYPE_CHECKING:\n    from arbook.sampling import generate",
        "import importlib\nimportlib.import_module('arbook.sampling')",
        "__import__('arbook.sampling')",
    ],
)
def test_an_import_is_seen_wherever_and_however_it_is_written(line):
    front = front_of(
        "from . import sampling as sampling\nfrom .sampling import generate as generate"
    )
    rooms = house(ar=f"import numpy\n{line}", sampling="")
    assert arrows(rooms, front) == {"ar": {"sampling"}, "sampling": set()}
    floors = {"ar": 1, "sampling": 9}
    assert upwards(arrows(rooms, front), floors) == {("ar", "sampling")}


@pytest.mark.parametrize(
    "line", ["import arbookish.sampling", "sampling = 1", "# from .sampling import x", "'sampling'"]
)
def test_what_is_no_import_is_none(line):
    assert arrows(house(ar=line, sampling=""), {}) == {"ar": set(), "sampling": set()}


SMALL = {
    "parts": [
        {"chapters": [{"file": "nbs/notation"}]},
        {"numbered": True, "chapters": [{"file": "nbs/01", "sections": [{"file": "nbs/01b"}]}, {"file": "nbs/02"}]},
        {"chapters": [{"file": "nbs/a1"}]},
        {"numbered": True, "chapters": [{"file": "nbs/03"}]},
        {"chapters": [{"file": "nbs/a2"}]},
    ]
}  # fmt: skip


def test_floors_are_chapters_and_pages_without_a_number_are_the_ground():
    modules = {
        "nbs/01": "ar",
        "nbs/01b": "leastsquares",
        "nbs/02": "tokens",
        "nbs/a1": "files",
        "nbs/03": "encodings",
        "nbs/a2": "plots",
    }
    floors = floors_of(SMALL, modules)
    assert floors.pop("encodings") == 3
    assert floors == {"ar": 1, "leastsquares": 1, "tokens": 2, "files": 0, "plots": 0}
    allowed = {
        "ar": {"leastsquares", "files"},
        "leastsquares": set(),
        "tokens": {"ar"},
        "files": set(),
        "plots": {"tokens"},
    }
    assert upwards(allowed, floors) == set()
    assert upwards(allowed | {"files": {"ar"}}, floors) == {("files", "ar")}
    assert upwards(allowed | {"ar": {"plots"}}, floors) == {("ar", "plots")}


def test_a_circle_is_found_however_long():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == {"a", "b", "c"}
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == set()


def test_a_model_is_found_behind_another_module():
    graph = {"sampling": {"helper"}, "helper": {"ngram"}, "ngram": set(), "rules": set()}
    assert models_known(graph) == {("sampling", "ngram")}


def test_a_name_at_two_doors_is_found_and_a_promise_is_kept():
    twice = house(
        ar="__all__ = ['f', 'g']\ndef f(): ...\ng = 1", tokens="__all__ = ['f']\ndef f(): ..."
    )
    assert defined_twice(twice) == {"f"}
    taken = house(ar="__all__ = ['f']\ndef f(): ...", tokens="from .ar import f\n__all__ = ['f']")
    assert defined_twice(taken) == {"f"}
    kept = house(rules="__all__ = ['TopK']\nclass TopK: ...",
                 sampling="from .rules import TopK\n__all__ = ['TopK']")  # fmt: skip
    assert defined_twice(kept) == set() and public(kept) == {"rules": 1, "sampling": 0}
    copied = kept | house(sampling="__all__ = ['TopK']\nclass TopK: ...")
    assert defined_twice(copied) == {"TopK"}


def test_what_is_too_large_is_found_and_so_is_an_exception_too_many():
    rooms = house(cli="__all__ = ['main', 'f']\nclass A:\n    x = 1\n    y = 2", new="\n" * 1_300)
    assert above(public(rooms), MOST_NAMES, {}) == {"cli": 2}
    assert above(public(rooms), MOST_NAMES, {"cli": 2}) == {}
    assert done(public(rooms), MOST_NAMES, {"cli": 2, "new": 30}) == {"new"}
    assert above(classes(rooms), 2, {"cli.A": 2}) == {"cli.A": 3}
    assert done(classes(rooms), 3, {"cli.A": 9, "gone.B": 9}) == {"cli.A", "gone.B"}
