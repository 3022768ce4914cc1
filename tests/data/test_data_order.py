"""The batch is a pure function of (seed, epoch, position)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.data import Order, batch_at, epoch_order


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 60), st.integers(0, 2**53), st.integers(0, 3))
def test_every_epoch_visits_every_example_once(count, batch_size, seed, epoch):
    order = Order(count, batch_size, seed)
    first = epoch * order.steps_per_epoch
    batches = [order(step) for step in range(first, first + order.steps_per_epoch)]
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert 1 <= len(batches[-1]) <= batch_size
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(count))
    assert torch.cat(batches).dtype == torch.int64


def test_a_batch_does_not_depend_on_what_was_asked_before_or_on_global_randomness():
    order = Order(1000, 64, seed=3)
    straight = [order(step) for step in range(40)]
    torch.manual_seed(123)
    state = torch.get_rng_state()
    for step in (39, 0, 17, 16, 38):
        assert torch.equal(order(step), straight[step])
        assert torch.equal(batch_at(step, 1000, 64, seed=3), straight[step])
    assert torch.equal(torch.get_rng_state(), state)


def test_seed_epoch_and_salt_each_give_another_order():
    orders = [epoch_order(500, *args) for args in ((0, 0), (1, 0), (0, 1), (0, 0, 1), (1, 1))]
    for i, one in enumerate(orders):
        for other in orders[i + 1 :]:
            assert (one == other).float().mean() < 0.05
    assert torch.equal(orders[0], epoch_order(500, 0, 0, 0))


def test_it_is_a_real_shuffle():
    """Over many epochs every example is equally likely at every place (chi-squared, 99 cells with mean 40)."""
    count, epochs = 10, 400
    table = torch.zeros(count, count)
    for epoch in range(epochs):
        table[torch.arange(count), epoch_order(count, 0, epoch)] += 1
    chi = ((table - epochs / count) ** 2 / (epochs / count)).sum()
    assert 40 < chi < 130  # 81 degrees of freedom


def test_the_order_is_the_one_of_this_release():
    """A change here breaks the exact resume of runs that people have."""
    assert epoch_order(10, seed=0, epoch=0).tolist() == EPOCH_ORDER
    assert batch_at(7, 10, 4, seed=5, salt=2).tolist() == BATCH


EPOCH_ORDER = [0, 5, 3, 9, 6, 7, 8, 1, 2, 4]
BATCH = [6, 4, 7, 1]


@pytest.mark.parametrize(("count", "batch_size"), [(0, 1), (1, 0)])
def test_nonsense_is_refused(count, batch_size):
    with pytest.raises(ValueError, match="at least 1"):
        Order(count, batch_size, 0)
    with pytest.raises(ValueError, match="at least 0"):
        Order(1, 1, 0)(-1)
