"""Every invariant of a resume has a mutant that turns the comparison red."""

import contextlib
import shutil

import pytest
from proofs.resume_mutants import MUTANTS
from training_helpers import At, Crash, crash, differences, resumed, terminate, trainer

from sfumato.core.errors import SfumatoError


@pytest.fixture(scope="module")
def interrupted(memory):
    """Stopped at 37 (no step of the schedule, between two lines of metrics), resumed, and crashed a few lines later."""
    folder = memory / "interrupted"
    trainer(folder, listener=At(37, terminate)).fit()
    with pytest.raises(Crash):
        resumed(folder, listener=At(38, crash)).fit()
    return folder


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_a_resume_that_forgets_is_caught(mutant, whole, interrupted, tmp_path, monkeypatch):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    mutant(monkeypatch)
    with contextlib.suppress(SfumatoError, ValueError, KeyError):  # some do not even resume
        assert differences(folder, whole["conditional"]) != []


def test_without_a_mutant_nothing_is_different(whole, interrupted, tmp_path):
    assert differences(shutil.copytree(interrupted, tmp_path / "run"), whole["conditional"]) == []
