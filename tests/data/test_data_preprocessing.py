"""Preprocessing: exact inverses, honest volumes, binarisation that repeats where it says so."""

import math

import numpy as np
import pytest
import torch
from data_helpers import noise
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.core.errors import UserError
from sfumato.core.numerics import fixed_noise
from sfumato.core.spec import from_spec, to_spec
from sfumato.data import Binarise, Identity, Integers, Levels, Standardise, load_dataset

GREY = noise(40, 1, 6, 6)
MEMBERS = [
    (Identity((1, 6, 6)), GREY & 1),
    (Levels((1, 6, 6)), GREY),
    (Levels((1, 6, 6), 256, 1.0), (GREY / np.float32(255)).astype(np.float32)),
    (Levels((1, 6, 6), 2, 255.0), (GREY & 1) * np.uint8(255)),
    (Integers((1, 6, 6), 16), GREY % 16),
    (Integers((3,), 1000), np.arange(999, dtype=np.int64).reshape(-1, 3)),
    (Standardise((3,)), np.random.default_rng(0).normal([1, 50, -3], [1, 9, 0.1], (50, 3)).astype(np.float32)),
    (Standardise((1, 6, 6)), GREY),
    (Binarise((1, 6, 6), "fixed"), (GREY & 1) * np.uint8(255)),
    (Binarise((1, 6, 6), "dynamic", high=1.0), (GREY & 1).astype(np.float32)),
]


def fitted(member, raw):
    return member.fit(raw) if isinstance(member, Standardise) else member


@pytest.mark.parametrize(("member", "raw"), MEMBERS, ids=lambda value: type(value).__name__)
def test_inverse_undoes_forward_and_the_result_is_float32(member, raw):
    member = fitted(member, raw)
    member.check(raw, "raw")
    x = member(torch.from_numpy(raw))
    assert x.dtype == torch.float32
    assert x.shape == raw.shape
    back = member.inverse(x)
    discrete = raw.dtype.kind in "iu" and not isinstance(member, Standardise | Identity)
    assert back.dtype.is_floating_point != discrete
    np.testing.assert_allclose(back.numpy(), raw, rtol=1e-5, atol=1e-4 if isinstance(member, Standardise) else 1e-7)


@pytest.mark.parametrize(("member", "raw"), MEMBERS, ids=lambda value: type(value).__name__)
def test_spec_and_tensors_give_the_same_map_again(member, raw):
    member = fitted(member, raw)
    again = from_spec(to_spec(member), "preprocessing")
    again.load_state_dict(member.state_dict())
    assert torch.equal(again(torch.from_numpy(raw)), member(torch.from_numpy(raw)))
    assert again.log_abs_det == member.log_abs_det
    with pytest.raises(UserError, match="expected examples of shape"):
        member(torch.zeros(2, 7))
    with pytest.raises(UserError, match="expected examples of shape"):
        member.expected(torch.zeros(2, 7))


@pytest.mark.parametrize("shape", [(4,), (2, 3, 3)])
def test_log_abs_det_is_autograds(shape):
    raw = np.random.default_rng(1).normal(5, 3, (100, *shape))
    member = Standardise(shape).double().fit(raw)
    size = math.prod(shape)
    jacobian = torch.autograd.functional.jacobian(
        lambda flat: (flat.reshape(1, *shape) - member.mean).div(member.scale).flatten(),
        torch.from_numpy(raw[0]).flatten(),
    )
    through = torch.autograd.functional.jacobian(
        lambda flat: member(flat.reshape(1, *shape)).flatten(), torch.from_numpy(raw[0]).flatten()
    )
    assert jacobian.shape == (size, size)
    assert member.log_abs_det == pytest.approx(float(torch.linalg.slogdet(jacobian)[1]), abs=1e-10)
    assert member.log_abs_det == pytest.approx(float(torch.linalg.slogdet(through.double())[1]), abs=1e-5)
    assert abs(member.log_abs_det) > 1


def test_density_in_raw_units_comes_out_right():
    """log p(raw) = log p(x) + log_abs_det against the normal density in raw units."""
    raw = np.random.default_rng(2).normal([10, -2], [4, 0.5], (5000, 2))
    member = Standardise((2,)).fit(raw)
    x = member(torch.from_numpy(raw))
    log_p = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(-1).mean() + member.log_abs_det
    truth = torch.distributions.Normal(*map(torch.as_tensor, (raw.mean(0), raw.std(0)))).log_prob(torch.from_numpy(raw))
    assert float(log_p) == pytest.approx(float(truth.sum(-1).mean()), abs=1e-4)


def test_standardise_fits_mean_and_deviation_and_guards_constant_columns():
    raw = np.stack([np.full(100, 7.0), np.arange(100.0), np.full(100, 1e6)], axis=1)
    member = Standardise((3,)).fit(raw)
    x = member(torch.from_numpy(raw))
    assert member.scale[0] == 1
    assert member.scale[2] == 1
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(x[:, 1].std(correction=0), 1, atol=1e-5)
    images = Standardise((1, 6, 6)).fit(GREY)
    assert images.scale.shape == ()
    assert float(images(torch.from_numpy(GREY)).std(correction=0)) == pytest.approx(1, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 300), st.data())
