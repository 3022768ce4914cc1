"""Splits: disjoint, complete, stratified, reproducible, duplicates together; and the fingerprint."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from data_helpers import image_folder, noise
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.core.errors import UserError
from sfumato.data import Dataset, Examples, InMemory, load_dataset
from sfumato.data.content import Content
from sfumato.data.randomness import random_keys, random_unit
from sfumato.data.splits import duplicate_groups, make_splits


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(2, 40), min_size=1, max_size=5),
    st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.9, 0.0, 0.1), (1.0, 0.0, 0.0)]),
    st.integers(0, 2**40),
    st.integers(1, 10**6),
)
def test_splits_are_disjoint_complete_stratified_and_keep_duplicates_together(sizes, shares, seed, values):
    y = np.repeat(np.arange(len(sizes)), sizes)
    x = np.random.default_rng(seed).integers(0, values, (len(y), 1))
    content = Content("x", x, y, tuple(map(str, range(len(sizes)))))
    if len(y) < 3 and shares[0] < 1:
        with pytest.raises(UserError, match="at least 3"):
            make_splits(content, shares, seed)
        return
    splits = make_splits(content, shares, seed)
    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(len(y)))
    groups = duplicate_groups(x)
    owner = np.empty(len(y), dtype=int)
    for number, rows in enumerate(splits.values()):
        owner[rows] = number
    for group in np.unique(groups):
        assert len({*owner[groups == group]}) == 1
    if len(np.unique(groups)) == len(y):
        for number, size in enumerate(sizes):
            counts = [int((y[rows] == number).sum()) for rows in splits.values()]
            assert counts[0] >= 1
            assert all(abs(count - size * share) <= 2 for count, share in zip(counts, shares, strict=True))
            assert all(count >= 1 for count, share in zip(counts, shares, strict=True) if share and size >= 3)
    again = make_splits(content, shares, seed)
    assert all(np.array_equal(splits[name], again[name]) for name in splits)


def test_totals_are_the_shares_exactly():
    y = np.repeat(np.arange(3), [333, 333, 334])
    data = load_dataset((noise(1000, 4), y))
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 800, "validation": 100, "test": 100}


def test_another_seed_gives_another_split():
    x = noise(300, 4)
    one, other = load_dataset(x, seed=0), load_dataset(x, seed=1)
    assert not np.array_equal(one.splits["test"], other.splits["test"])
    assert np.array_equal(one.splits["test"], load_dataset(x, seed=0).splits["test"])


def test_splits_are_the_ones_of_this_release():
    """A change here gives people other test sets than their runs recorded."""
    splits = make_splits(Content("x", np.arange(20).reshape(20, 1)), (0.8, 0.1, 0.1), 0)
    assert splits["test"].tolist() == TEST
    assert splits["validation"].tolist() == VALIDATION
    assert random_keys(2, 1, 2).tolist() == KEYS


TEST = [7, 16]
VALIDATION = [6, 14]
KEYS = [15089344930316534111, 16796351085087039872]


def test_random_unit_is_uniform_and_below_one():
    values = random_unit((100_000,), 3)
    assert values.dtype == np.float32
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 0.5) < 0.005
    assert abs(values.var() - 1 / 12) < 0.002


def test_a_class_with_one_sample_is_named_with_the_cure(tmp_path):
    folder = image_folder(tmp_path / "photos", {"circle": 4, "star": 1})
    with pytest.raises(UserError, match=r"'star' has one \(star/000.png\).* Add examples"):
        load_dataset(folder)
    with pytest.raises(UserError, match=r"'7' has one \(row 2\)"):
        load_dataset((noise(3, 4), np.array([5, 5, 7])))
    assert load_dataset((noise(3, 4), np.array([5, 5, 7])), split=(1, 0, 0)).num_classes == 2


def test_unknown_labels_need_no_partner():
    data = load_dataset((noise(9, 4), np.array([0, 0, 0, 0, 1, 1, 1, 1, -1])))
    assert data.num_classes == 2
    assert data.y[8] == -1


def test_too_few_examples_are_refused():
    with pytest.raises(UserError, match=r"at least 3 examples.*got 2"):
        load_dataset(noise(2, 4))


@pytest.mark.parametrize("split", [(0.5, 0.5), (0.5, 0.4, 0.2), (0, 0.5, 0.5), (1.2, -0.1, -0.1), (float("nan"), 0, 1)])
def test_shares_that_do_not_add_up_are_refused(split):
    with pytest.raises(UserError, match="--split"):
        load_dataset(noise(9, 4), split=split)


def dataset(**changes: object) -> Dataset:
    rows = {"train": np.arange(6), "validation": np.arange(6, 8), "test": np.arange(8, 10)}
    base = Dataset("d", noise(10, 4), np.arange(10) % 2, rows, ("a", "b"), ("p", "q", "r", "s"))
    return replace(base, **changes)


def test_the_fingerprint_follows_everything_that_matters_and_nothing_else():
    base = dataset()
    touched = base.x.copy()
    touched[9, 3] ^= 1
    rows = dict(base.splits, train=np.arange(1, 6))
    swapped = dict(base.splits, validation=base.splits["test"], test=base.splits["validation"])
    others = [
        dataset(x=touched),
        dataset(x=base.x.astype(np.int64)),
        dataset(x=base.x.reshape(10, 2, 2)),
        dataset(y=1 - base.y),
        dataset(y=None),
        dataset(class_names=("a", "c")),
        dataset(class_names=("ab", ""), columns=base.columns),
        dataset(columns=("p", "q", "s", "r")),
        dataset(splits=rows),
        dataset(splits=swapped),
    ]
    prints = [base.fingerprint, *(other.fingerprint for other in others)]
    assert len({*prints}) == len(prints)
    assert all(len(one) == 64 for one in prints)
    assert dataset(name="other", origin={"source": "x"}, items=None).fingerprint == base.fingerprint
    assert dataset(x=np.asfortranarray(base.x)).fingerprint == base.fingerprint


def test_overlapping_splits_are_refused():
    with pytest.raises(ValueError, match="disjoint"):
        dataset(splits={"train": np.arange(6), "validation": np.arange(5, 8), "test": np.arange(8, 10)})
    with pytest.raises(ValueError, match="disjoint"):
        dataset(splits={"train": np.arange(6), "validation": np.arange(6, 8), "test": np.arange(8, 11)})


def test_examples_gather_by_index_and_keep_the_type():
    data = dataset()
    examples = data.split("validation")
    assert isinstance(examples, Examples)
    assert isinstance(examples, InMemory)
    assert (len(examples), examples.shape) == (2, (4,))
    x, y = examples.batch(torch.tensor([1, 0, 1]))
    assert x.dtype == torch.uint8
    assert np.array_equal(x.numpy(), data.x[[7, 6, 7]])
    assert y.tolist() == [1, 0, 1]
    assert examples.to("cpu").batch(torch.tensor([0]))[1].tolist() == [0]
    assert dataset(y=None).split("train").batch(torch.tensor([0]))[1] is None
    with pytest.raises(UserError, match="Did you mean 'train'"):
        data.split("trian")
