"""The model folder: round trips, and what is refused (T23): names, sizes, shapes, pickles, hostile json."""

import contextlib
import copy
import json
import os
import pickle  # noqa: TID251
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from io_helpers import Tiny, TinyLinear, config, forge, in_memory, tiny, tiny_spec

from sfumato.core import strict_json
from sfumato.core.errors import UserError
from sfumato.core.spec import REGISTRY
from sfumato.io import store
from sfumato.io.folder import load_model, save_model
from sfumato.io.store import DamagedError

CARD = {"preprocessing": {"scale": 0.1}, "class_names": ["ä", "b"], "metrics": {"elbo": -1.25, "n": 3}, "none": None}


def load(path):
    return load_model(path, kind="tiny")


@pytest.mark.parametrize("kwargs", [{}, {"flag": True}, {"width": 1}, {"scale": 2.5}])
def test_round_trip(kwargs, tmp_path):
    model = tiny(**kwargs)
    save_model(tmp_path / "model", model, card=CARD)
    assert sorted(os.listdir(tmp_path / "model")) == ["config.json", "manifest.json", "model.safetensors"]
    noise = torch.get_rng_state()
    module, card = load(tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), noise)
    assert card.pop("versions").keys() == {"sfumato", "torch", "python"}
    assert card == CARD
    assert type(module) is Tiny
    assert not module.training
    assert model.training
    assert module.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in model.state_dict().items())
    assert module.scratch.device.type == "cpu"
    save_model(tmp_path / "again", module, card=card)
    assert (tmp_path / "again" / "config.json").read_bytes() == (tmp_path / "model" / "config.json").read_bytes()


def test_the_kind_is_model_by_default(tmp_path, monkeypatch):
    save_model(tmp_path / "model", tiny(), card={})
    monkeypatch.setitem(REGISTRY, "model", {"Tiny": Tiny})
    assert isinstance(load_model(tmp_path / "model")[0], Tiny)


def test_an_existing_folder_is_refused_unless_asked_for(tmp_path):
    save_model(tmp_path / "model", tiny(seed=1), card={})
    with pytest.raises(UserError, match="exists"):
        save_model(tmp_path / "model", tiny(seed=2), card={})
    assert torch.equal(load(tmp_path / "model")[0].out.weight, tiny(seed=1).out.weight)
    save_model(tmp_path / "model", tiny(seed=2), card={}, replace=True)
    assert torch.equal(load(tmp_path / "model")[0].out.weight, tiny(seed=2).out.weight)


def test_a_replaced_model_is_found_while_it_waits(tmp_path):
    save_model(tmp_path / "model", tiny(), card={"number": 1})
    os.rename(tmp_path / "model", tmp_path / ".old-model")
    assert load(tmp_path / "model")[1]["number"] == 1
    with pytest.raises(UserError, match="exists"):
        save_model(tmp_path / "model", tiny(), card={"number": 2})
    assert os.listdir(tmp_path) == ["model"]


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    wrong = tiny().double()
    with pytest.raises(UserError, match="should be float32 of shape"):
        save_model(tmp_path / "model", wrong, card={})
    wrong = tiny()
    wrong.extra = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match=r"'extra\.bias', which the configuration does not know"):
        save_model(tmp_path / "model", wrong, card={})
    with pytest.raises(ValueError):
        save_model(tmp_path / "model", tiny(), card={"elbo": float("nan")})
    with pytest.raises(ValueError, match="may not name 'model'"):
        save_model(tmp_path / "model", tiny(), card={"model": 1})
    with pytest.raises(UserError, match="1,000,000 bytes"):
        save_model(tmp_path / "model", tiny(), card={"x": "x" * 1_000_000})
    assert os.listdir(tmp_path) == []


def tampered(change):
    tensors = {name: value.clone() for name, value in tiny().state_dict().items()}
    change(tensors)
    return tensors


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop("out.weight"), "has no tensor 'out.weight'"),
        (lambda t: t.update(more=torch.zeros(1)), "has the tensor 'more', which"),
        (
            lambda t: t.update({"out.weight": torch.zeros(3, 3)}),
            r"shape \(2, 3\) by the configuration; it is .* \(3, 3\)\.",
        ),
        (lambda t: t.update({"out.weight": t["out.weight"].double()}), r"it is float64 of shape \(2, 3\)"),
        (lambda t: t.update({"scale": torch.zeros(1)}), r"should be float32 of shape \(\)"),
    ],
)
def test_tensors_that_do_not_fit(change, sentence, tmp_path):
    path = forge(tmp_path / "model", strict_json.dump(config()), tampered(change))
    with pytest.raises(UserError, match=sentence) as caught:
        load(path)
    assert "model.safetensors" in str(caught.value)