def test_levels_land_exactly_where_the_likelihood_expects_them(levels, data):
    k = data.draw(st.lists(st.integers(0, levels - 1), min_size=1, max_size=20))
    raw = torch.tensor([k])
    member = Levels((len(k),), levels)
    x = member(raw)
    assert torch.equal(x, raw.float() / (levels - 1))
    assert torch.equal(member.inverse(x).long(), raw)
    assert member.inverse(torch.tensor([[-0.3, 1.3]])).tolist() == [[0, levels - 1]]


def test_dynamic_binarisation_is_a_fresh_draw_with_the_right_mean_and_a_function_of_the_seed():
    member = Binarise((1000,), "dynamic")
    raw = torch.full((100, 1000), 64, dtype=torch.uint8)
    one, other = member(raw), member(raw)
    assert not torch.equal(one, other)
    assert {*one.unique().tolist()} == {0.0, 1.0}
    assert float(one.mean()) == pytest.approx(64 / 255, abs=0.006)
    with fixed_noise(7):
        first = member(raw)
    with fixed_noise(7):
        assert torch.equal(member(raw), first)
    assert torch.equal(member.expected(raw), raw.float() / 255)


def test_fixed_binarisation_is_drawn_once_and_repeats():
    data = load_dataset(noise(1500, 1, 8, 8))
    member = Binarise((1, 8, 8), "fixed", seed=3)
    prepared = member.prepare(data)
    assert {*np.unique(prepared.x).tolist()} == {0, 255}
    assert prepared.x.dtype == np.uint8
    assert np.array_equal(prepared.x, Binarise((1, 8, 8), "fixed", seed=3).prepare(data).x)
    assert not np.array_equal(prepared.x, Binarise((1, 8, 8), "fixed", seed=4).prepare(data).x)
    assert prepared.fingerprint != data.fingerprint
    assert np.array_equal(prepared.splits["test"], data.splits["test"])
    # idempotent: what is binarised stays so, in both modes and under any noise
    x = member(torch.from_numpy(prepared.x))
    assert torch.equal(x, torch.from_numpy(prepared.x).float() / 255)
    assert torch.equal(Binarise((1, 8, 8), "dynamic")(torch.from_numpy(prepared.x)), x)
    assert np.array_equal(member.prepare(prepared).x, prepared.x)
    # the right probability, and independent between examples (one mask for all would make these correlate)
    assert (prepared.x == 255).mean() == pytest.approx(data.x.mean() / 255, abs=0.005)
    flat = np.full((1100, 1, 8, 8), 128, dtype=np.uint8)
    drawn = member.prepare(load_dataset(flat, split=(1, 0, 0))).x.reshape(1100, -1) / 255
    assert abs(np.corrcoef(drawn[0], drawn[1])[0, 1]) < 0.5
    assert drawn.mean(0).std() < 0.03
    assert not np.array_equal(drawn[0], drawn[1024])


def test_a_new_image_is_binarised_the_same_way_each_time():
    member = Binarise((50, 50), "fixed", seed=1)
    raw = torch.full((3, 50, 50), 200, dtype=torch.uint8)
    torch.manual_seed(0)
    x = member(raw)
    assert torch.equal(x, member(raw))
    assert torch.equal(x, member.expected(raw))
    assert torch.equal(x[0], x[1])
    assert float(x.mean()) == pytest.approx(200 / 255, abs=0.03)
    assert not torch.equal(x, Binarise((50, 50), "fixed", seed=2)(raw))
    assert not member.state_dict()


def test_dynamic_prepare_changes_nothing():
    data = load_dataset(noise(10, 4))
    assert Binarise((4,), "dynamic").prepare(data) is data
    assert Levels((4,)).prepare(data) is data


@pytest.mark.parametrize(
    ("member", "raw", "says"),
    [
        (Identity((1,)), [[0], [2]], "0 and 1.*got 2"),
        (Levels((1,)), [[256]], "256 levels from 0 to 255.*got 256"),
        (Levels((1,)), [[0.5]], "got 0.5"),
        (Integers((1,), 4), [[-1]], "4 levels from 0 to 3.*got -1"),
        (Binarise((1,), "dynamic"), [[300]], "from 0 to 255 to be binarised; got 300"),
    ],
)
def test_values_that_a_map_is_not_made_for_are_named(member, raw, says):
    with pytest.raises(UserError, match=f"the data should hold .*{says}"):
        member.check(np.array(raw), "the data")


@pytest.mark.parametrize("build", [lambda: Levels((2,), 1), lambda: Integers((2,), 1), lambda: Binarise((2,), "maybe")])
def test_bad_arguments_are_refused(build):
    with pytest.raises(UserError):
        build()
