"""Guards: each wrong value becomes an error that names the argument, what it was, and what is allowed."""

import json
from dataclasses import FrozenInstanceError, asdict, dataclass, field, replace
from fractions import Fraction
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbook.guards import (
    Bounds,
    Checked,
    Count,
    as_choice,
    as_count,
    as_flag,
    as_ids,
    as_number,
    as_rng,
    as_text,
)


@dataclass(frozen=True)
class Settings(Checked):
    size: Count
    steps: Annotated[int, Bounds(minimum=0)] = 0
    shift: int = -3
    rate: Annotated[float, Bounds(above=0, maximum=1)] = 0.5
    bias: float = 0.0
    kind: Literal["a", "b"] = "a"
    tied: bool = False
    limit: Count | None = None
    floor: Annotated[float | None, Bounds(minimum=0)] = None
    pair: tuple[int, int] = (1, 2)
    note: Any = None
    total: int = field(default=-1, init=False)

    def check(self) -> None:
        if self.limit is not None and self.limit < self.size:
            raise ValueError(f"limit must be at least size = {self.size}, got {self.limit}")


@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [
        ({"size": 0}, ValueError, "size must be at least 1, got 0"),
        ({"size": 2.0}, TypeError, "size must be an integer, got 2.0 of type float"),
        ({"size": True}, TypeError, "size must be an integer, got True"),
        ({"size": None}, TypeError, "size must be an integer, got None of type NoneType"),
        ({"steps": -1}, ValueError, "steps must be at least 0, got -1"),
        ({"shift": "1"}, TypeError, "shift must be an integer"),
        ({"rate": 0}, ValueError, "rate must be above 0 and at most 1, got 0"),
        ({"rate": 1.1}, ValueError, "rate must be above 0 and at most 1, got 1.1"),
        ({"rate": float("nan")}, ValueError, "rate must be above 0 and at most 1, got nan"),
        ({"rate": "0.5"}, TypeError, "rate must be a number, got '0.5'"),
        ({"bias": float("inf")}, ValueError, "bias must be finite, got inf"),
        ({"kind": "c"}, ValueError, "kind must be one of a, b, got 'c'"),
        ({"kind": None}, ValueError, "kind must be one of a, b, got None"),
        ({"tied": 1}, TypeError, "tied must be True or False, got 1"),
        ({"tied": "yes"}, TypeError, "tied must be True or False, got 'yes'"),
        ({"limit": 0}, ValueError, "limit must be at least 1, got 0"),
        ({"limit": 2}, ValueError, "limit must be at least size = 3, got 2"),
        ({"floor": -0.1}, ValueError, "floor must be at least 0 and finite, got -0.1"),
    ],
)
def test_a_checked_dataclass_refuses_a_wrong_field_and_says_why(wrong, kind, words):
    with pytest.raises(kind, match=f"^{words}"):
        Settings(**{"size": 3, **wrong})


def test_a_checked_dataclass_holds_what_json_can_hold():
    made = Settings(
        np.int8(3), rate=np.float32(0.25), bias=1, kind=np.str_("b"), tied=np.bool_(True)
    )
    assert json.loads(json.dumps(asdict(made)))["rate"] == 0.25
    assert [type(value) for value in (made.size, made.rate, made.bias, made.kind, made.tied)] == [
        int,
        float,
        float,
        str,
        bool,
    ]


def test_a_checked_dataclass_stays_frozen_comparable_and_is_checked_again_when_it_is_changed():
    made = Settings(3, limit=5)
    assert made == Settings(3, limit=5) and hash(made) == hash(Settings(3, limit=5))
    with pytest.raises(FrozenInstanceError):
        made.size = 4
    with pytest.raises(ValueError, match="limit must be at least size = 6"):
        replace(made, size=6)


def test_fields_that_no_guard_knows_are_left_alone():
    note = object()
    made = Settings(3, pair=("x", "y"), note=note)
    assert made.pair == ("x", "y") and made.note is note and made.total == -1


def test_a_subclass_keeps_the_guards_of_its_base():
    @dataclass(frozen=True)
    class More(Settings):
        extra: Count = 1

    with pytest.raises(ValueError, match="rate must be above 0"):
        More(3, rate=-1)
    with pytest.raises(ValueError, match="extra must be at least 1"):
        More(3, extra=0)


def test_a_function_in_an_annotation_is_the_guard_of_its_field():
    @dataclass(frozen=True)
    class Named(Checked):
        name: Annotated[str, as_text]
        other: Annotated[str, "a note", as_text] | None = None

    assert Named("a", "b").other == "b" and Named("a").other is None
    for wrong in ({"name": 3}, {"name": "a", "other": b"b"}):
        with pytest.raises(TypeError, match=f"{list(wrong)[-1]} must be a string"):
            Named(**wrong)


