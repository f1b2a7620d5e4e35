"""Encodings: nothing lost where that is promised, exactly what is said lost elsewhere, and positions as distances."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from arbook import data, encodings
from arbook.ar import lag_matrix
from arbook.tokens import Corpus, WordTokenizer, ids_from_slots
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.nn import functional as F

WORD_I, AM = ids_from_slots([25, 7], 1000)
sequences = st.integers(1, 12).flatmap(
    lambda v: st.tuples(st.just(v), st.lists(st.integers(0, v - 1), max_size=10))
)
batches = st.tuples(st.integers(1, 7), st.integers(1, 4), st.integers(0, 6)).flatmap(
    lambda s: st.tuples(
        st.just(s[0]), hnp.arrays(np.int64, s[1:], elements=st.integers(0, s[0] - 1))
    )
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


# --- bags -------------------------------------------------------------------------------------------------------------


def test_the_bag_of_the_lectures_example_has_ones_at_slots_25_and_7():
    """S33, S34: and nowhere else; from 0 these are 24 and 6."""
    x = encodings.bag([WORD_I, AM], 1000)
    assert x.shape == (1000,) and x.dtype == np.float64 and x.sum() == 2
    assert np.flatnonzero(x).tolist() == [6, 24] and x[25 - 1] == x[7 - 1] == 1


def test_a_bag_loses_order_and_counts():
    """S35."""
    x = encodings.bag([WORD_I, AM], 1000)
    for same in ([AM, WORD_I], [WORD_I, AM, AM], [AM, WORD_I, AM, WORD_I]):
        assert (encodings.bag(same, 1000) == x).all()
    assert not (encodings.bag([WORD_I], 1000) == x).all()


@given(sequences)
def test_unbag_returns_the_set_of_the_ids_and_nothing_more(case):
    """S35."""
    vocab_size, ids = case
    x = encodings.bag(ids, vocab_size)
    assert encodings.unbag(x) == set(ids)
    assert encodings.unbag(torch.from_numpy(x)) == encodings.unbag(x.astype(bool)) == set(ids)
    assert all(type(i) is int for i in encodings.unbag(x))


@given(batches)
def test_a_batch_gives_what_the_single_rows_give(case):
    vocab_size, ids = case
    bags = encodings.bag(ids, vocab_size)
    matrices = encodings.onehot_matrix(ids, vocab_size, 5)
    sparse = encodings.onehot_sparse(ids, vocab_size, 5)
    for b, row in enumerate(ids):
        assert (bags[b] == encodings.bag(row, vocab_size)).all()
        assert (matrices[b] == encodings.onehot_matrix(row, vocab_size, 5)).all()
        assert (sparse[b].to_dense().numpy() == matrices[b]).all()


# --- collisions -------------------------------------------------------------------------------------------------------


def collisions_by_definition(pairs: list) -> tuple[int, ...]:
    """Compare every context with every other one."""
    pairs = [(tuple(c), y) for c, y in pairs]
    twins = [[(d, z) for d, z in pairs if set(d) == set(c) and d != c] for c, _ in pairs]
    ambiguous = [pair for pair, other in zip(pairs, twins, strict=True) if other]
    conflicting = [
        1 for (_, y), other in zip(pairs, twins, strict=True) if any(z != y for _, z in other)
    ]

    def right(key):  # of a table that knows the best target of every key
        best = {}
        for c, _ in ambiguous:
            best[key(c)] = max(Counter(z for d, z in ambiguous if key(d) == key(c)).values())
        return sum(best.values())

    return len(pairs), len(ambiguous), len(conflicting), right(tuple), right(frozenset)


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=3), st.integers(0, 2)),
        max_size=25,
    )
)
def test_collisions_are_those_of_the_definition(pairs):
    """S35: contexts of one bag, and those whose twins are followed by another word."""
    assert encodings.collisions(pairs) == collisions_by_definition(pairs)


def test_collisions_do_not_depend_on_how_contexts_are_given():
    """A tensor is never equal to another as a key, so taken as it is it would hide every collision."""
    pairs = [([0, 1], 2), ([1, 0], 3), ([0, 1, 1], 2), ([2], 0)]
    expected = encodings.collisions(pairs)
    assert expected.ambiguous == 3
    for make in (tuple, np.array, torch.tensor):
        given = [(make(context), torch.tensor(target)) for context, target in pairs]
        assert encodings.collisions(given) == expected


def test_collisions_of_the_lectures_words():
    """S35: order, counts, and a twin that does not disagree."""
    corpus = Corpus([["I", "am", "a"], ["am", "I", "right"], ["We", "are"]])
    found = encodings.collisions(corpus.pairs())
    assert found == (5, 2, 2, 2, 1)  # of "I", "I am", "am", "am I" and "We" two collide
    assert encodings.collisions([(["I", "am"], "a"), (["am", "I"], "a")]) == (2, 2, 0, 2, 2)
    assert encodings.collisions([(["I", "am"], "a"), (["I", "am", "am"], "a")]).ambiguous == 2
    assert encodings.collisions([(["I", "am"], "a"), (["I", "am"], "b")]) == (2, 0, 0, 0, 0)
    assert encodings.collisions([]) == (0, 0, 0, 0, 0)


def corpus(name: str) -> data.Splits:
    try:
        return data.splits(name)
    except data.DataNotFoundError:
        pytest.skip(f"{name} is not on this machine; set ARBOOK_DATA to its folder")


@pytest.mark.parametrize("name", ["pydoc", "tinyshakespeare", "ptb"])
def test_in_real_text_a_lost_order_loses_next_words(name):
    """S35: where bags collide, order doubles or nearly doubles what can be guessed from four words."""
    text = corpus(name).train[:200_000]
    ids = WordTokenizer.train(text, unk=None).encode_array(text)
    contexts = encodings.windows(ids[:-1], 4).tolist()
    found = encodings.collisions(zip(contexts, ids[4:].tolist(), strict=True))
    assert found.contexts == len(ids) - 4
    assert 0 < found.conflicting <= found.ambiguous < found.contexts
    assert found.right_in_order > 1.4 * found.right_from_bag > 0


# --- windows ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 99), max_size=60), st.integers(1, 6))
def test_a_document_looks_like_its_first_words(ids, T):
    """S36: in particular one of 10 T words."""
    assert encodings.truncate(ids, T).tolist() == ids[:T]
    longer = [*ids[:T], *range(9 * T)] if len(ids) >= T else ids
    assert (encodings.truncate(longer, T) == encodings.truncate(longer[:T], T)).all()
    a, b = (encodings.onehot_matrix(i, 100, T) for i in (longer, longer[:T]))
    assert (a == b).all()


@given(st.lists(st.integers(0, 99), min_size=1, max_size=30), st.integers(1, 9), st.integers(1, 9))
def test_windows_are_those_of_the_loop(ids, T, stride):
    """S36."""
    if len(ids) < T:
        with pytest.raises(ValueError, match=f"at least T = {T} ids, got {len(ids)}"):
            encodings.windows(ids, T, stride)
        return
    found = encodings.windows(ids, T, stride)
    expected = [ids[s : s + T] for s in range(0, len(ids) - T + 1, stride)]
    assert found.tolist() == expected and found.shape == ((len(ids) - T) // stride + 1, T)
    assert found.dtype == np.int64 and not found.flags.writeable


def test_windows_are_the_lag_matrix_of_ids():
    """S5, S36: contexts and targets, and no value stored twice."""
    ids = np.random.default_rng(0).integers(0, 50, 200)
    X, y = lag_matrix(ids, 6)
    found = encodings.windows(ids[:-1], 6)
    assert (found == X).all() and (ids[6:] == y).all() and found.strides == (8, 8)
    assert torch.tensor(found).shape == (194, 6)


# --- the one-hot matrix -----------------------------------------------------------------------------------------------


@given(sequences, st.none() | st.integers(1, 12))
def test_column_t_has_its_single_one_in_the_row_of_its_word(case, T):
    """S37: columns after the text are zero."""
    vocab_size, ids = case
    x = encodings.onehot_matrix(ids, vocab_size, T)
    columns = len(ids) if T is None else T
    expected = np.zeros((vocab_size, columns))
    for t, v in enumerate(ids[:columns]):
        expected[v, t] = 1
    assert x.shape == expected.shape and x.dtype == np.float64 and (x == expected).all()


@given(sequences, st.none() | st.integers(1, 12))
def test_dense_sparse_and_torch_forms_agree(case, T):
    """S37: peer: torch.nn.functional.one_hot, whose time runs along rows."""
    vocab_size, ids = case
    x = encodings.onehot_matrix(ids, vocab_size, T)
    sparse = encodings.onehot_sparse(ids, vocab_size, T)
    assert sparse.is_sparse and sparse.is_coalesced() and sparse.dtype == torch.float32
    assert sparse.shape == x.shape and (sparse.to_dense().numpy() == x).all()
    kept = torch.tensor(ids[:T], dtype=torch.int64)
    assert sparse.values().tolist() == [1] * len(kept)
    assert (F.one_hot(kept, vocab_size).T.numpy() == x[:, : len(kept)]).all()
    assert (encodings.onehot_matrix(kept, vocab_size, T) == x).all()


def test_ids_may_be_lists_arrays_or_tensors_of_any_integer_type():
    expected = encodings.onehot_matrix([2, 0, 1], 3)
    for dtype in (np.int8, np.uint8, np.int32, np.uint64):
        assert (encodings.onehot_matrix(np.array([2, 0, 1], dtype), 3) == expected).all()
    assert (
        encodings.onehot_matrix(torch.tensor([2, 0, 1], dtype=torch.int16), 3) == expected
    ).all()
    assert encodings.onehot_matrix([2], 3, dtype=np.uint8).dtype == np.uint8
    assert encodings.onehot_sparse([2], 3, dtype=torch.float64).dtype == torch.float64


def test_zeros_and_ones_of_every_format_are_read():
    """bfloat16, which NumPy does not have, and sparse tensors included."""
    for dtype in (torch.bool, torch.uint8, torch.float16, torch.bfloat16, torch.float64):
        eye = torch.eye(3).to(dtype)
        assert encodings.decode_onehot(eye).tolist() == [0, 1, 2]
        assert encodings.unbag(eye[1]) == {1}
    assert encodings.decode_onehot(torch.eye(3, dtype=torch.bfloat16).to_sparse()).tolist() == [
        0,
        1,
        2,
    ]
    with pytest.raises(TypeError, match=r"must be integers, got 1.0"):
        encodings.bag(torch.ones(2, dtype=torch.bfloat16), 3)


def test_no_sequences_and_empty_sequences_have_encodings():
    for shape in ((0,), (0, 3), (2, 0)):
        ids = np.zeros(shape, dtype=np.int64)
        assert encodings.bag(ids, 5).shape == (*shape[:-1], 5)
        X = encodings.onehot_matrix(ids, 5)
        assert X.shape == (*shape[:-1], 5, shape[-1])
        assert tuple(encodings.onehot_sparse(ids, 5).shape) == X.shape
    assert not encodings.onehot_gram(np.zeros((0, 2), dtype=np.int64), 3).any()


def test_ten_thousand_random_sequences_come_back_exactly():
    """S39: with repeats, with and without padding."""
    rng = np.random.default_rng(0)
    for _ in range(10_000):
        vocab_size, T = rng.integers(1, 20, size=2)
        ids = rng.integers(0, vocab_size, size=rng.integers(0, T + 1))
        x = encodings.onehot_matrix(ids, vocab_size, T)
        assert encodings.decode_onehot(x).tolist() == ids.tolist()


@given(sequences)
def test_every_form_of_the_matrix_decodes(case):
    """S39."""
    vocab_size, ids = case
    x = encodings.onehot_matrix(ids, vocab_size, 12)
    for form in (x, x.astype(bool), x.tolist(), torch.from_numpy(x).to_sparse()):
        found = encodings.decode_onehot(form)
        assert found.tolist() == ids and found.dtype == np.int64
    as_tensor = encodings.onehot_sparse(ids, vocab_size, 12)
    assert encodings.decode_onehot(as_tensor).tolist() == ids


@pytest.mark.parametrize(("V", "T"), [(1, 3), (2, 2), (2, 3), (3, 2), (3, 3)])
def test_exactly_the_encodings_of_texts_are_decoded(V, T):
    """S39: all 2^(VT) matrices; the sum of V^n of them, n = 0 ... T, are encodings, and give themselves back."""
    valid = 0
    for bits in itertools.product([0, 1], repeat=V * T):
        x = np.reshape(bits, (V, T))
        try:
            ids = encodings.decode_onehot(x)
        except ValueError:
            continue
        valid += 1
        assert (encodings.onehot_matrix(ids, V, T) == x).all()
    assert valid == sum(V**n for n in range(T + 1))


@given(sequences)
def test_entry_v_t_of_the_matrix_is_at_t_times_V_plus_v_of_the_vector(case):
    """S38."""
    vocab_size, ids = case
    x = encodings.onehot_matrix(ids, vocab_size)
    flat = encodings.flatten_columns(x)
    assert flat.shape == (vocab_size * len(ids),)
    assert np.flatnonzero(flat).tolist() == [t * vocab_size + v for t, v in enumerate(ids)]
    assert (flat == np.concatenate([*x.T, []])).all()
    as_tensor = encodings.flatten_columns(torch.from_numpy(x))
    assert isinstance(as_tensor, torch.Tensor) and (as_tensor.numpy() == flat).all()


def test_flattening_keeps_leading_dimensions_and_copies_nothing():
    """S38."""
    x = encodings.onehot_matrix(np.random.default_rng(0).integers(0, 5, (7, 3)), 5, 4)
    flat = encodings.flatten_columns(x)
    assert flat.shape == (7, 20) and np.shares_memory(flat, x) and flat.flags.c_contiguous
    for matrix, vector in zip(x, flat, strict=True):
        assert (encodings.flatten_columns(matrix) == vector).all()
    any_matrix = np.arange(24.0).reshape(2, 3, 4)
    assert encodings.flatten_columns(any_matrix)[1].tolist() == any_matrix[1].T.ravel().tolist()


# --- many windows -----------------------------------------------------------------------------------------------------


@given(batches)
def test_counting_gives_the_gram_matrix_exactly(case):
    vocab_size, ids = case
    design = encodings.flatten_columns(encodings.onehot_matrix(ids, vocab_size))
    gram = encodings.onehot_gram(ids, vocab_size)
    assert gram.dtype == np.float64 and (gram == design.T @ design).all()


def test_windows_with_their_targets_give_both_sides_of_the_normal_equations():
    ids, V, T = np.random.default_rng(0).integers(0, 4, 300), 4, 3
    X = encodings.flatten_columns(encodings.onehot_matrix(encodings.windows(ids[:-1], T), V))
    Y = encodings.onehot_matrix(ids[T:], V).T
    gram = encodings.onehot_gram(encodings.windows(ids, T + 1), V)
    assert (gram[: T * V, : T * V] == X.T @ X).all() and (gram[: T * V, T * V :] == X.T @ Y).all()


@pytest.mark.parametrize(("V", "T"), [(2, 1), (3, 2), (4, 3)])
def test_the_design_has_rank_T_times_V_minus_1_plus_1(V, T):
    """E16: of all V^T windows once, so that nothing but the structure takes rank away."""
    windows = list(itertools.product(range(V), repeat=T))
    design = encodings.flatten_columns(encodings.onehot_matrix(windows, V))
    assert design.shape == (V**T, T * V) and (design.sum(axis=1) == T).all()
    assert np.linalg.matrix_rank(design) == T * (V - 1) + 1


# --- a product is a look-up -------------------------------------------------------------------------------------------


@given(sequences)
def test_one_hot_times_a_matrix_is_a_look_up(case):
    """S38: the same numbers, dense and sparse."""
    vocab_size, ids = case
    E = normal(vocab_size, 3)
    X = encodings.onehot_matrix(ids, vocab_size, len(ids) + 1)
    assert (X.T[: len(ids)] @ E.numpy() == E[ids].numpy()).all()
    sparse = encodings.onehot_sparse(ids, vocab_size, len(ids) + 1, dtype=torch.float64)
    product = sparse.T @ E
    assert (product[:-1] == E[ids]).all() and (product[-1] == 0).all()  # padding has no vector


@given(sequences)
def test_the_gradient_of_a_look_up_is_that_of_the_product(case):
    """S38: X G, a sum over all positions of a word."""
    vocab_size, ids = case
    G = normal(len(ids), 3, seed=1)
    X = encodings.onehot_matrix(ids, vocab_size)
    E = normal(vocab_size, 3).requires_grad_()
    by_look_up, by_product = (
        torch.autograd.grad((vectors * G).sum(), E)[0]
        for vectors in (F.embedding(torch.tensor(ids, dtype=torch.int64), E), torch.tensor(X).T @ E)
    )
    expected = np.zeros((vocab_size, 3))
    np.add.at(expected, np.array(ids, dtype=int), G.numpy())
    for found in (by_look_up.numpy(), by_product.numpy(), X @ G.numpy()):
        assert np.allclose(found, expected, rtol=1e-13, atol=1e-13)  # float64, ten terms at most


# --- positions --------------------------------------------------------------------------------------------------------


def test_frequencies_fall_from_one_geometrically():
    omega = encodings.position_frequencies(64)
    assert omega.dtype == torch.float64 and omega[0] == 1 and omega.shape == (32,)
    assert torch.allclose(omega[1:] / omega[:-1], torch.tensor(10_000 ** (-1 / 32)).double())
    assert encodings.position_frequencies(2).tolist() == [1]
    assert encodings.position_frequencies(4, base=100).tolist() == [1, 0.1]


def test_sinusoidal_positions_are_those_of_the_formula():
    """Vaswani and others, section 3.5, entry by entry."""
    P = encodings.sinusoidal_positions(50, 12, dtype=torch.float64)
    for t, c in itertools.product(range(50), range(12)):
        angle = t / 10_000 ** (2 * (c // 2) / 12)
        expected = math.cos(angle) if c % 2 else math.sin(angle)
        assert abs(P[t, c] - expected) < 1e-13  # float64, angles below 50


@given(st.integers(0, 500), st.integers(0, 500))
def test_a_shift_is_one_linear_map_whatever_the_position(k, t):
    """A rotation of each pair by k omega, exact to 1e-12 in float64."""
    P = encodings.sinusoidal_positions([0, k, t, t + k], 16, dtype=torch.float64)
    angles = k * encodings.position_frequencies(16)
    blocks = [[[a.cos(), a.sin()], [-a.sin(), a.cos()]] for a in angles]
    R = torch.block_diag(*map(torch.tensor, blocks))
    assert torch.allclose(R @ P[0], P[1], rtol=0, atol=1e-12)
    assert torch.allclose(R @ P[2], P[3], rtol=0, atol=1e-12)


def test_products_of_sinusoidal_positions_depend_on_the_distance_only():
    P = encodings.sinusoidal_positions(300, 32, dtype=torch.float64)
    products = P @ P.T
    omega = encodings.position_frequencies(32)
    for k in range(0, 300, 13):
        assert torch.allclose(
            products.diagonal(k), (k * omega).cos().sum().expand(300 - k), rtol=0, atol=1e-11
        )


def rotation_matrix(m: int, D: int, base: float = 10_000.0) -> torch.Tensor:
    """R_m as a matrix, by the definition: channel i turns with channel i + D / 2."""
    R = torch.zeros(D, D, dtype=torch.float64)
    for i in range(D // 2):
        a, j = m * base ** (-2 * i / D), i + D // 2
        R[i, i] = R[j, j] = math.cos(a)
        R[i, j], R[j, i] = -math.sin(a), math.sin(a)
    return R


@pytest.mark.parametrize("shape", [(9, 6), (2, 9, 2), (2, 3, 9, 8)])
@pytest.mark.parametrize("base", [10_000.0, 100])
def test_rotate_multiplies_with_the_rotation_matrix_of_the_position(shape, base):
    x = normal(*shape)
    cos, sin = encodings.rotary_cos_sin(9, shape[-1], base=base, dtype=torch.float64)
    assert cos.shape == sin.shape == (9, shape[-1] // 2)
    y = encodings.rotate(x, cos, sin)
    assert y.shape == x.shape and y.dtype == x.dtype
    for t in range(9):
        expected = x[..., t, :] @ rotation_matrix(t, shape[-1], base).T
        assert torch.allclose(y[..., t, :], expected, rtol=0, atol=1e-12)


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 10_000))
def test_products_of_rotated_vectors_depend_on_the_distance_only(m, n, k):
    """<R_m q, R_n k> == <R_(m+k) q, R_(n+k) k>; float64, angles up to 20,000."""
    pair = normal(2, 16)
    products = []
    for positions in ([m, n], [m + k, n + k]):
        tables = encodings.rotary_cos_sin(positions, 16, dtype=torch.float64)
        q, key = encodings.rotate(pair, *tables)
        products.append(float(q @ key))
    assert abs(products[0] - products[1]) < 1e-10


def test_rotation_keeps_lengths_starts_with_the_identity_and_turns_back():
    x = normal(2, 40, 8)
    cos, sin = encodings.rotary_cos_sin(40, 8, dtype=torch.float64)
    y = encodings.rotate(x, cos, sin)
    assert torch.allclose(y.norm(dim=-1), x.norm(dim=-1), rtol=1e-13)
    assert (y[:, 0] == x[:, 0]).all()
    assert torch.allclose(encodings.rotate(y, cos, -sin), x, rtol=0, atol=1e-13)


def test_neighbours_as_pairs_are_the_same_up_to_the_order_of_channels():
    """Peer: complex multiplication, as in the reference code of several models."""
    x = normal(3, 20, 10)
    angles = encodings.rotary_angles(20, 10)
    paired = torch.view_as_complex(x.unflatten(-1, (5, 2)))
    neighbours = torch.view_as_real(paired * torch.polar(torch.ones_like(angles), angles)).flatten(
        -2
    )
    halves = [*range(0, 10, 2), *range(1, 10, 2)]
    tables = encodings.rotary_cos_sin(20, 10, dtype=torch.float64)
    ours = encodings.rotate(x[..., halves], *tables)
    assert torch.allclose(ours, neighbours[..., halves], rtol=0, atol=1e-13)
    assert not torch.allclose(encodings.rotate(x, *tables), neighbours)


@given(st.integers(0, 200), st.integers(1, 20))
def test_rows_of_a_table_are_what_positions_with_an_offset_give(offset, T):
    """What a key/value cache needs: bit for bit, however the positions are asked for."""
    cos, sin = encodings.rotary_cos_sin(220, 8)
    rows = slice(offset, offset + T)
    x = normal(220, 8).float()
    for positions in (range(offset, offset + T), np.arange(offset, offset + T, dtype=np.int32)):
        some_cos, some_sin = encodings.rotary_cos_sin(positions, 8)
        assert (some_cos == cos[rows]).all() and (some_sin == sin[rows]).all()
    chunk = encodings.rotate(x[rows], cos[rows], sin[rows])
    assert (chunk == encodings.rotate(x, cos, sin)[rows]).all()
    P = encodings.sinusoidal_positions(220, 8)
    assert (encodings.sinusoidal_positions(torch.arange(offset, offset + T), 8) == P[rows]).all()


def test_each_sequence_of_a_batch_may_have_positions_of_its_own():
    x = normal(2, 3, 4, 6)  # (B, H, T, D)
    positions = torch.tensor([[0, 1, 2, 3], [5, 6, 7, 8]])
    cos, sin = encodings.rotary_cos_sin(positions[:, None], 6, dtype=torch.float64)
    assert cos.shape == (2, 1, 4, 3)
    y = encodings.rotate(x, cos, sin)
    for b in range(2):
        alone = encodings.rotary_cos_sin(positions[b], 6, dtype=torch.float64)
        assert torch.equal(y[b], encodings.rotate(x[b], *alone))


def test_tables_are_right_to_the_last_digit_in_long_contexts():
    """Against 50 digits: float32 tables are within half a unit in the last place, also at a million."""
    mpmath = pytest.importorskip("mpmath")
    positions = [0, 1, 1_000, 131_071, 1_048_575]
    cos, sin = encodings.rotary_cos_sin(positions, 128)
    with mpmath.workdps(50):
        for (row, t), i in itertools.product(enumerate(positions), range(0, 64, 7)):
            angle = t * mpmath.mpf(10_000) ** (-mpmath.mpf(2 * i) / 128)
            assert abs(float(cos[row, i]) - mpmath.cos(angle)) < 2**-25 + 1e-9
            assert abs(float(sin[row, i]) - mpmath.sin(angle)) < 2**-25 + 1e-9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_short_formats_are_rounded_once_and_last(dtype):
    """With float32 tables the result is the exact one, rounded: half a unit, and what float32 adds."""
    x = normal(4, 2_000, 16).to(dtype)
    y = encodings.rotate(x, *encodings.rotary_cos_sin(2_000, 16))
    exact = encodings.rotate(x.double(), *encodings.rotary_cos_sin(2_000, 16, dtype=torch.float64))
    assert y.dtype == dtype
    unit = torch.finfo(dtype).eps / 2
    assert ((y.double() - exact).abs() <= 1.01 * unit * exact.abs() + 1e-6).all()


def test_rotation_has_the_right_gradient():
    x = normal(2, 5, 4).requires_grad_()
    tables = encodings.rotary_cos_sin(5, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: encodings.rotate(x, *tables), x)


def test_dtype_and_device_are_those_asked_for():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        cos, sin = encodings.rotary_cos_sin(3, 4, dtype=dtype, device="cpu")
        P = encodings.sinusoidal_positions(3, 4, dtype=dtype, device="cpu")
        assert cos.dtype == sin.dtype == P.dtype == dtype
    assert encodings.rotary_cos_sin(3, 4, device="meta")[0].device.type == "meta"
    assert encodings.sinusoidal_positions(3, 4, device="meta").device.type == "meta"
    assert encodings.onehot_sparse([1], 3, device="meta").device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_computes_the_same():
    x = normal(2, 3, 50, 16)
    cpu = encodings.rotate(x, *encodings.rotary_cos_sin(50, 16, dtype=torch.float64))
    tables = encodings.rotary_cos_sin(50, 16, dtype=torch.float64, device="cuda")
    assert torch.allclose(encodings.rotate(x.cuda(), *tables).cpu(), cpu, rtol=1e-12)
    ids = torch.tensor([2, 0, 1], device="cuda")
    assert (encodings.onehot_matrix(ids, 3) == encodings.onehot_matrix([2, 0, 1], 3)).all()
    assert encodings.onehot_sparse(ids, 3, device="cuda").is_cuda


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda ids: encodings.bag(ids, 5),
        lambda ids: encodings.onehot_matrix(ids, 5, 3),
        lambda ids: encodings.onehot_sparse(ids, 5, 3),
        lambda ids: encodings.onehot_gram(ids, 5),
    ],
)
@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ("I am", TypeError, "words are not numbers, encode them first"),
        (["I", "am"], TypeError, "words are not numbers, encode them first"),
        ([["I", "am"]], TypeError, "words are not numbers, encode them first"),
        ([1.0, 2.0], TypeError, "1.0 of type float"),
        ([[1.0, 2.0]], TypeError, "1.0 of type float"),
        (torch.tensor([1.0]), TypeError, "1.0 of type float"),
        ([True], TypeError, "True of type bool"),
        ([0, -1], ValueError, r"ids\[1\] is -1; it must be between 0 and 4"),
        ([0, 5], ValueError, r"ids\[1\] is 5; it must be between 0 and 4"),
        ([[0, 1], [2, 5]], ValueError, r"ids.ravel\(\)\[3\] is 5"),
        (torch.tensor([[7]]), ValueError, r"ids.ravel\(\)\[0\] is 7"),
        ([[0], [0, 1]], ValueError, "ragged"),
        ([[[0]]], ValueError, r"shape \(T,\) or \(B, T\), got shape \(1, 1, 1\)"),
        (3, ValueError, r"shape \(T,\) or \(B, T\)"),
    ],
)
def test_ids_that_are_none_are_refused(call, ids, error, message):
    """S26."""
    with pytest.raises(error, match=message):
        call(ids)


TABLES = encodings.rotary_cos_sin(3, 4)
X = torch.zeros(3, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: encodings.bag([0], 0), ValueError, "vocab_size must be at least 1, got 0"),
        (lambda: encodings.bag([0], 2.0), TypeError, "vocab_size must be an integer"),
        (lambda: encodings.onehot_matrix([0], 2, 0), ValueError, "T must be at least 1, got 0"),
        (lambda: encodings.onehot_matrix([0], 2, 1.5), TypeError, "T must be an integer, got 1.5"),
        (lambda: encodings.onehot_sparse([0], 2, 0), ValueError, "T must be at least 1, got 0"),
        (lambda: encodings.truncate([0], 0), ValueError, "T must be at least 1, got 0"),
        (lambda: encodings.truncate([-1], 1), ValueError, r"ids\[0\] is -1"),
        (lambda: encodings.truncate("I am", 1), TypeError, "words are not numbers"),
        (lambda: encodings.truncate([[0]], 1), ValueError, r"one sequence, got shape \(1, 1\)"),
        (lambda: encodings.windows([0], 0), ValueError, "T must be at least 1, got 0"),
        (lambda: encodings.windows([0], 1, 0), ValueError, "stride must be at least 1, got 0"),
        (lambda: encodings.windows([0], True), TypeError, "T must be an integer, got True"),
        (lambda: encodings.windows([0.5], 1), TypeError, "0.5 of type float"),
        (lambda: encodings.windows([0], 2), ValueError, "at least T = 2 ids, got 1"),
        (lambda: encodings.windows([[0]], 1), ValueError, r"one sequence, got shape \(1, 1\)"),
        (lambda: encodings.onehot_gram([0], 2), ValueError, r"shape \(n, T\), got shape \(1,\)"),
        (lambda: encodings.collisions([("I am", "a")]), TypeError, "got text: 'I am'"),
        (lambda: encodings.unbag([0, 2]), ValueError, "only 0 and 1, got 2"),
        (lambda: encodings.unbag([[0, 1]]), ValueError, r"1 dimension.*\(1, 2\)"),
        (lambda: encodings.unbag(["a"]), TypeError, "must hold numbers"),
        (lambda: encodings.decode_onehot([0, 1]), ValueError, r"2 dimension.*\(2,\)"),
        (lambda: encodings.decode_onehot(np.zeros((1, 2, 3))), ValueError, r"\(1, 2, 3\)"),
        (lambda: encodings.decode_onehot([[0.5]]), ValueError, "only 0 and 1, got 0.5"),
        (lambda: encodings.decode_onehot([[np.nan]]), ValueError, "only 0 and 1, got nan"),
        (lambda: encodings.decode_onehot([[-1.0]]), ValueError, "only 0 and 1, got -1"),
        (lambda: encodings.decode_onehot([["a"]]), TypeError, "must hold numbers"),
        (lambda: encodings.decode_onehot([[0, 1], [0, 1]]), ValueError, r"x\[:, 1\] holds 2 ones"),
        (lambda: encodings.decode_onehot([[1, 0, 1]]), ValueError, r"x\[:, 1\] is padding"),
        (lambda: encodings.flatten_columns(np.zeros(3)), ValueError, r"got shape \(3,\)"),
        (lambda: encodings.sinusoidal_positions(3, 5), ValueError, "width must be even, got 5"),
        (lambda: encodings.rotary_cos_sin(3, 5), ValueError, "width must be even, got 5"),
        (lambda: encodings.rotary_cos_sin(3, 0), ValueError, "width must be at least 2, got 0"),
        (lambda: encodings.rotary_cos_sin(3, 4.0), TypeError, "width must be an integer"),
        (lambda: encodings.rotary_cos_sin(0, 4), ValueError, "positions must be at least 1, got 0"),
        (lambda: encodings.rotary_cos_sin([], 4), ValueError, "at least one position"),
        (lambda: encodings.rotary_cos_sin([0, -1], 4), ValueError, r"positions\[1\] is -1"),
        (lambda: encodings.rotary_cos_sin([0.5], 4), TypeError, "0.5 of type float"),
        (lambda: encodings.rotary_cos_sin(2.5, 4), TypeError, "positions must be an integer"),
        (lambda: encodings.rotary_cos_sin("3", 4), TypeError, "positions must be an integer"),
        (lambda: encodings.rotary_angles(3, 4, base=1), ValueError, "base must be .* above 1"),
        (lambda: encodings.rotary_angles(3, 4, base=math.nan), ValueError, "base must be .* nan"),
        (lambda: encodings.rotary_angles(3, 4, base=math.inf), ValueError, "base must be .* inf"),
        (lambda: encodings.rotary_angles(3, 4, base="10"), TypeError, "base must be a number"),
        (lambda: encodings.rotary_cos_sin(3, 4, dtype=torch.int64), TypeError, "got torch.int64"),
        (lambda: encodings.sinusoidal_positions(3, 4, dtype=float), TypeError, "dtype must be"),
        (lambda: encodings.rotate(X.long(), *TABLES), TypeError, "x must be .* got torch.int64"),
        (lambda: encodings.rotate(X[:2], *TABLES), ValueError, r"\(\.\.\., 3, 4\).*got \(2, 4\)"),
        (lambda: encodings.rotate(X[:1], *TABLES), ValueError, r"\(\.\.\., 3, 4\).*got \(1, 4\)"),
        (lambda: encodings.rotate(X, *(t[:1] for t in TABLES)), ValueError, r"\(\.\.\., 1, 4\)"),
        (lambda: encodings.rotate(X[:, :3], *TABLES), ValueError, r"got \(3, 3\)"),
        (lambda: encodings.rotate(X[0], *TABLES), ValueError, r"got \(4,\)"),
        (lambda: encodings.rotate(X.numpy(), *TABLES), TypeError, "x must be .* got float32"),
        (lambda: encodings.rotate(X, *(t.long() for t in TABLES)), TypeError, "cos must be"),
        (lambda: encodings.rotate(X, TABLES[0], TABLES[1] * 1j), TypeError, "sin must be"),
        (lambda: encodings.rotate(X, *(t[None] for t in TABLES)), ValueError, r"\(1,\).* \(\)"),
        (
            lambda: encodings.rotate(X.expand(1, 3, 4), *(t.expand(2, 3, 2) for t in TABLES)),
            ValueError,
            r"leading dimensions \(2,\), which x has not: \(1,\)",
        ),
        (
            lambda: encodings.rotate(X.expand(3, 3, 4), *(t.expand(2, 3, 2) for t in TABLES)),
            ValueError,
            "leading dimensions",
        ),
        (lambda: encodings.rotary_angles(3, 4, base=10**400), ValueError, "base must be a finite"),
        (lambda: encodings.rotary_angles([2**31], 4), ValueError, r"positions\[0\] is 2147483648"),
        (lambda: encodings.rotary_angles([[1], [1, 2]], 4), ValueError, "got a ragged list"),
        (lambda: encodings.flatten_columns([[1, 0]]), TypeError, "an array or a tensor, got list"),
        (
            lambda: encodings.rotate(X, TABLES[0], TABLES[1][:2]),
            ValueError,
            "cos and sin must both",
        ),
        (lambda: encodings.rotate(X, TABLES[0][0], TABLES[1][0]), ValueError, "cos and sin must"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    """S26, and every promised error."""
    with pytest.raises(error, match=message):
        call()
