"""Convolutions as matrix products: torch's numbers, gradients of every order, and only where they are ours."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sfumato.training.convolutions import MOST, ConvolutionsAsProducts, Folded, Patches, Window, convolution

NUMBERS = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=NUMBERS, requires_grad=True)


@st.composite
def layers(draw):
    """A convolution that fits its image: (transposed, kernel, stride, padding, output padding, channels, image)."""
    kernel, stride = (tuple(draw(st.integers(1, most)) for _ in range(2)) for most in (4, 3))
    padding = tuple(draw(st.integers(0, k - 1)) for k in kernel)
    more = tuple(draw(st.integers(0, step - 1)) for step in stride)
    image = tuple(draw(st.integers(k, 7)) for k in kernel)
    return draw(st.booleans()), kernel, stride, padding, more, draw(st.sampled_from([(1, 2), (3, 1), (2, 3)])), image


@settings(deadline=None, max_examples=60)
@given(layers(), st.booleans())
def test_values_and_gradients_are_torchs(layer, with_bias):
    transposed, kernel, *rest, (into, out), image = layer
    stride, padding, more = (pair[0] if pair[0] == pair[1] else pair for pair in rest)
    x, bias = normal(2, into, *image), normal(out) if with_bias else None
    weight = normal(into, out, *kernel) if transposed else normal(out, into, *kernel)

    def compute():
        if transposed:
            return F.conv_transpose2d(x, weight, bias, stride, padding, more)
        return F.conv2d(x, weight, bias, stride, padding)

    given_to = [x, weight] + [bias] * with_bias
    want = compute()
    with ConvolutionsAsProducts():
        found = compute()
    torch.testing.assert_close(found, want, rtol=0, atol=1e-12)
    direction = torch.randn(want.shape, dtype=torch.float64, generator=NUMBERS)
    for one, other in zip(*(torch.autograd.grad(y, given_to, direction) for y in (found, want)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_second_derivatives_are_right():
    window = Window((4, 5), kernel=(3, 2), stride=(2, 1), padding=(1, 0))
    assert torch.autograd.gradgradcheck(lambda x: Patches.apply(x, window).pow(3), normal(1, 4, 5, 2))
    rows = Patches.apply(normal(1, 4, 5, 2), window).detach().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda each: Folded.apply(each, window).pow(3), rows)


@pytest.mark.parametrize("layer", [
    nn.Conv2d(4, 4, 3, groups=2),
    nn.Conv2d(4, 2, 3, dilation=2),
    nn.Conv2d(4, 2, 3, padding="same"),
    nn.ConvTranspose2d(4, 4, 3, groups=2),
    nn.ConvTranspose2d(4, 2, 3, dilation=2),
])  # fmt: skip
def test_what_is_not_ours_stays_torchs(layer):
    x = torch.randn(2, 4, 9, 9, generator=NUMBERS)
    want = layer(x)
    with ConvolutionsAsProducts():
        assert torch.equal(layer(x), want)
        assert layer(x[0]).shape == want.shape[1:]


def test_a_very_large_layer_would_fill_the_memory_and_stays_torchs():
    x, weight = torch.empty(1, 1, 1).expand(64, 256, 256, 1).permute(0, 3, 1, 2), torch.empty(1, 1, 4, 4)
    assert x.numel() * weight.numel() > MOST
    assert convolution(x, weight) is None


def test_a_network_computes_the_same_under_padding_modes_and_autocast():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, padding_mode="reflect"),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 3, 4, 2, 1),
    )
    x, other = torch.randn(2, 3, 8, 8, generator=NUMBERS), copy.deepcopy(network)
    want = network(x)
    with ConvolutionsAsProducts():
        torch.testing.assert_close(other(x), want)
        with torch.autocast("cpu", torch.bfloat16):
            assert other(x).dtype == torch.bfloat16