def test_bounds_say_what_was_given_and_no_more():
    assert repr(Bounds(minimum=0, below=1)) == "Bounds(minimum=0, below=1)"
    assert repr(Bounds()) == "Bounds()"


def test_an_error_of_a_checked_dataclass_leaves_no_object_behind():
    made = []

    @dataclass(frozen=True)
    class Noted(Settings):
        def check(self):
            super().check()
            made.append(self)

    with pytest.raises(ValueError):
        Noted(3, rate=2)
    assert made == []


@pytest.mark.parametrize("value", [True, np.True_, 1.0, "1", None, [1], np.ones(1)])
def test_a_count_is_an_integer_and_nothing_else(value):
    with pytest.raises(TypeError, match="n must be an integer"):
        as_count(value, "n")


@pytest.mark.parametrize("value", [True, np.False_, "1", b"1", None, [1.0], np.ones(1), 1j])
def test_a_number_is_real_and_nothing_else(value):
    with pytest.raises(TypeError, match="x must be a number"):
        as_number(value, "x")


def test_a_number_may_be_an_array_without_axes():
    assert as_number(np.array(2.5), "x") == 2.5


def test_a_choice_takes_no_value_of_another_kind_that_happens_to_be_equal():
    assert as_choice(2, "n", (1, 2)) == 2
    with pytest.raises(ValueError, match="n must be one of 1, 2, got '1'"):
        as_choice("1", "n", (1, 2))
    with pytest.raises(ValueError, match="got array"):
        as_choice(np.array([1, 2]), "n", ("a", "b"))


def test_a_flag_of_numpy_becomes_one_of_python():
    assert as_flag(np.True_, "x") is True


def test_a_seed_makes_the_same_generator_each_time():
    assert as_rng(3).random() == as_rng(np.int64(3)).random() == np.random.default_rng(3).random()
    rng = np.random.default_rng(0)
    assert as_rng(rng) is rng
    for wrong in (True, 1.5, "seed", None, np.random.RandomState(0)):
        with pytest.raises(TypeError, match="rng must be a numpy.random.Generator or a seed"):
            as_rng(wrong)
    with pytest.raises(ValueError, match="at least 0"):
        as_rng(-1)


def test_half_a_character_is_no_text():
    assert as_text("a\N{GRINNING FACE}") == "a\N{GRINNING FACE}"
    with pytest.raises(ValueError, match="half a character at position 1"):
        as_text("a\ud83d")
    with pytest.raises(TypeError, match="text must be a string, got b'a'"):
        as_text(b"a")


@pytest.mark.parametrize(
    ("ids", "kind", "words"),
    [
        ([0, 3], ValueError, r"ids\[1\] is 3; it must be between 0 and 2"),
        ([0, -1], ValueError, r"ids\[1\] is -1"),
        ([0, True], TypeError, "a bool among them"),
        ([0.0], TypeError, "must be integers, got 0.0"),
        ("ab", TypeError, "got text"),
        ([[0]], ValueError, "one-dimensional"),
        ([[0], [0, 1]], ValueError, "ragged"),
        ([2**70], ValueError, "must be between"),
    ],
)
def test_ids_are_integers_of_the_vocabulary(ids, kind, words):
    with pytest.raises(kind, match=words):
        as_ids(ids, 3)


@given(st.floats(), st.floats(-5, 5), st.floats(-5, 5))
def test_a_number_is_taken_just_where_its_bounds_allow_it(value, low, high):
    for bounds, fits in (
        ({}, True),
        ({"minimum": low, "below": high}, low <= value < high),
        ({"above": low, "maximum": high}, low < value <= high),
    ):
        if fits and np.isfinite(value):
            assert as_number(value, "x", **bounds) == value
        else:
            with pytest.raises(ValueError, match=r"^x must be .*(finite|at most|below)"):
                as_number(value, "x", **bounds)


@pytest.mark.parametrize("value", [np.float32(0.5), np.array(0.5), Fraction(1, 2)])
def test_every_kind_of_real_number_becomes_a_float(value):
    assert type(as_number(value, "x")) is float and as_number(value, "x") == 0.5


@pytest.mark.parametrize("value", [True, np.True_, "1", b"1", None, 1j, [1.0], np.ones(1)])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match="^x must be a number"):
        as_number(value, "x")


@pytest.mark.parametrize(
    ("size", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError), (True, TypeError)]
)
def test_a_size_that_is_none_is_refused_also_without_ids(size, error):
    with pytest.raises(error, match="vocab_size must be"):
        as_ids([], size)