def text(**changes):
    return strict_json.dump(config(**changes))


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (text(model=tiny_spec(flag=1)), "flag must be true or false; got 1"),
        (text(model=tiny_spec(width=True)), "width must be a whole number from 1 to 65,536; got True"),
        (text(model=tiny_spec(width=3.0)), "width must be a whole number"),
        (text(model=tiny_spec(width=0)), "width must be a whole number"),
        (text(model=tiny_spec(width=65_537)), "width must be a whole number"),
        (text(model=tiny_spec(width=65_536)), "'out.weight' should be float32 of shape"),
        (text(model=tiny_spec(part={"class": "TinyLinear", "width": 65_536})), "'part.linear.bias' should be"),
        (text(model=tiny_spec(scratch=65_536)), "asks for 17,180 MB beside its weights"),
        (text(model=tiny_spec(width="3")), "width must be a whole number"),
        (text(model=tiny_spec(width=None)), "width must be a whole number"),
        (text(model=tiny_spec(scale=10**400)), "."),
        (text(model=tiny_spec(more=1)), "Tiny has no argument 'more'"),
        (text(model=tiny_spec(self=1)), "Tiny has no argument 'self'"),
        (text(model=tiny_spec(_arguments={})), "Tiny has no argument '_arguments'"),
        (text(model=tiny_spec(part={"class": "Tiny"})), "there is no tiny_part named 'Tiny'"),
        (text(model=tiny_spec(part=None)), "should be a tiny_part"),
        (text(model={"class": "Tiny"}), "needs the argument 'part'"),
        (text(model={"class": "Tniy"}), "there is no tiny named 'Tniy'. Did you mean 'Tiny'?"),
        (text(model={"class": "Plain"}), "Plain has no weights"),
        (text(model={"class": "Curious"}), "a constructor reads the values of its tensors"),
        (text(model={"class": ["Tiny"]}), "should be a tiny"),
        (text(model=[]), "should be a tiny"),
        (text(model=None), "should be a tiny"),
        (text(format_version=2), "has the format version 2; this sfumato reads 1"),
        (text(format_version=True), "has the format version True"),
        (text(library="other"), "does not describe a model of sfumato"),
        (b"[]", "does not describe a model of sfumato"),
        (b"{}", "does not describe a model of sfumato"),
        (b"", "is not valid json"),
        (text()[:-9], "is not valid json"),
        (text(x=nested(40)), "nests deeper than 32"),
        (b"[" * 100_000, "is not valid json"),
        (b'{"a": 1, "a": 2}', "names the key 'a' twice"),
        (text().replace(b'"width": 3', b'"width": 3, "width": 4'), "names the key 'width' twice"),
        (text(x=0).replace(b'"x": 0', b'"x": NaN'), "holds NaN"),
        (text(x=0).replace(b'"x": 0', b'"x": -Infinity'), "holds -Infinity"),
        (text().replace(b'"width": 3', b'"width": ' + b"3" * 5_000), "is not valid json"),
        (text(x="x").replace(b'"x"', b'"\xff"'), "is not valid json"),
    ],
)
def test_hostile_configurations(data, sentence, tmp_path):
    path = forge(tmp_path / "model", data)
    with pytest.raises(UserError) as caught:
        load(path)
    assert sentence in str(caught.value)
    assert "config.json" in str(caught.value) or "model.safetensors" in str(caught.value)


def test_no_name_reaches_anything():
    """In a process of its own, because the checks of shapes in this one compile what they check."""
    command = [sys.executable, str(Path(__file__).with_name("io_watch.py"))]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["names"] > 300
    assert {"open", "compile", "exec"} <= set(report["seen by the watch"])
    assert report["not refused"] == []
    assert report["forbidden"] == []


class Gadget:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Gadget()))


def plain_pickle(path):
    path.write_bytes(pickle.dumps(Gadget()))


@pytest.mark.parametrize("write", [zipped, plain_pickle])
@pytest.mark.parametrize("name", ["model.pt", "model", "model.safetensors", "x.ckpt"])
def test_a_pickle_offered_as_a_model(write, name, tmp_path):
    write(tmp_path / name)
    with pytest.raises(UserError, match=r"is a pickle .* Use a model folder") as caught:
        load(tmp_path / name)
    assert str(caught.value).count("\n") == 0
    (tmp_path / "folder").mkdir()
    os.rename(tmp_path / name, tmp_path / "folder" / "model.pth")
    with pytest.raises(UserError, match=r"model\.pth is a pickle"):
        load(tmp_path / "folder")


@pytest.mark.parametrize("write", [zipped, plain_pickle])
def test_a_pickle_under_the_name_of_the_weights(write, tmp_path):
    write(tmp_path / "x")
    store.write_folder(tmp_path / "model", {"config.json": text(), "model.safetensors": (tmp_path / "x").read_bytes()})
    with pytest.raises(UserError, match=r"model\.safetensors is a pickle"):
        load(tmp_path / "model")


def test_other_things_offered_as_a_model(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "no")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=r"is a file\. Give the model folder"):
        load(tmp_path / "notes.txt")
    with pytest.raises(DamagedError, match=r"config\.json is missing"):
        load(tmp_path)
    store.write_folder(tmp_path / "more", {"config.json": text(), "model.safetensors": b"", "code.py": b""})
    with pytest.raises(DamagedError, match=r"code\.py is a file too many"):
        load(tmp_path / "more")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_any_change_of_a_configuration_loads_or_says_a_sentence(data):
    spec = copy.deepcopy(tiny_spec(flag=False, scale=1.0))
    place = data.draw(st.sampled_from([(), ("part",)]))
    target = spec
    for key in place:
        target = target[key]
    target[data.draw(st.sampled_from([*target, "class", "new"]))] = data.draw(JSON)
    with in_memory(spec), contextlib.suppress(UserError):
        assert isinstance(load("model")[0], Tiny)


def test_the_tiny_parts_are_in_a_room_of_their_own():
    assert REGISTRY["tiny_part"] == {"TinyLinear": TinyLinear}
