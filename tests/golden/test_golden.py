"""What older versions wrote is read for ever, gives the same numbers, goes on; damaged, it says a sentence (T10)."""

import shutil

import numpy as np
import pytest
import torch
from golden_models import GOLDEN, PLACE, load, numbers, run_data, stored
from proofs.t10_golden import VARIANTS, said_of

from sfumato.core.spec import Real, Size, Widths, fingerprint, register
from sfumato.io.folder import FORMAT_VERSION
from sfumato.io.run import RunFolder
from sfumato.verbs import listeners
from sfumato.verbs import train as verb
from sfumato.verbs.train import resume

MODELS = sorted(path.parent for path in PLACE.glob("format-*/*/model"))
RUNS = sorted(PLACE.glob("format-*/run"))


def test_every_kind_is_there_for_every_version_and_small():
    versions = sorted(int(path.name.removeprefix("format-")) for path in PLACE.glob("format-*"))
    assert versions == list(range(1, FORMAT_VERSION + 1))
    assert {path.name for path in MODELS if path.parent.name == f"format-{FORMAT_VERSION}"} == set(GOLDEN)
    assert sum(path.stat().st_size for path in PLACE.glob("format-*/**/*") if path.is_file()) < 340_000


@pytest.mark.parametrize("folder", MODELS, ids=[f"{path.parent.name}-{path.name}" for path in MODELS])
def test_it_loads_and_gives_the_stored_numbers(folder):
    want, packaged = stored(folder), load(folder / "model")
    raw, labels = np.array(want.pop("raw")), want.pop("labels")
    raw = raw.astype(np.float32) if raw.dtype == np.float64 else raw
    found = numbers(packaged, raw, None if labels is None else torch.tensor(labels))
    assert found.keys() == want.keys()
    for name, values in want.items():
        assert found[name] == pytest.approx(values, rel=1e-5, abs=1e-5), name


@pytest.mark.parametrize("run", RUNS, ids=[path.parent.name for path in RUNS])
def test_the_interrupted_run_goes_on(run, tmp_path, monkeypatch):
    monkeypatch.setattr(verb, "measure", lambda *args, **kwargs: None)
    monkeypatch.setattr(verb, "certified", lambda *args: {"values": {}})
    monkeypatch.setattr(verb, "verdict", lambda *args: ())
    monkeypatch.setattr(listeners, "write_report", lambda path, **kwargs: None)
    folder = shutil.copytree(run, tmp_path / "run")
    before = RunFolder(folder).metrics.path.read_bytes()
    latest = RunFolder(folder).open_checkpoints().latest()
    assert latest.step == 11
    done = resume(folder, source=run_data())
    assert (done.outcome.step, done.outcome.finished) == (24, True)
    assert RunFolder(folder).metrics.path.read_bytes().startswith(before)
    assert all(bool(torch.isfinite(value).all()) for value in done.model.state_dict().values())
    assert [line["step"] for line in RunFolder(folder).metrics.read() if line["split"] == "train"] == list(
        range(2, 25, 2)
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_a_damaged_one_loads_or_says_a_sentence(name, tmp_path):
    run = shutil.copytree(RUNS[-1], tmp_path / "run")
    model = shutil.copytree(RUNS[-1].parent / "classes" / "model", tmp_path / "model")
    VARIANTS[name](tmp_path, model, run)
    for sentence in said_of(model, run):
        assert sentence.endswith((".", "?")), sentence
        assert "\n" not in sentence


def test_a_class_that_gets_a_new_argument_is_what_it_was():
    """Else no checkpoint of an older version would go on: they hold the fingerprints of their parts."""

    @register("golden")
    class Part:
        def __init__(self, width: Size, gain: Real = 1.0) -> None: ...

    old = fingerprint(Part(3))

    @register("golden")
    class Part:
        def __init__(self, width: Size, gain: Real = 1.0, more: Widths = (2,)) -> None: ...

    assert fingerprint(Part(3)) == fingerprint(Part(3, 1.0, [2])) == old
    assert len({fingerprint(part) for part in (Part(3), Part(4), Part(3, gain=2), Part(3, more=(3,)))}) == 4
