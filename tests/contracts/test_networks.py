"""The contract of ``sfumato.networks``."""

from __future__ import annotations

import pytest
import torch
from contract import Case, ModuleContract, Numbers, covered, documented, flat, numbers, public_classes
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato import networks
from sfumato.core.errors import UserError
from sfumato.networks import (
    MLP,
    Composed,
    ConvDecoder,
    ConvEncoder,
    Embedded,
    KLDecoder,
    KLEncoder,
    Log1p,
    Penalised,
    SeriesDecoder,
    SeriesEncoder,
    SpectralNorm,
    TransformerDecoder,
    TransformerEncoder,
    UNet,
    WithLabel,
    WithMask,
)
from sfumato.networks.transformer import Block

LABELS = torch.tensor([0, 2, -1, 1])


def call(network, dtype: torch.dtype, scale: float) -> Numbers:
    y = LABELS if network.sees_label else None
    return [network(numbers(4, *network.in_shape, dtype=dtype, scale=scale), y)]


def case(name: str, build) -> Case:
    return Case(name, build, call)


EXAMPLES = {
    "MLP": [
        case("plain", lambda: MLP((3, 4), (5,), hidden=(7, 6))),
        case("gated", lambda: MLP((6,), (2, 5), hidden=(7,), gated=True)),
        case("affine", lambda: MLP((6,), (5,), hidden=())),
        case("trunk", lambda: MLP((6,), (5,), hidden=(7,), activation="tanh", activate_output=True)),
        case("gated-trunk", lambda: MLP((6,), (5,), hidden=(7,), gated=True, activate_output=True)),
        *[case(name, lambda name=name: MLP((6,), (5,), activation=name)) for name in ("silu", "gelu", "elu")],
    ],
    "Penalised": [
        case("", lambda: Penalised(MLP((4,), (3,), hidden=(5,)), gradient=0.1, weights=0.01)),
        case("label", lambda: Penalised(WithLabel(MLP((7,), (3,)), 3), gradient=0.1)),
    ],
    "SpectralNorm": [
        case("", lambda: SpectralNorm(MLP((4,), (3,), hidden=(5,)))),
        case("label", lambda: SpectralNorm(WithLabel(MLP((7,), (3,)), 3))),
    ],
    "ConvEncoder": [
        case("odd", lambda: ConvEncoder((3, 7, 5), (4,), widths=(4, 6))),
        case("flat", lambda: ConvEncoder((1, 4, 4), (2, 3), widths=(), blocks=2)),
        case("more-axes", lambda: ConvEncoder((2, 3, 8, 6), (4,), widths=(4,))),
    ],
    "ConvDecoder": [
        case("odd", lambda: ConvDecoder((4,), (2, 3, 7, 5), widths=(4, 6))),
        case("deep", lambda: ConvDecoder((4,), (1, 1, 9, 9), widths=(3, 4, 5, 6), blocks=2)),
    ],
    "KLEncoder": [
        case("halved", lambda: KLEncoder((1, 6, 4), (2, 2 * 3 * 2), widths=(4, 6), groups=2)),
        case("grid", lambda: KLEncoder((3, 4, 8), (2, 1, 2, 4), (4, 4), 2, (False, True), False, 2, "gelu", False)),
        case("one-size", lambda: KLEncoder((1, 3, 2), (2, 6), (4,), groups=2, centre=0.5, scale=0.5)),
    ],
    "KLDecoder": [
        case("doubled", lambda: KLDecoder((2 * 3 * 2,), (2, 1, 6, 4), widths=(4, 6), groups=2, scale=0.5)),
        case("grid", lambda: KLDecoder((1, 2, 4), (1, 3, 4, 8), (4, 4), 2, (True, False), False, 2, "mish", False)),
    ],
    "Log1p": [case("", lambda: Log1p((3, 4)))],
    "Composed": [
        case("counts", lambda: Composed(Log1p((6,)), MLP((6,), (5,), hidden=(7,)))),
        case("label", lambda: Composed(Log1p((6,)), WithLabel(MLP((6 + 3,), (5,), hidden=(7,)), num_classes=3))),
    ],
    "Embedded": [
        case("one-hot", lambda: Embedded((0, 3, 0, 2), counts=(2,))),
        case("vectors", lambda: Embedded((0, 3, 0), widest=2)),
    ],
    "SeriesEncoder": [
        case("odd", lambda: SeriesEncoder((2, 11), (4,), widths=(3, 4))),
        case("more-axes", lambda: SeriesEncoder((2, 3, 8), (2, 2), widths=(4,), blocks=3, kernel=5)),
    ],
    "SeriesDecoder": [
        case("odd", lambda: SeriesDecoder((4,), (2, 2, 11), widths=(3, 4))),
        case("short", lambda: SeriesDecoder((4,), (1, 1, 3), widths=(3, 4), blocks=1)),
    ],
    "TransformerEncoder": [
        case("numbers", lambda: TransformerEncoder((5, 3), (4,), width=8, heads=2, depth=1)),
        case("set", lambda: TransformerEncoder((5, 3), (2, 2), width=8, heads=2, positions=False)),
        case("tokens", lambda: TransformerEncoder((5,), (4,), width=8, heads=2, depth=1, vocabulary=3)),
    ],
    "TransformerDecoder": [
        case("numbers", lambda: TransformerDecoder((4,), (2, 5, 3), width=8, heads=2, depth=1)),
        case("tokens", lambda: TransformerDecoder((4,), (7, 5), width=8, heads=2)),
    ],
    "UNet": [
        case("odd", lambda: UNet((3, 7, 5), (2, 3, 7, 5), widths=(4, 6), groups=2)),
        case("one-size", lambda: UNet((1, 4, 4), (1, 4, 4), widths=(4,), groups=2)),
        case("deep", lambda: UNet((1, 9, 6), (1, 1, 9, 6), widths=(2, 4, 4), groups=2)),
    ],
    "WithMask": [
        case("vector", lambda: WithMask(MLP((2 * 6,), (5,), hidden=(7,)))),
        case("image", lambda: WithMask(ConvEncoder((2 * 2, 7, 5), (4,), widths=(4, 6)))),
    ],
    "WithLabel": [
        case("vector", lambda: WithLabel(MLP((6 + 3,), (5,), hidden=(7,)), num_classes=3)),
        case("row", lambda: WithLabel(MLP((6 + 3,), (5,), hidden=(7,)), num_classes=3, in_shape=(1, 2, 3))),
        case("image", lambda: WithLabel(ConvEncoder((1 + 3, 7, 5), (4,), widths=(4, 6)), num_classes=3)),
        case("decoder", lambda: WithLabel(ConvDecoder((4 + 3,), (1, 1, 7, 5), widths=(4, 6)), num_classes=3)),
    ],
}


