"""A tiny registered model and tiny checkpoints for the tests of io."""

import contextlib
import errno
import json
import os

import pytest
import torch
from torch import nn

from sfumato.core.spec import Real, Size, register
from sfumato.io import store
from sfumato.io.checkpoints import Checkpoints
from sfumato.io.store import write_folder
from sfumato.io.tensors import pack


class TinyPart(nn.Module):
    spec_kind = "tiny_part"


@register("tiny_part")
class TinyLinear(TinyPart):
    def __init__(self, width: Size) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)


@register("tiny")
class Tiny(nn.Module):
    """A part, a persistent buffer, an optional flag; with ``scratch`` a buffer that is not saved."""

    def __init__(
        self, part: TinyPart, width: Size = 3, flag: bool = False, scale: Real = 1.0, scratch: Size = 1
    ) -> None:
        super().__init__()
        self.part, self.out = part, nn.Linear(width, 2, bias=flag)
        self.register_buffer("scale", torch.full((), scale))
        self.register_buffer("scratch", torch.zeros(scratch, scratch), persistent=False)


@register("tiny")
class Curious(nn.Module):
    """Reads a value of a tensor while it is built."""

    def __init__(self) -> None:
        super().__init__()
        self.total = float(torch.ones(3).sum())


@register("tiny")
class Plain:
    def __init__(self) -> None:
        pass


def tiny(width=3, seed=0, **kwargs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Tiny(TinyLinear(width), width, **kwargs)


def tiny_spec(**changes):
    return {"class": "Tiny", "part": {"class": "TinyLinear", "width": 3}} | changes


def config(**changes):
    return {"format_version": 1, "library": "sfumato", "model": tiny_spec()} | changes


def forge(path, text, tensors=None):
    """Write a model folder with a right manifest around whatever an attacker wants."""
    write_folder(path, {"config.json": text, "model.safetensors": pack(tensors or tiny().state_dict())})
    return path


WEIGHTS = pack(tiny().state_dict())


@contextlib.contextmanager
def in_memory(spec):
    """Let every folder hold the model of ``spec`` (the disk has its own tests)."""
    files = {"config.json": json.dumps(config(model=spec)).encode(), "model.safetensors": WEIGHTS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "read_folder", lambda path, names: files)
        yield


def content(step):
    """Return (tensors, state) of the checkpoint that these tests save at ``step``."""
    numbers = torch.arange(40, dtype=torch.float32) * step + 0.1
    return {"model": {"w": numbers, "b": numbers[:3].double()}, "optimizer": {"0.step": torch.tensor(float(step))}}, {
        "seen": step * 7,
        "best": 0.1 + step,
    }


def save(folder, step, **kwargs):
    return Checkpoints(folder).save(step, *content(step), **kwargs)


def is_right(checkpoint):
    """Whether a loaded checkpoint holds exactly what was saved at its step."""
    tensors, state = content(checkpoint.step)
    return (
        checkpoint.state == state
        and checkpoint.tensors.keys() == tensors.keys()
        and all(
            checkpoint.tensors[stem].keys() == named.keys()
            and all(torch.equal(checkpoint.tensors[stem][name], value) for name, value in named.items())
            for stem, named in tensors.items()
        )
    )


def leftovers(folder):
    return [name for name in os.listdir(folder) if name.startswith((".part-", ".old-"))]


class Fired:
    """How often the calls were made, and whether the fault was."""

    count = 0
    done = False


@contextlib.contextmanager
def at_call(monkeypatch, number, action, calls=("open", "write", "fsync", "mkdir", "rename", "replace"), before=True):
    """Do ``action`` at the ``number``-th of the system calls named."""
    fired = Fired()

    def wrap(real):
        def call(*args, **kwargs):
            fired.count += 1
            now = fired.count == number
            if now and before:
                fired.done = True
                action()
            try:
                return real(*args, **kwargs)
            finally:
                if now and not before:
                    fired.done = True
                    action()

        return call

    with monkeypatch.context() as patch:
        for name in calls:
            patch.setattr(os, name, wrap(getattr(os, name)))
        yield fired


def fails(code):
    def action():
        raise OSError(code, os.strerror(code))

    return action


FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.EINTR)
