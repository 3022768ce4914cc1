"""Crash states (T4): what must hold in every state that a power cut may leave, and writers that err.

The tests try some states, the proof (``proofs/t04_crash_states.py``) many.
"""

import contextlib
import os
import random
import shutil

import torch
from io_disk import CONTENTS, NAMES, Disk, recorded
from io_helpers import is_right, leftovers, save, tiny

from sfumato.core import strict_json
from sfumato.core.errors import UserError
from sfumato.io import store
from sfumato.io.checkpoints import Checkpoints
from sfumato.io.folder import load_model, save_model


def log_of_saves(monkeypatch, root, steps=(3, 6, 9, 12)):
    """Save at ``steps`` and return the operations; ("returned", n) stands where the save of step n came back."""
    with recorded(monkeypatch, root) as log:
        for step in steps:
            save(root / "checkpoints", step)
            log.append(("returned", step))
    return log


def states(log, root, target, count, seed=1):
    """Yield (path, operations done) for ``count`` crash states, spread over all moments and kinds."""
    dice = random.Random(seed)
    kinds = [(contents, names) for contents in CONTENTS for names in NAMES]
    moments = [moment for moment in range(len(log) + 1) for _ in kinds]
    chosen = dice.sample(range(len(moments)), min(count, len(moments)))
    chosen += [dice.randrange(len(moments)) for _ in range(count - len(chosen))]
    for number, index in enumerate(chosen):
        done = log[: moments[index]]
        path = os.path.join(target, f"state-{number}")
        Disk(root, [entry for entry in done if entry[0] != "returned"]).build(
            path, *kinds[index % len(kinds)], seed=number + seed
        )
        yield path, done
        shutil.rmtree(path)


def last_returned(done):
    return max((entry[1] for entry in done if entry[0] == "returned"), default=0)


def prove_checkpoints(monkeypatch, root, target, count, seed=1):
    """Assert the law in every state: the last announced step or a later one, bit for bit, and nothing damaged."""
    log, kinds = log_of_saves(monkeypatch, root), set()
    assert {"create", "write", "mkdir", "move", "remove", "returned"} <= {entry[0] for entry in log}
    for number, (path, done) in enumerate(states(log, root, target, count, seed)):
        checkpoints = Checkpoints(os.path.join(path, "checkpoints"))
        found, announced = checkpoints.latest(), last_returned(done)
        assert not checkpoints.warnings, "a checkpoint stands half-written under its name"
        for step in checkpoints.steps():
            try:
                checkpoints.load(step)
            except store.DamagedError as error:
                raise AssertionError("a checkpoint stands half-removed under its name") from error
        assert found is None or is_right(found), "a wrong checkpoint was accepted"
        assert (found.step if found else 0) >= announced, "an announced checkpoint is lost"
        kinds.add(found.step if found else 0)
        if number % 10 == 0:
            save(checkpoints.folder, 99)
            assert is_right(checkpoints.latest())
            assert not leftovers(checkpoints.folder)
    assert kinds == {0, 3, 6, 9, 12}


def no_file_sync(patch):
    patch.setattr(store, "sync_file", lambda descriptor: None)


def no_folder_sync(patch):
    patch.setattr(store, "sync_folder", lambda path: None)


def no_sync(patch):
    no_file_sync(patch)
    no_folder_sync(patch)


def in_place(patch):
    def written(path, files, *, replace=False):
        store.make_folder(path.parent)
        os.makedirs(path, exist_ok=True)
        for name, data in store.with_manifest(files).items():
            (path / name).unlink(missing_ok=True)
            store._write(path / name, data)
        store.sync_folder(path)
        store.sync_folder(path.parent)

    patch.setattr(store, "write_folder", written)


def removed_in_place(patch):
    patch.setattr(store, "discard", shutil.rmtree)


def manifest_first(patch):
    right = store.with_manifest
    patch.setattr(store, "with_manifest", lambda files: dict(reversed(right(files).items())))


def prove_promise(monkeypatch, root, target):
    """Assert that wherever a manifest is on the disk, finished or not, the files that it promises are whole."""
    log, seen = log_of_saves(monkeypatch, root, (3,)), 0
    for moment in range(len(log)):
        for how in CONTENTS:
            path = os.path.join(target, "state")
            Disk(root, [entry for entry in log[:moment] if entry[0] != "returned"]).build(path, how, "all", 0)
            for folder, _, names in os.walk(path):
                if store.MANIFEST in names:
                    try:
                        strict_json.parse((data := open_bytes(folder, store.MANIFEST)), "manifest")
                        store._records(data, folder)
                    except UserError:
                        continue
                    seen += 1
                    store.read_folder(folder)
            shutil.rmtree(path)
    assert seen > 5


def open_bytes(folder, name):
    with open(os.path.join(folder, name), "rb") as file:
        return file.read()


def prove_model(monkeypatch, root, target, count, seed=1):
    """Assert that while a model folder is replaced, the old or the new one can be loaded in every state."""
    models = [tiny(seed=seed) for seed in range(3)]
    with recorded(monkeypatch, root) as log:
        for number, model in enumerate(models, start=1):
            save_model(root / "model", model, card={"number": number}, replace=True)
            log.append(("returned", number))
    found = set()
    for path, done in states(log, root, target, count, seed):
        announced = last_returned(done)
        with contextlib.suppress(UserError):
            loaded = None
            loaded = load_model(os.path.join(path, "model"), kind="tiny")
        if loaded is None:
            assert announced == 0, "an announced model is lost"
            continue
        module, card = loaded
        assert card["number"] >= announced, "an announced model is lost"
        assert torch.equal(module.out.weight, models[card["number"] - 1].out.weight)
        found.add(card["number"])
    assert found == {1, 2, 3}


def removed_before(patch):
    right = store.write_folder

    def written(path, files, *, replace=False):
        shutil.rmtree(path, ignore_errors=True)
        right(path, files)

    patch.setattr(store, "write_folder", written)


def prove_file(monkeypatch, root, target, count=400, seed=1):
    """Assert that one file is in every state the last announced one or a later one."""
    versions = [bytes([65 + number]) * 200 * number for number in range(4)]
    with recorded(monkeypatch, root) as log:
        for number in (1, 2, 3):
            store.write_file(root / "run.json", versions[number])
            log.append(("returned", number))
    for path, done in states(log, root, target, count, seed):
        place = os.path.join(path, "run.json")
        found = open_bytes(path, "run.json") if os.path.exists(place) else b""
        assert found in versions[last_returned(done) :], "an announced file is lost"
