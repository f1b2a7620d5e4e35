"""Small models, texts and settings that the tests of training share."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from arbook.machines import Team
from arbook.objective import LanguageModel
from arbook.recurrent import LSTMLM, LSTMConfig
from arbook.training import TrainConfig
from arbook.transformer import GPT, GPTConfig
from torch import Tensor, nn

V = 11
TEXT = np.random.default_rng(0).integers(0, V, 400)


SOLO = Team(0, 1, torch.device("cpu"))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny_gpt(seed: int = 0, dropout: float = 0.1, **changes) -> GPT:
    config = GPTConfig.modern(V, 8, 16, 2, 2, dropout=dropout, **changes)
    return GPT(config, generator=rng(seed))


def tiny_lstm(seed: int = 0, **changes) -> LSTMLM:
    """All of AWD-LSTM's regularisers, so that every one of them has to survive a resume."""
    options = {"n_embd": 6, "n_hidden": 8, "n_layer": 2, "tied": True, "weight_drop": 0.2}
    options |= {"input_dropout": 0.1, "activation_penalty": 2.0, "slowness_penalty": 1.0}
    return LSTMLM(LSTMConfig(V, **(options | changes)), generator=rng(seed))


def plain_lstm(seed: int = 0, **changes) -> LSTMLM:
    options = {"input_dropout": 0.0, "weight_drop": 0.0, "tied": False, "n_layer": 1}
    options |= {"activation_penalty": 0.0, "slowness_penalty": 0.0}
    return tiny_lstm(seed, **(options | changes))


def stream_config(max_steps: int = 12, **changes) -> TrainConfig:
    """400 tokens, 4 streams, windows of 12: 8 steps per epoch, so that 12 steps end in the middle of the second one."""
    return tiny_config(max_steps, **({"order": "stream", "block_size": 12} | changes))


def tiny_config(max_steps: int = 12, **changes) -> TrainConfig:
    options = {"batch_size": 4, "lr": 1e-2, "warmup_steps": 2, "device": "cpu", "log_every": 1}
    return TrainConfig(max_steps, **(options | changes))


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(name == other and torch.equal(x, y) for (name, x), (other, y) in pairs)


class Table(LanguageModel):
    """A bigram model, the smallest there is."""

    def __init__(self, vocab_size: int = V):
        super().__init__()
        self.vocab_size, self.table = vocab_size, nn.Embedding(vocab_size, vocab_size)

    def forward(self, ids):
        return self.table(ids)


@dataclass(frozen=True)
class OwnConfig:
    """Of a model that no module of the library knows."""

    vocab_size: int
    width: int = 6
    n_layer: int = 2


class Memory(NamedTuple):
    """Its state: what each layer remembers, and how many tokens were read, (B, ...) each."""

    layers: tuple[Tensor, ...]
    read: Tensor


class Leak(nn.Module):
    """A layer that forgets a part of what it remembers at each token."""

    def __init__(self, width: int):
        super().__init__()
        self.mix, self.rate = nn.Linear(width, width), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        rows = []
        for new in self.mix(x).tanh().unbind(1):
            h = h.lerp(new, self.rate.sigmoid())
            rows.append(h)
        return torch.stack(rows, dim=1), h  # (B, t, C), (B, C)


class Own(LanguageModel):
    """A reader's model: a stack of leaky layers, which also sees how long the text is."""

    def __init__(self, config: OwnConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config, self.vocab_size = config, config.vocab_size
        self.table = nn.Embedding(config.vocab_size, config.width)
        self.stack = nn.ModuleList(Leak(config.width) for _ in range(config.n_layer))
        self.head = nn.Linear(config.width, config.vocab_size)
        for p in self.parameters():
            nn.init.normal_(p, std=0.3, generator=generator)

    def init_state(self, batch_size):
        zeros = self.head.weight.new_zeros
        layers = tuple(zeros(batch_size, self.config.width) for _ in self.stack)
        return Memory(layers, zeros(batch_size))

    def step(self, ids, state):
        count = state.read[:, None] + torch.arange(1, ids.shape[1] + 1, device=ids.device)
        x, layers = self.table(ids) + torch.cos(count)[..., None], []
        for layer, h in zip(self.stack, state.layers, strict=True):
            x, h = layer(x, h)
            layers.append(h)
        return self.head(x), Memory(tuple(layers), count[:, -1])

    def forward(self, ids):
        return self.step(ids, self.init_state(len(ids)))[0]

    def parts(self):
        return list(self.stack)


def own(seed: int = 0) -> Own:
    return Own(OwnConfig(V), generator=rng(seed))
