"""What is chosen for a text or a table of one's own: plans, dates, pictures, and a talk with a model."""

import calendar
import io
import json
import math
from dataclasses import replace
from datetime import date, datetime, timedelta
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from arbook import ar, checkpoints, data, runs, steps, training, workshop
from arbook.ngram import NGramLM
from arbook.tokens import BPETokenizer, CharTokenizer
from arbook.transformer import GPT, GPTConfig
from arbook.workshop import Chat, PlanError, continue_times, plan, svg_plot, terminal_plot
from hypothesis import given, settings
from hypothesis import strategies as st
from tqdm import tqdm

TEXT = "the rose is red, the violet's blue,\nthe honey's sweet, and so are you.\n" * 40
TINY = {"max_steps": 6, "n_embd": 8, "n_layer": 1, "n_head": 1, "eval_tokens": 200}


# --- a plan for a text ---


def test_an_alphabet_gets_characters_and_thousands_of_signs_get_bytes_or_pairs():
    signs = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    assert workshop.choose_tokens(TEXT)[0] == "characters"
    assert workshop.choose_tokens(signs * 10)[0] == "bytes"
    assert workshop.choose_tokens(signs * 700)[0] == "bpe"
    assert "300" in workshop.choose_tokens(signs)[1]


@pytest.mark.parametrize("n", [1_000, 5_000, 30_000, 1_000_000, 3_000_000])
@pytest.mark.parametrize("tokens", workshop.UNITS)
def test_the_parts_are_the_text_and_every_plan_can_be_trained(n, tokens):
    text = ("to be or not to be, that is the question\n" * (n // 40 + 1))[:n]
    preset, parts = plan(text, tokens=tokens, minutes=60.0)
    assert parts.train + parts.valid == text
    assert len(parts.valid) == min(n // 10, 100_000)
    config = training.TrainConfig(**workshop.with_steps(preset, 100).training)
    assert config.schedule == "wsd" and config.eval_every == 5
    with torch.device("meta"):
        model = preset.build(300)
    assert model.context_length < workshop._count(parts.train, tokens)


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 1_000])
def test_any_number_of_steps_has_a_schedule(steps):
    preset, _ = plan(TEXT)
    config = training.TrainConfig(**workshop.with_steps(preset, steps).training)
    assert config.max_steps == steps
    last = training.learning_rate(steps - 1, config)
    assert 0 < last <= config.lr


def test_more_text_more_time_and_a_graphics_processor_get_no_smaller_models():
    def width(n, minutes, gpu=False):
        return workshop._SIZES[workshop._size(n, minutes, gpu)][1]

    sizes = [1_000, 99_999, 100_000, 999_999, 1_000_000, 10**8]
    for minutes in (0.1, 5, 29, 30, 600):
        widths = [width(n, minutes) for n in sizes]
        assert widths == sorted(widths)
        assert all(width(n, minutes, True) >= width(n, minutes) for n in sizes)
    assert width(10**6, 60) > width(10**6, 5)


@pytest.mark.parametrize(
    "text, options, words",
    [
        ("", {}, "text is empty; it takes at least 1,000 characters"),
        ("a" * 999, {}, "text has 999 characters; it takes at least 1,000"),
        ("a" * 2_000, {"tokens": "words"}, "too few words to learn from, 1: it takes at least 100"),
        ("a b " * 900 + " " * 1_000, {"tokens": "words"}, "too few words"),
        (TEXT, {"tokens": "letters"}, "tokens must be one of characters, bytes, bpe, words"),
        (TEXT, {"minutes": 0}, "minutes must be above 0"),
        (TEXT, {"minutes": math.inf}, "minutes must be above 0 and finite"),
    ],
)
def test_what_cannot_be_planned_is_refused(text, options, words):
    with pytest.raises(ValueError, match=words):
        plan(text, **options)


@pytest.mark.parametrize("tokens, per_byte", [("characters", 1.0), ("bytes", 1.0), ("bpe", None)])
def test_bits_per_byte_are_those_of_the_probability_of_the_text(tmp_path, tokens, per_byte):
    """The loss is a mean over tokens; nats of the whole text over bits and bytes must give the same."""
    preset, parts = plan(TEXT, tokens=tokens)
    tokenizer, ids = runs.encode_parts(parts, preset.unit)
    assert tokenizer.decode(ids["valid"]) == parts.valid
    model = NGramLM(2, vocab_size=tokenizer.vocab_size).fit(ids["train"])
    log_p = model.log_prob(torch.tensor(ids["valid"])[None])
    told = workshop.as_rate(
        -float(log_p.mean()), preset.unit, workshop.tokens_per_byte(tokenizer, parts.valid)
    )
    whole = -float(log_p.sum()) / math.log(2) / len(parts.valid.encode())
    n = len(ids["valid"])
    assert float(told.split()[0]) == pytest.approx(whole * n / (n - 1), abs=6e-4)
    assert told.endswith("bits per byte")
    if per_byte:
        assert workshop.tokens_per_byte(tokenizer, parts.valid) == per_byte


def test_a_run_is_a_function_of_its_plan_and_a_finished_one_is_left_alone(tmp_path):
    record = workshop.train_text(TEXT, tmp_path / "a", settings=TINY, device="cpu", name="verse")
    other = workshop.train_text(TEXT, tmp_path / "b", settings=TINY, device="cpu")
    assert record["finished"] and record["steps"] == 6 and record["unit"] == "character"
    assert record["val_loss"] == other["val_loss"] and record["preset"] is None
    said = []
    again = workshop.train_text(TEXT, tmp_path / "a", device="cpu", say=said.append)
    assert again == json.loads(json.dumps(record))
    assert said == [f"{tmp_path / 'a'} holds this run, and it is finished"]


@pytest.mark.parametrize("tokens", ["bytes", "bpe", "words"])
def test_every_kind_of_token_can_be_trained_and_loaded(tmp_path, tokens):
    record = workshop.train_text(TEXT, tmp_path, tokens=tokens, settings=TINY, device="cpu")
    assert ("perplexity" if tokens == "words" else "bits per byte") in record["held_out"]
    model, tokenizer = workshop.load_folder(tmp_path)
    assert model.vocab_size == tokenizer.vocab_size and record["sample"]


def test_a_bar_shows_the_loss_the_held_out_text_and_where_a_run_goes_on(tmp_path):
    def bar(steps):
        shown.append(tqdm(total=steps, file=io.StringIO(), mininterval=0))
        return shown[-1]

    shown = []
    options = {"settings": TINY | {"eval_every": 2, "log_every": 1}, "device": "cpu", "bar": bar}
    workshop.train_text(TEXT, tmp_path, **options, max_seconds=1e-9)
    done = json.loads((tmp_path / "record.json").read_text())["steps"]
    record = workshop.train_text(TEXT, tmp_path, **options)
    assert [bar.n for bar in shown] == [done, 6] and [bar.initial for bar in shown] == [0, done]
    rate = record["val_loss"] / math.log(2)
    assert f"held out={rate:.3f} bits per byte" in shown[1].postfix and "loss=" in shown[1].postfix


def test_a_text_without_line_ends_can_be_sampled(tmp_path):
    record = workshop.train_text("to be or not " * 100, tmp_path, settings=TINY, device="cpu")
    assert set(record["sample"]) <= set("to be or not ")


def test_a_folder_of_something_else_is_refused_and_stays_as_it_is(tmp_path):
    out = tmp_path / "run"
    workshop.make_plan(TEXT, out, settings=TINY, device="cpu")
    before = (out / workshop.PLAN).read_bytes()
    for text, options, words in (
        (TEXT + "!", {}, "another text"),
        (TEXT, {"tokens": "bytes"}, "--tokens characters, not bytes"),
        (TEXT, {"minutes": 7.0}, "--minutes 5.0, not 7.0"),
        (TEXT, {"seed": 1}, "--seed 0, not 1"),
        (TEXT, {"settings": {"lr": 0.5}}, "other settings"),
    ):
        with pytest.raises(PlanError, match=words):
            workshop.make_plan(text, out, device="cpu", **options)
    same = {"tokens": "characters", "minutes": 5.0, "seed": 0, "settings": TINY}
    assert workshop.make_plan(TEXT, out, device="cpu", **same)[2] == json.loads(before)
    assert (out / workshop.PLAN).read_bytes() == before
    (tmp_path / "notes.txt").write_text("precious")
    for folder in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(PlanError, match="exists, and holds no run on a text"):
            workshop.make_plan(TEXT, folder, settings=TINY, device="cpu")
    for damaged in ("", "[]", "{}", '{"sha256": 1}', "[" * 100_000):
        (out / workshop.PLAN).write_text(damaged)
        with pytest.raises(PlanError, match="is no plan of a training"):
            workshop.make_plan(TEXT, out, device="cpu")


def test_the_number_of_steps_follows_from_the_time_that_one_takes(monkeypatch):
    """Half the speed, half the steps; the end of the schedule is known before the first step."""
    preset, _ = plan(TEXT)
    found = {}
    for speed in (10_000.0, 20_000.0):
        result = replace(_no_result(), tokens_per_second=speed)
        monkeypatch.setattr(training, "train", lambda *_, result=result, **__: result)
        found[speed] = workshop.steps_in(600, preset, 60, device="cpu")
    per_step = preset.training["batch_size"] * preset.model["context_length"]
    assert found[10_000.0] == int(0.9 * 600 * 10_000 / per_step)
    assert found[20_000.0] == pytest.approx(2 * found[10_000.0], abs=1)
    assert workshop.steps_in(1e-6, preset, 60, device="cpu") == 20


def _no_result():
    return training.TrainResult(None, [], 0, False, 0, 0.0, math.nan, "full")


def test_steps_are_timed_without_a_trace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    preset, _ = plan(TEXT)
    state = torch.random.get_rng_state()
    assert workshop.steps_in(1.0, preset, 60, device="cpu") >= 20
    assert torch.equal(torch.random.get_rng_state(), state) and not list(tmp_path.iterdir())


def test_the_weights_that_did_best_are_those_of_the_folder_at_any_time(tmp_path):
    """Also when later ones have learned the text by heart, and while the run is not finished."""
    settings = TINY | {"max_steps": 40, "lr": 0.5, "schedule": "constant", "eval_every": 5}
    workshop.train_text(TEXT, tmp_path, settings=settings, device="cpu", max_seconds=1e-9)
    assert not json.loads((tmp_path / "record.json").read_text())["finished"]
    for _ in range(2):
        best = checkpoints.load_run(tmp_path / checkpoints.BEST)[1]
        record = json.loads((tmp_path / "record.json").read_text())
        losses = [line["val_loss"] for line in record["history"] if "val_loss" in line]
        assert best["val_loss"] == min(losses)
        model, tokenizer = workshop.load_folder(tmp_path)
        _, parts = plan(TEXT)
        ids = tokenizer.encode_array(parts.valid)[:200]
        found = steps.evaluate(model, ids, block_size=model.context_length, batch_size=8)
        assert found == pytest.approx(best["val_loss"], rel=1e-5)
        workshop.train_text(TEXT, tmp_path, device="cpu")


# --- dates ---


@pytest.mark.parametrize(
    "form",
    ["%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%Y%m%d", "%d %b %Y", "%B %d, %Y"]
    + ["%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%SZ", "%d.%m.%Y %H:%M:%S"],
)
@given(st.dates(date(1900, 1, 1), date(2100, 1, 1)), st.integers(1, 40))
@settings(max_examples=20)
def test_days_go_on_in_the_way_in_which_they_are_written(form, first, n):
    days = [datetime(first.year, first.month, first.day) + timedelta(days=i) for i in range(60 + n)]
    labels = [day.strftime(form) for day in days]
    assert continue_times(labels[:60], n) == (labels[60:], "days")


@given(st.integers(1800, 2200), st.integers(1, 12), st.sampled_from([1, 2, 3, 6, 12]))
def test_months_end_when_they_end(year, month, k):
    labels = []
    for i in range(30):
        y, m = divmod(12 * year + month - 1 + k * i, 12)
        labels.append(f"{y:04d}-{m + 1:02d}-{calendar.monthrange(y, m + 1)[1]:02d}")
    ends_differ = len({label[-2:] for label in labels[:20]}) > 1
    new, rule = continue_times(labels[:20], 10)
    if ends_differ and labels[:20] and max(label[-2:] for label in labels[:20]) == "31":
        assert new == labels[20:]
    assert rule in {"months", "quarters", "years", f"steps of {k} months"} or not ends_differ


@pytest.mark.parametrize(
    "last, new, rule",
    [
        (["2024-01", "2024-02", "2024-03"], ["2024-04", "2024-05"], "months"),
        (["Nov 2023", "Dec 2023", "Jan 2024"], ["Feb 2024", "Mar 2024"], "months"),
        (["2023-10-15", "2024-01-15", "2024-04-15"], ["2024-07-15", "2024-10-15"], "quarters"),
        (["2020-02-29", "2021-02-28", "2022-02-28"], ["2023-02-28", "2024-02-29"], "years"),
        (["1/31/2024", "2/29/2024", "3/31/2024"], ["4/30/2024", "5/31/2024"], "months"),
        (["13/1/2024", "14/1/2024", "15/1/2024"], ["16/1/2024", "17/1/2024"], "days"),
        (["2024-05-06", "2024-05-13", "2024-05-20"], ["2024-05-27", "2024-06-03"], "weeks"),
        (["2023-Q2", "2023-Q3", "2023-Q4"], ["2024-Q1", "2024-Q2"], "quarters"),
        (["2023M10", "2023M11", "2023M12"], ["2024M01", "2024M02"], "months"),
        (["2020-W51", "2020-W52", "2020-W53"], ["2021-W01", "2021-W02"], "weeks"),
        (["2021", "2022", "2023"], ["2024", "2025"], "steps of 1"),
        (["1990", "2000", "2010"], ["2020", "2030"], "steps of 10"),
        (["9998-12-29", "9998-12-30", "9998-12-31"], ["9999-01-01", "9999-01-02"], "days"),
    ],
)
def test_calendar_steps(last, new, rule):
    assert continue_times(last, 2) == (new, rule)


def test_hours_go_on_through_midnight_and_gaps_are_forgiven_but_not_too_many():
    start = datetime(2023, 12, 25)
    hours = [f"{start + timedelta(hours=i):%Y-%m-%d %H:%M}" for i in range(72)]
    assert continue_times(hours[:60], 12) == (hours[60:], "hours")
    assert continue_times(hours[:20] + hours[23:60], 12) == (hours[60:], "hours")
    assert continue_times(hours[:40:3] + hours[40:45], 2) is None


def test_business_days_have_no_weekends_and_holidays_do_not_change_that():
    days = [date(2024, 1, 1) + timedelta(days=i) for i in range(100)]
    open_days = [day.isoformat() for day in days if day.weekday() < 5]
    assert continue_times(open_days[:50], 20) == (open_days[50:70], "business days")
    holidays = [day for day in open_days[:50] if day not in ("2024-01-15", "2024-02-19")]
    assert continue_times(holidays, 20) == (open_days[50:70], "business days")


def test_two_readings_are_no_reading_unless_they_agree():
    """These are days of February, or the second days of months: the same labels follow, as long as months last."""
    labels = ["01/02/2024", "02/02/2024", "03/02/2024"]
    assert continue_times(labels, 2) == (["04/02/2024", "05/02/2024"], "days or months")
    assert continue_times(labels, 10) is None


@pytest.mark.parametrize(
    "labels",
    [
        [],
        ["2024-01-01", "2024-01-02"],  # one step proves nothing
        ["2024-01-01", "2024-01-03", "2024-01-09"],
        ["north", "south", "west"],
        ["Mon", "Tue", "Wed"],
        ["9999-12-29", "9999-12-30", "9999-12-31"],
        ["2024-Q3", "2024-Q4", "2024-Q5"],
        ["2024-W53", "2024-W54", "2024-W55"],
        ["3", "2", "1"],
        ["2024-01-01", "02.01.2024", "2024-01-03"],
    ],
)
def test_where_no_rule_fits_there_are_no_dates(labels):
    assert continue_times(labels, 3) is None


# --- pictures ---


def dots(picture: str) -> np.ndarray:
    """Return the canvas of braille signs as booleans, rows of dots."""
    rows = [line.split("│")[1] for line in picture.splitlines() if "│" in line]
    width = max(map(len, rows))
    canvas = np.zeros((4 * len(rows), 2 * width), bool)
    weights = {1: (0, 0), 2: (1, 0), 4: (2, 0), 64: (3, 0), 8: (0, 1), 16: (1, 1), 32: (2, 1)}
    for i, row in enumerate(rows):
        for j, sign in enumerate(row):
            for weight, (down, right) in (weights | {128: (3, 1)}).items():
                canvas[4 * i + down, 2 * j + right] = bool(ord(sign) - 0x2800 & weight)
    return canvas


def test_a_rising_line_rises_and_fills_the_canvas():
    canvas = dots(terminal_plot(list(range(50)), list(range(50, 60)), width=50, height=10))
    highest = [np.flatnonzero(column)[0] for column in canvas.T]
    assert all(column.any() for column in canvas.T)
    assert all(a >= b for a, b in zip(highest, highest[1:], strict=False))
    assert highest[0] >= 0.9 * len(canvas) and highest[-1] <= 0.1 * len(canvas)


def test_labels_tell_the_values_of_their_rows():
    """Not those of the edges: a flat line at the value of a label runs through its row."""
    picture = terminal_plot([0.0, 100.0] * 20, [50.0], width=60, height=11)
    ticks = {
        i: line.split("│")[0].strip() for i, line in enumerate(picture.splitlines()) if "│" in line
    }
    assert [i for i, text in ticks.items() if text] == [0, 5, 10]
    for row in (0, 5, 10):
        value = float(ticks[row])
        flat = terminal_plot([0.0, 100.0, *[value] * 200], [value], width=60, height=11)
        canvas = dots(flat)[4 * row : 4 * row + 4]
        assert canvas[:, 20:].any(0).all()


@given(
    st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=200),
    st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=50),
    st.integers(30, 120),
)
@settings(max_examples=60)
def test_any_series_fits_into_its_width_and_its_svg_is_well_formed(past, future, width):
    bounds = [y - 1 for y in future], [y + 1 for y in future]
    labels = ("2024 & before", "now", "<then>")
    picture = terminal_plot(past, future, bounds, labels=labels, width=width)
    assert all(len(line) <= max(width, 45) for line in picture.splitlines())
    tree = ElementTree.fromstring(svg_plot(past, future, bounds, labels=labels, level=0.9))
    names = [node.tag.rpartition("}")[2] for node in tree]
    assert names.count("polyline") == 2 and names.count("polygon") == 1
    for node in tree:
        points = node.get("points", "").replace(",", " ").split()
        assert all(math.isfinite(float(p)) for p in points)