def test_every_public_class_has_examples() -> None:
    covered(networks, EXAMPLES)


@pytest.mark.parametrize("cls", public_classes(networks))
def test_documentation(cls: type) -> None:
    documented(cls, "Args:", "Returns (call):")


@flat(EXAMPLES)
class TestNetworks(ModuleContract):
    def test_any_leading_dimensions(self, case: Case) -> None:
        network = case.build()
        x = numbers(2, 4, *network.in_shape, dtype=torch.float32)
        full = network(x)
        assert full.shape == (2, 4, *network.out_shape)
        assert network(x[0, 0]).shape == network.out_shape
        torch.testing.assert_close(network(x[0]), full[0])
        torch.testing.assert_close(network(x[0, 0]), full[0, 0])
        assert network(x[:0]).shape == (0, 4, *network.out_shape)

    def test_a_wrong_shape_is_refused_with_the_cure(self, case: Case) -> None:
        network = case.build()
        with pytest.raises(UserError, match=r"expects inputs of shape.*Build it with in_shape"):
            network(torch.zeros(4, *network.in_shape[:-1], network.in_shape[-1] + 1))

    def test_float32_comes_out_of_autocast(self, case: Case) -> None:
        network = case.build()
        with torch.autocast("cpu", torch.bfloat16):
            assert network(numbers(4, *network.in_shape, dtype=torch.float32)).dtype == torch.float32


