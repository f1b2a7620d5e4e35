"""What the tests of rules, loops and decoders share: small models that write, laws in the hand, dice with a seed."""

import math

import numpy as np
import pytest
import torch
from arbook import objective as ob
from arbook import rules as ru
from arbook.ngram import NGramLM
from arbook.recurrent import LSTMLM, LSTMConfig
from arbook.transformer import GPT, GPTConfig
from hypothesis import strategies as st
from scipy import stats

V = 7


class TableLM(ob.LanguageModel):
    """A reader's own model: the last token decides, by a table; the interface's default state."""

    def __init__(self, table):
        super().__init__()
        self.log_table = torch.tensor(np.asarray(table), dtype=torch.float64).log()
        self.vocab_size = len(self.log_table)

    def forward(self, ids):
        return self.log_table[ids]


class CountingLM(TableLM):
    """Another one, with a state of its own kind, written in place, that says nothing about batches: a list."""

    def init_state(self, batch_size):
        return [0]

    def step(self, ids, state):
        state[0] += ids.shape[1]
        return self(ids), state


def table(V, seed, *, sharp=1.0):
    g = torch.Generator().manual_seed(seed)
    return (sharp * torch.randn(V, V, generator=g, dtype=torch.float64)).softmax(-1).numpy()


def make_gpt(dtype=torch.float64, *, seed=0, T=12, **changes):
    config = GPTConfig.modern(V, T, 16, n_layer=2, n_head=2, **changes)
    model = GPT(config, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed + 1))
    return model.to(dtype).eval()


def make_lstm():
    return (
        LSTMLM(LSTMConfig(V, 8, 8, 2), generator=torch.Generator().manual_seed(0)).double().eval()
    )


def make_ngram(order=3):
    ids = torch.randint(V, (400,), generator=torch.Generator().manual_seed(0))
    return NGramLM(order, vocab_size=V).fit(ids)


MODELS = {
    "table": lambda: TableLM(table(V, 0)),
    "own state": lambda: CountingLM(table(V, 0)),
    "n-gram": make_ngram,
    "lstm": make_lstm,
    "gpt": make_gpt,
    "gpt-2": lambda: make_gpt(positions="learned", tied=True),
}

models = pytest.mark.parametrize("name", MODELS)


def seed(n):
    return torch.Generator().manual_seed(n)


def seeds(n):
    return [seed(i) for i in range(n)]


def law(rule, probs, dtype=torch.float64):
    return rule(torch.tensor([probs], dtype=dtype).log())[0].softmax(-1)


def support(rule, probs, dtype=torch.float64):
    return law(rule, probs, dtype).nonzero()[:, 0].tolist()


def assert_drawn_from(counts, probs, *, p=0.001):
    """Chi-square test of counts against probabilities; what has probability 0 must not occur."""
    counts, probs = np.asarray(counts, float), np.asarray(probs, float)
    assert (counts[probs == 0] == 0).all()
    possible = probs > 0
    if possible.sum() > 1:
        expected = probs[possible] / probs[possible].sum() * counts.sum()
        assert stats.chisquare(counts[possible], expected).pvalue > p


FOUR = [0.5, 0.25, 0.15, 0.10]

probabilities = st.lists(st.integers(1, 50), min_size=2, max_size=9).map(
    lambda w: [x / sum(w) for x in w]
)


def history(*rows, n_prompt=0):
    return ru.History(torch.tensor(rows), torch.full((len(rows),), n_prompt))


def top_two(logits, history):
    logits[logits < logits.topk(2).values[:, -1:]] = -math.inf
    return logits


class TopTwo(ru.Filter):
    def keep(self, logits):
        logits /= 3  # must not reach the scores of what is kept
        return logits >= logits.topk(2).values[:, -1:]


class Vandal(ru.Processor):
    """Writes wherever it can, also into the text, and says the opposite of it."""

    def __call__(self, logits, history):
        history.n_prompt.zero_()
        history.ids.fill_(3)
        return logits.neg_()

    def finished(self, history):
        history.ids.fill_(0)
        return [False] * len(history.ids)


LAYOUTS = {
    "modern": {},
    "gpt-2": {
        "positions": "learned",
        "norm": "layernorm",
        "bias": True,
        "tied": True,
        "qk_norm": False,
    },
    "grouped": {"n_kv_head": 1},
    "bare": {"positions": "none", "activation": "relu2"},
}