def test_the_interval_of_the_svg_is_that_of_the_forecast():
    past, future = [1.0, 2.0, 3.0], [4.0, 5.0]
    tree = ElementTree.fromstring(svg_plot(past, future, ([3.0, 3.0], [5.0, 7.0]), level=0.9))
    named = {node.tag.rpartition("}")[2]: node for node in tree}
    points = [tuple(map(float, p.split(","))) for p in named["polygon"].get("points").split()]
    assert len(points) == 6 and points[0] == points[-1]  # it opens at the last known value
    lines = [node for node in tree if node.tag.endswith("polyline")]
    known = [tuple(map(float, p.split(","))) for p in lines[0].get("points").split()]
    per_unit = (known[0][1] - known[-1][1]) / 2  # pixels from 1 to 3
    upper = points[2]
    assert upper[1] == pytest.approx(known[-1][1] - 4 * per_unit, abs=0.2)
    assert "90% interval" in "".join(tree.itertext())


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_round_and_inside(low, span):
    span = max(span, 1e-6 * abs(low))  # where numbers lie further apart, nothing is round
    ticks = workshop._ticks(low, low + span)
    assert 2 <= len(ticks) <= 6
    assert all(low - 1e-9 * span <= y <= low + span * (1 + 1e-9) for y in ticks)


