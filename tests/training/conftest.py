"""Run folders of these tests lie in memory, where there is one: hundreds of trainings, each with many syncs."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from training_helpers import KINDS, straight

PLACE = "/dev/shm" if os.path.isdir("/dev/shm") else None


@pytest.fixture(scope="session")
def memory():
    """A folder in memory for the whole session."""
    path = tempfile.mkdtemp(prefix="sfumato-test-", dir=PLACE)
    yield Path(path)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def whole(memory):
    """Everything of the uninterrupted training, by kind."""
    torch.set_num_threads(1)
    return {kind: straight(memory / f"whole-{kind}", kind=kind) for kind in KINDS}


@pytest.fixture
def tmp_path(memory):
    return Path(tempfile.mkdtemp(dir=memory))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