@settings(max_examples=25)
@given(height=st.integers(1, 40), width=st.integers(1, 40), channels=st.integers(1, 4), depth=st.integers(1, 3))
def test_images_of_any_size_come_back_at_their_own(height: int, width: int, channels: int, depth: int) -> None:
    shape, widths = (channels, height, width), (3, 4, 5)[:depth]
    z = ConvEncoder(shape, (2,), widths=widths)(torch.zeros(2, *shape))
    assert z.shape == (2, 2)
    assert ConvDecoder((2,), (2, *shape), widths=widths)(z).shape == (2, 2, *shape)


def test_with_label_is_a_one_hot_input_and_a_missing_label_is_none() -> None:
    inner = MLP((2 + 3,), (4,), hidden=())
    network = WithLabel(inner, num_classes=3)
    x = numbers(4, 2, dtype=torch.float32)
    one_hot = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0]])
    torch.testing.assert_close(network(x, LABELS), inner(torch.cat([x, one_hot], -1)))
    torch.testing.assert_close(network(x), inner(torch.cat([x, torch.zeros(4, 3)], -1)))
    torch.testing.assert_close(network(x, torch.full((4,), -1)), network(x))


def test_with_label_gives_images_constant_planes() -> None:
    inner = ConvEncoder((1 + 3, 2, 2), (4,), widths=(2,))
    x = numbers(2, 1, 2, 2, dtype=torch.float32)
    planes = torch.zeros(2, 3, 2, 2)
    planes[0, 1], planes[1, 0] = 1, 1
    expected = inner(torch.cat([x, planes], 1))
    torch.testing.assert_close(WithLabel(inner, 3)(x, torch.tensor([1, 0])), expected)


def test_with_label_gives_a_row_a_few_numbers_more() -> None:
    inner = MLP((4 + 3,), (5,), hidden=())
    network = WithLabel(inner, 3, in_shape=(1, 2, 2))
    x = numbers(2, 1, 2, 2, dtype=torch.float32)
    one_hot = torch.tensor([[0.0, 1, 0], [1, 0, 0]])
    torch.testing.assert_close(network(x, torch.tensor([1, 0])), inner(torch.cat([x.flatten(1), one_hot], 1)))
    with pytest.raises(UserError, match=r"Build it with in_shape=\(9,\)"):
        WithLabel(inner, 3, in_shape=(1, 2, 3))


def test_with_label_serves_every_sample_of_z() -> None:
    network = WithLabel(MLP((2 + 3,), (4,)), num_classes=3)
    z = numbers(5, 4, 2, dtype=torch.float32)
    rows = torch.stack([network(level, LABELS) for level in z])
    torch.testing.assert_close(network(z, LABELS), rows)


def test_with_label_needs_room() -> None:
    with pytest.raises(UserError, match="Build it with in_shape"):
        WithLabel(MLP((3,), (4,)), num_classes=3)


@pytest.mark.parametrize("build", [lambda: ConvEncoder((5,), (2,)), lambda: ConvDecoder((2,), (1, 5))])
def test_convolutions_want_images(build) -> None:
    with pytest.raises(UserError, match="Use MLP for vectors"):
        build()


def test_a_fresh_residual_block_is_the_identity() -> None:
    """The last convolution of each block starts at zero weights (Fixup)."""
    encoder = ConvEncoder((1, 4, 4), (2,), widths=(3,), blocks=3)
    x = numbers(2, 3, 4, 4, dtype=torch.float32)
    block = encoder.layers[1]
    torch.testing.assert_close(block(x) - x, block.second.bias.reshape(1, 3, 1, 1).expand_as(x))


