"""Crash states (T4): after a power cut at any moment the right checkpoint is there, and writers that err are caught."""

import os
import shutil

import pytest
from io_crash import (
    in_place,
    manifest_first,
    no_file_sync,
    no_folder_sync,
    no_sync,
    prove_checkpoints,
    prove_file,
    prove_model,
    prove_promise,
    removed_before,
    removed_in_place,
)

from sfumato.io import store

STATES = 400


@pytest.fixture
def fast(tmp_path_factory):
    """A folder in memory, where there is one: the states are many and need no real disk."""
    if not os.path.isdir("/dev/shm"):
        return tmp_path_factory.mktemp("states")
    path = os.path.join("/dev/shm", f"sfumato-test-{os.getpid()}")
    os.mkdir(path)
    yield path
    shutil.rmtree(path)


def test_every_crash_state_has_the_right_checkpoint(monkeypatch, tmp_path, fast):
    prove_checkpoints(monkeypatch, tmp_path, fast, STATES)


@pytest.mark.parametrize("mutant", [no_file_sync, no_folder_sync, no_sync, in_place, removed_in_place])
def test_a_writer_that_errs_is_caught(mutant, monkeypatch, tmp_path, fast):
    with monkeypatch.context() as patch:
        mutant(patch)
        with pytest.raises(AssertionError, match=r"half-|lost|wrong"):
            prove_checkpoints(monkeypatch, tmp_path, fast, STATES)


def test_a_manifest_promises_only_what_is_there(monkeypatch, tmp_path, fast):
    prove_promise(monkeypatch, tmp_path, fast)


def test_a_manifest_written_first_is_caught(monkeypatch, tmp_path, fast):
    with monkeypatch.context() as patch:
        manifest_first(patch)
        with pytest.raises(store.DamagedError):
            prove_promise(monkeypatch, tmp_path, fast)


def test_replacing_a_model_never_leaves_none(monkeypatch, tmp_path, fast):
    prove_model(monkeypatch, tmp_path, fast, STATES // 3)


@pytest.mark.parametrize("mutant", [no_file_sync, no_folder_sync, removed_before])
def test_a_replacement_that_errs_is_caught(mutant, monkeypatch, tmp_path, fast):
    with monkeypatch.context() as patch:
        mutant(patch)
        with pytest.raises(AssertionError, match="lost"):
            prove_model(monkeypatch, tmp_path, fast, STATES // 3)


def test_a_file_is_the_old_one_or_the_new_one(monkeypatch, tmp_path, fast):
    prove_file(monkeypatch, tmp_path, fast)


@pytest.mark.parametrize("mutant", [no_file_sync, no_folder_sync])
def test_a_writer_of_files_that_errs_is_caught(mutant, monkeypatch, tmp_path, fast):
    with monkeypatch.context() as patch:
        mutant(patch)
        with pytest.raises(AssertionError, match="lost"):
            prove_file(monkeypatch, tmp_path, fast)
