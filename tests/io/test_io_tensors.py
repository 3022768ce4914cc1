"""Tensors to bytes and back; an optimizer continues as if nothing had happened."""

import contextlib
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from io_helpers import tiny
from safetensors import safe_open
from torch import nn

from sfumato.core.errors import UserError
from sfumato.io.tensors import flatten_optimizer, pack, unflatten_optimizer, unpack

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]
SHAPES = st.lists(st.integers(0, 4), max_size=4)


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
            lambda t: t != "__metadata__"
        ),
        st.tuples(SHAPES, st.sampled_from(DTYPES), st.integers(0, 1000)),
        max_size=6,
    )
)
def test_round_trip_of_tensors(plan):
    tensors = {
        name: torch.rand(shape, generator=torch.Generator().manual_seed(seed)).mul(9).to(dtype)
        for name, (shape, dtype, seed) in plan.items()
    }
    again = unpack(pack(tensors), "file")
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype
        assert again[name].shape == tensor.shape
        assert torch.equal(again[name], tensor)


def test_every_bit_of_odd_numbers_stays():
    bits = torch.tensor([0, 1, 2**31 - 1, -1, 0x7F800000, -0x800000, 0x7FC00001, -(2**31)], dtype=torch.int32)
    assert torch.equal(unpack(pack({"x": bits.view(torch.float32)}), "file")["x"].view(torch.int32), bits)


def test_views_and_shared_memory():
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"base": base, "turned": base.T, "part": base[:, 1:3], "same": base, "none": base[:0], "none2": base[:0]}
    again = unpack(pack(tensors), "file")
    assert all(torch.equal(again[name], value) for name, value in tensors.items())
    again["base"].zero_()
    assert torch.equal(again["same"], base)


def test_the_same_tensors_are_the_same_bytes_and_the_header_says_who_wrote(tmp_path):
    tensors = tiny().state_dict()
    assert pack(tensors) == pack(dict(reversed(tensors.items())))
    (tmp_path / "x.safetensors").write_bytes(pack(tensors, {"step": "3", "library": "mine"}))
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"step": "3", "format": "pt", "library": "sfumato", "format_version": "1"}


def test_every_length_of_a_header_is_read():
    for length in range(1, 300):
        assert unpack(pack({"x" * length: torch.ones(1)}), "file").keys() == {"x" * length}


def test_packing_leaves_the_tensors_alone():
    weight = nn.Parameter(torch.ones(2))
    pack({"w": weight})
    assert weight.requires_grad
    assert not unpack(pack({"w": weight}), "file")["w"].requires_grad


GOOD = pack({"x": torch.arange(9.0), "y": torch.zeros(0)})


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=80), st.integers(0, len(GOOD) - 1).map(lambda cut: GOOD[:cut])))
def test_bytes_that_are_no_tensors(data):
    with pytest.raises(UserError, match=r"model\.safetensors is (not a whole safetensors file|a pickle)"):
        unpack(data, "model.safetensors")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD) * 8 - 1))
def test_a_flipped_header_loads_or_says_a_sentence(bit):
    data = bytearray(GOOD)
    data[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(UserError):
        unpack(bytes(data), "file")


def header(**tensors):
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "data",
    [
        header(x={"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}),
        header(x={"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 0]}),
        header(x={"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}) + bytes(4),
        header(x={"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]}) + bytes(4),
        header(x={"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}) + bytes(4),
        (2**63).to_bytes(8, "little") + b"{}",
    ],
)
def test_headers_that_lie(data):
    with pytest.raises(UserError, match="not a whole safetensors file"):
        unpack(data, "file")


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adam with a tensor as rate": lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-2), betas=(0.9, 0.95)),
    "fused": lambda p: torch.optim.Adam(p, lr=1e-2, fused=True),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "plain": lambda p: torch.optim.SGD(p, lr=1e-2),
    "groups": lambda p: torch.optim.Adam([{"params": p[:1], "lr": 1e-3}, {"params": p[1:], "betas": (0.5, 0.9)}]),
    "names": lambda p: torch.optim.Adam([(f"p.{i}", q) for i, q in enumerate(p)], lr=1e-2),
}


def train(model, optimizer, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 3, generator=generator)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_continues_bit_for_bit(name):
    torch.manual_seed(0)
    model, again = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    train(model, optimizer, 5, seed=1)
    tensors, plain = flatten_optimizer(optimizer.state_dict())
    tensors, plain = unpack(pack(tensors), "file"), json.loads(json.dumps(plain))
    again.load_state_dict(unpack(pack(model.state_dict()), "file"))
    other = OPTIMIZERS[name](list(again.parameters()))
    other.load_state_dict(unflatten_optimizer(tensors, plain))
    mine, theirs = optimizer.state_dict(), other.state_dict()
    assert mine["param_groups"] == theirs["param_groups"]
    assert all(
        type(a[k]) is type(b[k]) for a, b in zip(mine["param_groups"], theirs["param_groups"], strict=True) for k in a
    )
    train(model, optimizer, 5, seed=2)
    train(again, other, 5, seed=2)
    assert torch.equal(model.weight, again.weight)
    assert torch.equal(model.bias, again.bias)


def test_a_fresh_optimizer_has_no_tensors():
    tensors, plain = flatten_optimizer(torch.optim.Adam(nn.Linear(1, 1).parameters()).state_dict())
    assert tensors == {}
    assert unflatten_optimizer(tensors, plain)["state"] == {}


@pytest.mark.parametrize("name", ["7.exp_avg", "x.exp_avg", "exp_avg", "group.9.lr", "group.lr", "group.x.lr"])
def test_a_tensor_that_belongs_to_nothing(name):
    with pytest.raises(UserError, match="a tensor too many"):
        unflatten_optimizer({name: torch.zeros(1)}, {"state": {"0": {}}, "param_groups": [{}]})
