"""Conformance: models that keep their promises pass, and whichever promise is broken is named."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from arbook import conformance
from arbook import objective as ob
from arbook.files import CHECKPOINT_FILES, CheckpointError, read_weights, write_checkpoint
from arbook.guards import Bounds, Checked, Count
from arbook.losses import reduce_losses
from test_objective import Peeking, Prefix, Running, Table, random_ids
from torch import nn

ALWAYS = {*"steps chunks states causality batch log_prob loss sum windows".split()}


@pytest.mark.parametrize(
    ("model", "more"),
    [
        (Table(), {"select", "rewind"}),
        (Prefix(), {"select", "rewind"}),
        (Running(), set()),
        (Table(context_length=5), {"select", "rewind"}),
    ],
)
def test_models_that_keep_the_promises_pass(model, more):
    """S1, S19, S45: default and fast versions alike, and what nobody promised is not asked."""
    found = conformance.check_conformance(model)
    assert set(found) == ALWAYS | more
    assert max(found.values()) < 1e-12


class Skewed(Running):
    def step(self, ids, state):
        logits, state = super().step(ids, state)
        return logits + 0.1 * torch.arange(7) * state[1], state


class FirstChunkOnly(Running):
    def step(self, ids, state):
        return super().step(ids, state if ids.shape[1] == 1 else self.init_state(len(ids)))


class BatchMean(Prefix):
    def forward(self, ids):
        logits = super().forward(ids)
        return logits + logits[:, :1, :].mean(0)


class WrongScore(Prefix):
    def log_prob(self, ids):
        return super().log_prob(ids) + 0.01


class WrongLoss(Prefix):
    def log_prob(self, ids):
        return super().log_prob(ids)[:, 1:]


class OneTooMany(Prefix):
    def forward(self, ids):
        return F.pad(super().forward(ids), (0, 1))


class NotANumber(Prefix):
    def forward(self, ids):
        return super().forward(ids) * torch.nan


class Impossible(Prefix):
    def forward(self, ids):
        return torch.full_like(super().forward(ids), -torch.inf)


class Integers(Prefix):
    def forward(self, ids):
        return super().forward(ids).long()


class LastTokenMissing(Running):
    """A cache that is read before the new token is written: off by one."""

    def step(self, ids, state):
        total, n = state
        sums = total[:, None] + self.rows[ids].cumsum(1) - self.rows[ids]
        counts = torch.arange(n + 1, n + ids.shape[1] + 1)[:, None]
        return sums / counts, (total + self.rows[ids].sum(1), n + ids.shape[1])


class ChunkCountsAsOne(Running):
    """Positions are wrong after a chunk: it moves the counter by 1."""

    def step(self, ids, state):
        logits, (total, _) = super().step(ids, state)
        return logits, (total, state[1] + 1)


class ForgetsChunkBeforeToken(Running):
    """Only a single token after a longer chunk goes wrong, as when a prompt is followed by generation."""

    def step(self, ids, state):
        *kept, last = state
        if last > 1 and ids.shape[1] == 1:
            kept = super().init_state(len(ids))
        logits, new = super().step(ids, kept)
        return logits, (*new, ids.shape[1])

    def init_state(self, batch_size):
        return (*super().init_state(batch_size), 0)


class MemoryInTheModel(Running):
    """The count lives in the model, where `init_state` resets it: right for one text at a time only."""

    def init_state(self, batch_size):
        self.n = 0
        return super().init_state(batch_size)

    def step(self, ids, state):
        logits, (total, _) = super().step(ids, (state[0], self.n))
        self.n += ids.shape[1]
        return logits, (total, 0)


class RowsShareTheState(Running):
    def step(self, ids, state):
        return super().step(ids, (state[0].mean(0, keepdim=True).expand_as(state[0]), state[1]))


class ShiftedLogits(Prefix):
    """Row t describes token t itself, which it has read."""

    def forward(self, ids):
        return super().forward(ids).roll(-1, 1)


class DividesByLength(Running):
    def forward(self, ids):
        return Table.forward(self, ids).cumsum(1) / ids.shape[1]


class AlwaysDropping(Prefix):
    def forward(self, ids):
        return F.dropout(super().forward(ids), 0.5, training=True)


class ChangesItsIds(Prefix):
    def forward(self, ids):
        return super().forward(ids.clamp_(max=3))


class MeanOverIgnored(Prefix):
    def loss(self, ids, targets, reduction="mean", *, ignore_index=ob.IGNORE):
        losses = super().loss(ids, targets, "none", ignore_index=ignore_index)
        return reduce_losses(losses, torch.zeros_like(targets), reduction)


class MeanOfRowMeans(Prefix):
    def loss(self, ids, targets, reduction="mean", *, ignore_index=ob.IGNORE):
        losses = super().loss(ids, targets, "none", ignore_index=ignore_index)
        return losses if reduction == "none" else losses.mean(1).sum()


class AverageForNone(Prefix):
    def loss(self, ids, targets, reduction="mean", *, ignore_index=ob.IGNORE):
        return super().loss(ids, targets, "mean", ignore_index=ignore_index)

    def log_prob(self, ids):
        return -super().loss(ids[:, :-1], ids[:, 1:], "none")


class LogitsAndLoss(Prefix):
    def forward(self, ids):
        return super().forward(ids), None


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (LastTokenMissing(), "token by token"),
        (ChunkCountsAsOne(), "in chunks"),
        (ForgetsChunkBeforeToken(), "in chunks"),
        (MemoryInTheModel(), "another text"),
        (RowsShareTheState(), "token by token"),
        (ShiftedLogits(), "token by token"),
        (DividesByLength(), "token by token"),
        (AlwaysDropping(), "token by token"),
        (ChangesItsIds(), "must not change the ids"),
        (MeanOverIgnored(), "loss must be"),
        (MeanOfRowMeans(), "loss must be"),
        (AverageForNone(), r"'none' must return shape \(3, 12\), got \(\)"),
        (LogitsAndLoss(), "logits only, got tuple"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_plausible_mistakes_are_found_and_named(model, message):
    """S45, S46: with the default ids, and wherever the chunks are cut."""
    for seed in range(8):
        with pytest.raises(conformance.ConformanceError, match=message):
            conformance.check_conformance(model, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("T", range(2, 14))
def test_chunks_of_the_test_cover_the_text_and_mix_sizes(T):
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        sizes = conformance.chunk_sizes(T, generator)
        assert sum(sizes) == T and min(sizes) >= 1
        assert T < 5 or (sizes[0] > 1 and sizes[1] == 1 and sizes[2] > 1)


def test_conformance_needs_two_positions_and_works_with_two():
    assert max(conformance.check_conformance(Running(context_length=2)).values()) < 1e-12
    assert max(conformance.check_conformance(Running(vocab_size=1)).values()) < 1e-12
    with pytest.raises(ValueError, match="at least 2 positions, got 1"):
        conformance.check_conformance(Table(context_length=1))
    with pytest.raises(ValueError, match="must be between 0 and 6"):
        conformance.check_conformance(Table(), torch.tensor([[0, 7, 1]]))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Skewed(), "token by token"),
        (FirstChunkOnly(), "in chunks"),
        (Peeking(), "token by token|before a position"),
        (BatchMean(), "row of a batch"),
        (WrongScore(), "log_prob must be"),
        (WrongLoss(), r"log_prob must return shape \(3, 11\), got \(3, 10\)"),
        (OneTooMany(), "logits must have shape"),
        (NotANumber(), "must be numbers"),
        (Impossible(), "some token must be possible"),
        (Integers(), "floating point"),
    ],
)
def test_models_that_break_a_promise_are_named_with_it(model, message):
    with pytest.raises(conformance.ConformanceError, match=message):
        conformance.check_conformance(model)


def test_conformance_takes_given_ids_and_a_tolerance():
    model = Running().float()
    ids = random_ids(7, 2, 30)
    model.forward = lambda ids: Running.forward(model, ids) + 1e-6 * torch.rand(1)
    with pytest.raises(conformance.ConformanceError):
        conformance.check_conformance(model, ids, tolerance=0.0)
    assert conformance.check_conformance(model, ids, tolerance=1e-3)


def test_models_with_impossible_tokens_can_conform():
    model = Table()
    with torch.no_grad():
        model.rows[:, 2] = -torch.inf
    assert max(conformance.check_conformance(model).values()) < 1e-12


def test_conformance_leaves_the_mode_of_every_part():
    class Dropping(Running):
        def __init__(self):
            super().__init__()
            self.drop, self.frozen = nn.Dropout(0.5), nn.Dropout(0.5).eval()

        def step(self, ids, state):
            logits, state = super().step(ids, state)
            return self.drop(logits), state

    model = Dropping()
    assert max(conformance.check_conformance(model).values()) < 1e-12  # no dropout while it looks
    assert model.training and model.drop.training and not model.frozen.training


# --- what a model may promise besides ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class GateConfig(Checked):
    vocab_size: Count
    width: Count = 8
    keep: Annotated[float, Bounds(above=0, below=1)] = 0.5
    squash: Literal["tanh", "none"] = "tanh"


class Gate(ob.LanguageModel):
    """A model as a reader would write it: an exponential average whose state is a pair of tensors of rows."""

    def __init__(self, config: GateConfig):
        super().__init__()
        self.config, self.vocab_size = config, config.vocab_size
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.head = nn.Linear(config.width, config.vocab_size)

    def init_state(self, batch_size):
        h = self.head.weight.new_zeros(batch_size, self.config.width)
        return h, torch.zeros(batch_size, dtype=torch.int64, device=h.device)

    def step(self, ids, state):
        (h, n), rows = state, []
        for x in self.embedding(ob.as_token_ids(ids, self.vocab_size)).unbind(1):
            h = h.lerp(x, 1 - self.config.keep)
            rows.append(h.tanh() if self.config.squash == "tanh" else h)
        return self.head(torch.stack(rows, dim=1)), (h, n + ids.shape[1])

    def forward(self, ids):
        return self.step(ids, self.init_state(len(ids)))[0]

    def select(self, state, rows):
        return ob.rows_of(state, rows)


def gate(kind=Gate, **changes):
    torch.manual_seed(0)
    return kind(GateConfig(7, **changes)).double()


def test_a_readers_model_keeps_what_it_promises():
    found = conformance.check_conformance(gate())
    assert set(found) == ALWAYS | {"select", "files"} and max(found.values()) < 1e-12


class WrongRows(Gate):
    """Its rows come in the order in which they were."""

    def select(self, state, rows):
        return ob.rows_of(state, rows.sort().values)


class LayersFirst(Gate):
    """A state as torch.nn has it, of which the first axis is taken for the batch."""

    def init_state(self, batch_size):
        h, n = super().init_state(batch_size)
        return h[None], n

    def step(self, ids, state):
        logits, (h, n) = super().step(ids, (state[0][0], state[1]))
        return logits, (h[None], n)


class RewindsTooFar(Prefix):
    def rewind(self, state, n):
        return super().rewind(state, n - 1)


class RewindsNothing(Prefix):
    def rewind(self, state, n):
        return state


class ForgetsBetweenWindows(Gate):
    def loss_and_state(self, inputs, targets, state=None, reduction="mean", *, ignore_index=-100):
        return super().loss_and_state(inputs, targets, None, reduction, ignore_index=ignore_index)


class NotExact(Gate):
    exact_chunks = True

    def step(self, ids, state):
        logits, state = super().step(ids, state)
        return logits * (1 + 1e-15 * ids.shape[1]), state


class HasASecret(Gate):
    """Something that neither its configuration nor its weights know."""

    def __init__(self, config: GateConfig):
        super().__init__(config)
        self.scale = 1.0

    def forward(self, ids):
        return super().forward(ids)

    def step(self, ids, state):
        logits, state = super().step(ids, state)
        return self.scale * logits, state


class CountsNothing(Gate):
    def flops(self, T):
        return float("nan")


class ForeignParts(Gate):
    def parts(self):
        return [nn.Linear(1, 1)]


def secretive():
    model = gate(HasASecret)
    model.scale = 2.0
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (gate(WrongRows), "select must return"),
        (gate(LayersFirst), r"select must return the state of these rows \(IndexError: "),
        (RewindsTooFar(), "rewind must return"),
        (RewindsNothing(), "rewind must return"),
        (gate(ForgetsBetweenWindows), "loss_and_state must read"),
        (gate(NotExact), "exact_chunks says"),
        (secretive(), "configuration and its weights"),
        (gate(CountsNothing), "flops must be"),
        (gate(ForeignParts), "parts must be"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_promise_that_is_made_and_broken_is_named(model, message):
    with pytest.raises(conformance.ConformanceError, match=message):
        conformance.check_conformance(model)


def test_a_model_of_vectors_has_the_same_default_steps():
    class Sums(ob.SequenceModel):
        def forward(self, inputs):
            return inputs.cumsum(1)

        def compare(self, outputs, targets, reduction="mean", *, ignore_index=-100):
            losses = (outputs - targets).square().sum(-1)
            return {"mean": losses.mean(), "sum": losses.sum(), "none": losses}[reduction]

    model, x = Sums(), torch.arange(24.0).reshape(2, 4, 3)
    state = model.init_state(2)
    for t in range(4):
        outputs, state = model.step(x[:, t : t + 1], state)
        assert torch.equal(outputs[:, 0], x[:, : t + 1].sum(1))
    assert torch.equal(model.select(state, torch.tensor([1])), x[1:])
    assert torch.equal(model.rewind(state, 2), x[:, :2])
    assert model.loss(x, x.cumsum(1) + 1) == 3 and not model.carries
    loss, penalty, after = model.loss_and_state(x[:, :2], x[:, :2], None, "sum")
    assert (loss, penalty) == ((x.cumsum(1) - x)[:, :2].square().sum(), 0)
    assert torch.equal(after, x[:, :2])
    with pytest.raises(NotImplementedError, match="does not define compare"):
        ob.SequenceModel().compare(x, x)


def test_the_state_of_a_window_is_cut_from_the_gradients_of_the_next():
    model, ids = gate(), random_ids(7, 2, 6)
    loss, _, state = model.loss_and_state(ids[:, :3], ids[:, 1:4])
    assert loss.requires_grad and not state[0].requires_grad
    assert gate().carries and not Prefix().carries and not Table(context_length=5).carries


def test_a_state_may_be_nested_and_hold_what_is_no_tensor():
    state = (torch.arange(3), [torch.eye(3), (4, None)])
    chosen = ob.rows_of(state, torch.tensor([2, 2, 0]))
    assert chosen[0].tolist() == [2, 2, 0] and chosen[1][1] == (4, None)
    assert torch.equal(chosen[1][0], torch.eye(3)[[2, 2, 0]]) and isinstance(chosen[1], list)


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_readers_model_is_saved_and_loaded_by_its_class_and_by_its_base(tmp_path):
    model, ids = gate(keep=np.float32(0.25)).float(), random_ids(7, 2, 5)
    model.save(tmp_path)
    state = torch.random.get_rng_state()
    for cls in (Gate, ob.LanguageModel, ob.SequenceModel):
        loaded = cls.load(tmp_path)
        assert type(loaded) is Gate and loaded.config == model.config and not loaded.training
        assert torch.equal(loaded(ids), model(ids))
    assert torch.equal(torch.random.get_rng_state(), state)  # no number was drawn


def test_precision_and_shared_weights_survive(tmp_path):
    class Tied(Gate):
        def __init__(self, config: GateConfig):
            super().__init__(config)
            self.head.weight = self.embedding.weight

    gate(Tied).save(tmp_path)
    loaded = Tied.load(tmp_path)
    assert (
        loaded.head.weight is loaded.embedding.weight and loaded.head.weight.dtype == torch.float64
    )


def test_a_class_that_a_notebook_defines_again_counts_as_the_latest(tmp_path):
    def define():
        class Again(Gate):
            pass

        return Again

    first, second = define(), define()
    first(GateConfig(7)).save(tmp_path)
    assert type(ob.LanguageModel.load(tmp_path)) is second
    assert type(first.load(tmp_path)) is first


def test_files_of_an_unknown_class_and_of_another_are_refused(tmp_path):
    gate().save(tmp_path)
    with pytest.raises(CheckpointError, match="format 'Gate', not of 'WrongRows'"):
        WrongRows.load(tmp_path)
    program = f"from arbook.objective import LanguageModel; LanguageModel.load({str(tmp_path)!r})"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "format 'Gate'" in result.stderr and "defined or imported first" in result.stderr


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"version": 1', '"version": 2', "version 2"),
        ('"width": 8', '"width": 8, "height": 1', "must set"),
        ('"width": 8', '"width": 0', "width must be at least 1"),
        ('"width": 8', '"width": 9', r"of shape \(7, 8\); its configuration asks for \(7, 9\)"),
    ],
)
def test_files_that_do_not_make_a_model_are_refused(tmp_path, old, new, words):
    gate().save(tmp_path)
    config, weights = (tmp_path / name for name in CHECKPOINT_FILES)
    text = json.dumps(json.loads(config.read_text()))
    assert old in text
    write_checkpoint(tmp_path, json.loads(text.replace(old, new)), read_weights(weights)[0])
    with pytest.raises(CheckpointError, match=words):
        Gate.load(tmp_path)


def test_a_model_without_a_configuration_says_what_it_needs(tmp_path):
    with pytest.raises(TypeError, match="a Running cannot be saved: it needs an attribute config"):
        Running().save(tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_file_never_decides_which_code_is_loaded(tmp_path):
    for name in ("os.system", "arbook.cli.main", "subprocess.Popen", None, 3):
        write_checkpoint(tmp_path, {"format": name, "version": 1}, {})
        with pytest.raises(CheckpointError, match="is of the format"):
            ob.LanguageModel.load(tmp_path)


# --- all that is done with a model is done with that of a reader ------------------------------------------------------


def test_a_readers_model_is_generated_from_searched_and_drafts():
    from arbook.sampling import beam_search, best_of_n, generate, speculative_generate, stream

    model = gate()
    options = {"max_new_tokens": 12, "generator": torch.Generator().manual_seed(1)}
    written = generate(model, [1, 2], **options).ids[0]
    options["generator"].manual_seed(1)
    one_by_one = [int(step.ids[0]) for step in stream(model, [1, 2], **options)]
    assert one_by_one == written.tolist()
    best = beam_search(model, [1, 2], beam_width=7**2, max_new_tokens=2)
    rows = torch.cartesian_prod(torch.arange(7), torch.arange(7))
    texts = torch.cat([torch.tensor([[1, 2]]).expand(49, 2), rows], dim=1)
    sums = model.log_prob(texts)[:, 1:].sum(1).detach()
    assert float(sum(best.log_probs[0])) == pytest.approx(float(sums.max()))
    assert len(best_of_n(model, [1, 2], n=3, max_new_tokens=4).ids[0]) == 4
    drafted = speculative_generate(model, gate(keep=0.3), [1, 2], max_new_tokens=12, sampler=None)
    assert len(drafted.ids[0]) == 12


@pytest.mark.parametrize("order", ["random", "stream"])
def test_a_readers_model_is_trained_saved_scored_and_resumed(order, tmp_path):
    from arbook.perplexity import score
    from arbook.training import TrainConfig, train

    ids = torch.tensor([0, 1, 2, 3, 4, 5, 6, 2, 1, 3] * 60)
    settings = {"batch_size": 4, "block_size": 8, "lr": 0.05, "order": order, "progress": False}
    before = score(gate(), ids).perplexity
    model = train(gate(), ids[:500], ids[500:], TrainConfig(60, **settings)).model
    model.save(tmp_path / "model")
    after, copy = score(model, ids).perplexity, ob.LanguageModel.load(tmp_path / "model")
    assert after < 0.7 * before and score(copy, ids).perplexity == after
    assert score(model, ids, context_length=16).perplexity == pytest.approx(after, rel=0.05)
    for steps in (30, 60):  # the second call goes on where the first one stopped
        stopped = TrainConfig(
            60, **settings, checkpoint_dir=str(tmp_path / "run"), checkpoint_every=30
        )
        limited = {"max_seconds": 1e-9} if steps == 30 else {}
        result = train(gate(), ids[:500], ids[500:], replace(stopped, **limited))
    assert torch.equal(result.model.head.weight, model.head.weight)


def test_a_readers_model_compresses():
    from arbook.compression import compress, decompress

    torch.manual_seed(0)
    model, data = Gate(GateConfig(256)), bytes(range(100)) * 3
    assert decompress(compress(data, model), model) == data