# --- a forecast ---


def test_a_forecast_of_a_series_is_that_of_the_estimator():
    z = data.series("sunspots").values
    order, columns, remarks = workshop.forecast_series(z, horizon=5, level=0.5)
    assert order == ar.select_order(z, 24).order and len(remarks) == 1
    mean, interval = ar.LinearAR(order, intercept=True).fit(z).forecast(z, 5, level=0.5)
    assert columns["forecast"] == mean.tolist()
    assert [columns["lower"], columns["upper"]] == interval.T.tolist()


@pytest.mark.parametrize("n", range(1, 12))
@pytest.mark.parametrize("options", [{}, {"order": 4}, {"order": 2, "direct": True, "horizon": 3}])
def test_a_series_that_is_too_short_is_told_by_its_name(n, options):
    z = np.random.default_rng(n).normal(size=n)
    try:
        workshop.forecast_series(z, source="sales.csv", **options)
    except ValueError as error:
        assert str(error).startswith(f"sales.csv has {n} value")


# --- a talk ---


class Echo(Chat):
    """A talk with a tiny model, and what it says."""

    def __init__(self, **options):
        self.said: list[str] = []
        dice = torch.Generator().manual_seed(0)
        config = GPTConfig.modern(256, context_length=16, n_embd=8, n_layer=1, n_head=1)
        options = {"max_new_tokens": 12, "seed": 5} | options
        tell = self.said.append
        super().__init__(GPT(config, generator=dice).eval(), BPETokenizer(), tell=tell, **options)

    def add(self, line: str) -> str:
        return "".join(self.read(line))