def test_a_missing_value_is_zero_and_marked() -> None:
    network = WithMask(MLP((4,), (4,), hidden=()))
    torch.nn.init.eye_(network.network.layers[-1].weight)
    torch.nn.init.zeros_(network.network.layers[-1].bias)
    x = torch.tensor([[2.0, torch.nan]], requires_grad=True)
    found = network(x)
    torch.testing.assert_close(found, torch.tensor([[2.0, 0.0, 1.0, 0.0]]))
    found.sum().backward()
    assert torch.equal(x.grad, torch.tensor([[1.0, 0.0]]))
    with pytest.raises(UserError, match="WithMask needs a network without labels"):
        WithMask(MLP((3,), (4,)))
    with pytest.raises(UserError, match="WithMask needs a network without labels"):
        WithMask(WithLabel(MLP((5,), (4,)), 3))


def test_the_encoder_of_a_set_does_not_see_the_order_and_one_with_positions_does() -> None:
    x = numbers(2, 6, 3, dtype=torch.float32)
    turned = x[:, torch.tensor([3, 1, 5, 0, 2, 4])]
    blind = TransformerEncoder((6, 3), (4,), width=8, heads=2, positions=False)
    torch.testing.assert_close(blind(turned), blind(x))
    seeing = TransformerEncoder((6, 3), (4,), width=8, heads=2)
    assert (seeing(turned) - seeing(x)).abs().max() > 1e-4


def test_attention_is_softmax_of_scaled_products() -> None:
    block = Block(width=6, heads=2).double()
    x = numbers(1, 4, 6)
    query, key, value = block.query_key_value(block.before(x))[0].split(6, -1)
    heads = []
    for head in (slice(0, 3), slice(3, 6)):
        weights = (query[:, head] @ key[:, head].T / 3**0.5).softmax(-1)
        heads.append(weights @ value[:, head])
    after = x[0] + block.joined(torch.cat(heads, -1))
    expected = after + block.narrow(torch.nn.functional.gelu(block.wide(block.after(after))))
    torch.testing.assert_close(block(x)[0], expected)


@settings(max_examples=20)
@given(height=st.integers(1, 20), width=st.integers(1, 20), depth=st.integers(1, 3))
def test_a_u_comes_back_at_its_own_size(height: int, width: int, depth: int) -> None:
    network = UNet((1, height, width), (2, 1, height, width), widths=(4, 8, 8)[:depth], groups=2)
    assert network(torch.zeros(1, 1, height, width)).shape == (1, 2, 1, height, width)


def test_a_u_keeps_what_its_smallest_size_cannot() -> None:
    network = UNet((1, 8, 8), (1, 8, 8), widths=(2, 4), groups=2)
    for below in network.halve:
        torch.nn.init.zeros_(below.weight)  # nothing gets down, so what comes out went across
    x = numbers(2, 1, 8, 8, dtype=torch.float32)
    assert (network(x)[0] - network(x)[1]).abs().max() > 1e-3
    with pytest.raises(UserError, match="UNet gives images of the size that it takes, 8x8"):
        UNet((1, 8, 8), (1, 4, 4), widths=(2,), groups=2)


def test_networks_of_the_wrong_layout_say_what_they_take() -> None:
    with pytest.raises(UserError, match="a multiple of its heads; got 6 and 4"):
        TransformerEncoder((5, 3), (4,), width=6, heads=4)
    with pytest.raises(UserError, match="needs series"):
        SeriesEncoder((5,), (4,))
    with pytest.raises(UserError, match="counts among those without levels"):
        Embedded((3, 0), counts=(0,))
    with pytest.raises(UserError, match="Build the next with in_shape=\\(6,\\)"):
        Composed(Log1p((6,)), MLP((5,), (4,)))


def test_a_row_of_a_table_becomes_numbers_marks_and_levels() -> None:
    table = Embedded((0, 3, 0, 5), counts=(2,), widest=4)
    x = torch.tensor([[0.5, 2.0, 9.0, 4.0], [torch.nan, torch.nan, torch.nan, torch.nan]])
    found = table(x)
    vector = table.vectors[0].weight[4]
    expected = torch.cat([torch.tensor([0.5, 0.0]), torch.ones(2), torch.tensor([0.0, 0.0, 1.0]), vector])
    expected[1] = torch.tensor(10.0).log()
    torch.testing.assert_close(found[0], expected)
    assert (found[1] == 0).all()
