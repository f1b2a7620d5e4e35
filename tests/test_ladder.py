"""The score board of the book: how it is measured, what its record says, and how it is shown."""

import json
import re
from html import unescape

import numpy as np
import pytest
import torch
from arbook import data, plots
from bench import ladder
from bs4 import BeautifulSoup
from conftest import ROOT

RECORD = json.loads((ROOT / "runs" / "ladder.json").read_text("utf8"))
TEXTS = sorted(RECORD["texts"])
TEXT = "abracadabra, said the cat; a cat sat on a mat.\n\n" * 60
PARTS = data.Splits("a text", TEXT, TEXT[:200] + "the mat sat on a cat")


def measured(name: str) -> dict:
    rung = ladder.RUNGS[name]
    return ladder.measure(rung, PARTS, range(1), 3)


# How it is measured


def test_the_model_that_knows_nothing_needs_the_logarithm_of_the_number_of_characters():
    found = measured("uniform")
    assert found["bits"] == [round(np.log2(len(set(PARTS.train + PARTS.valid))), 4)]
    assert found["parameters"] == 0 and len(found["writes"]) == ladder.WRITTEN


def test_a_rung_is_judged_on_the_part_that_it_has_not_learned_from():
    """The bits of a counted model, from its law: -log2 p of each character of the other part but the first."""
    tokenizer, ids = ladder.encode_parts(PARTS, "character")
    model = ladder.NGramLM(3, vocab_size=tokenizer.vocab_size).fit(ids["train"])
    log_p = model(torch.as_tensor(ids["valid"])[None])[0]
    told = log_p[torch.arange(len(log_p) - 1), torch.as_tensor(ids["valid"][1:])]
    bits = -told.sum().item() / np.log(2) / len(PARTS.valid[1:].encode())
    assert measured("3-grams")["bits"] == [pytest.approx(bits, abs=1e-4)]


@pytest.mark.parametrize("name", ["MLP", "RNN", "GRU", "LSTM", "GPT"])
def test_every_network_uses_the_same_budget(name):
    model = ladder.RUNGS[name].build(65, torch.Generator().manual_seed(0))
    assert 0.99 * ladder.BUDGET < ladder.numbers(model) <= ladder.BUDGET
    settings = ladder.RUNGS[name].training
    length = settings.get("block_size") or model.context_length
    assert settings["batch_size"] * length == ladder.STEP


@pytest.mark.parametrize("name", ["MLP", "GRU"])
def test_learning_with_the_same_seed_gives_the_same_bits(name, monkeypatch):
    monkeypatch.setattr(ladder, "BUDGET", 20_000)
    first, again = (measured(name) for _ in range(2))
    assert first["bits"] == again["bits"] and first["writes"] == again["writes"]


# What the record says


@pytest.mark.parametrize("text", TEXTS)
def test_the_record_has_every_rung_in_the_order_of_the_book(text):
    rungs = RECORD["texts"][text]["rungs"]
    assert [name for name in rungs if name in ladder.RUNGS] == list(ladder.RUNGS)
    for name, rung in rungs.items():
        assert (ROOT / "nbs" / f"{rung['page']}.ipynb").exists()
        counted = name in ladder.RUNGS and ladder.RUNGS[name].training is None
        assert len(rung["bits"]) == len(rung["seconds"]) == (1 if counted else 3)
        assert len(rung["writes"]) >= 40


@pytest.mark.parametrize("text", TEXTS)
def test_each_longer_memory_counts_better_in_the_record(text):
    rungs = RECORD["texts"][text]["rungs"]
    names = ["uniform", "unigram", "bigram", "3-grams", "5-grams", "7-grams"]
    bits = [rungs[name]["bits"][0] for name in names]
    assert bits == sorted(bits, reverse=True)


# How it is shown


@pytest.mark.parametrize("text", TEXTS)
def test_the_table_says_what_the_record_says(text):
    rungs = RECORD["texts"][text]["rungs"]
    shown = BeautifulSoup(plots.ladder(text, link="{}.html").data, "html.parser")
    rows = shown.select("tbody tr")
    assert [row.th.text for row in rows] == list(rungs)
    longest = max(np.mean(rung["bits"]) for rung in rungs.values())
    for row, rung in zip(rows, rungs.values(), strict=True):
        bits, numbers, seconds, written = row.select("td")
        assert float(re.match(r"[\d.]+", bits.text)[0]) == pytest.approx(
            np.mean(rung["bits"]), abs=0.0051
        )
        share = float(re.search(r"([\d.]+)%", bits["style"])[1]) / 100
        assert share == pytest.approx(np.mean(rung["bits"]) / longest, abs=1e-3)
        assert int(numbers.text.replace(",", "")) == rung["parameters"]
        assert row.a["href"] == f"{rung['page']}.html"
        assert unescape(written.text) == rung["writes"][:40].replace("\n", "↵")


def test_a_part_of_the_ladder_can_be_shown_without_links():
    shown = BeautifulSoup(plots.ladder(rungs=["bigram", "uniform"]).data, "html.parser")
    assert [row.th.text for row in shown.select("tbody tr")] == ["bigram", "uniform"]
    assert not shown.select("a")


def test_an_unknown_text_or_rung_is_named():
    with pytest.raises(ValueError, match="text must be one of .*, got 'ulysses'"):
        plots.ladder("ulysses")
    with pytest.raises(ValueError, match="rungs must be among .*; got step"):
        plots.ladder(rungs=["step"])


@pytest.mark.site
def test_every_rung_of_the_front_page_leads_to_its_page(site):
    front = BeautifulSoup((site / "index.html").read_text("utf8"), "html.parser")
    links = [link["href"] for link in front.select("table.ladder th a")]
    assert len(links) == len(RECORD["texts"]["tinyshakespeare"]["rungs"])
    assert all((site / link).exists() for link in links)