def test_a_talk_is_one_text_and_each_turn_goes_on_from_all_of_it():
    chat = Echo()
    first = chat.add("to be")
    assert chat.text == "to be" + first
    second = chat.add("or not")
    assert chat.text == f"to be{first}\nor not{second}"
    chat.add("/new")
    assert chat.text == ""


def test_the_same_seed_writes_the_same_and_again_something_else():
    one, two = Echo(), Echo()
    first = one.add("to be")
    assert first == two.add("to be")
    again = one.add("/again")
    assert again != first and one.text == "to be" + again
    two.add("/new"), two.add("/seed 5")
    assert two.add("to be") == first
    cold = [Echo(temperature=0).add("to be") for _ in range(2)]
    assert cold[0] == cold[1] and Echo(temperature=0, seed=6).add("to be") == cold[0]


def test_that_the_context_is_cut_is_said_once():
    chat = Echo()
    chat.add("a" * 3)
    assert chat.said == []
    chat.add("b"), chat.add("c")
    assert len(chat.said) == 1 and "16 tokens" in chat.said[0]


@pytest.mark.parametrize(
    "line, words",
    [
        ("/tempratur 1", "did you mean /temperature?"),
        ("/fly", "/help lists the commands"),
        ("/temperature hot", "/temperature hot"),
        ("/temperature -1", "at least 0"),
        ("/temperature nan", "/temperature nan"),
        ("/top-p 2", "at most 1"),
        ("/seed -1", "whole number"),
        ("/seed", "whole number"),
        ("/again", "nothing to draw again"),
        ("/help", "does not answer"),
        ("", "nothing to go on from"),
    ],
)
def test_what_a_talk_cannot_do_is_said_and_nothing_changes(line, words):
    chat = Echo()
    assert chat.add(line) == "" and len(chat.said) == 1 and words in chat.said[0]
    assert (chat.temperature, chat.top_p, chat.text, chat.over) == (0.8, 1.0, "", False)


def test_an_answer_that_is_broken_off_stays_in_the_text():
    chat = Echo(max_new_tokens=1_000)
    pieces = chat.read("to be")
    written = next(pieces) + next(pieces)
    pieces.close()
    assert chat.text == "to be" + written
    assert chat.add("/quit") == "" and chat.over


def test_a_line_that_the_model_cannot_read_is_not_a_part_of_the_text():
    model = NGramLM(2, vocab_size=3).fit([0, 1, 2, 0, 1, 2])
    said = []
    chat = Chat(model, CharTokenizer.train("abc"), max_new_tokens=4, tell=said.append)
    first = "".join(chat.read("ab"))
    assert "".join(chat.read("ä")) == "" and "cannot read" in said[-1]
    assert chat.text == "ab" + first
