"""Commands in two processes, started by torchrun: one model, one writer, and going on where a process was killed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from cli_helpers import STEPS, Started, environment

from sfumato.cli.main import run
from sfumato.io.run import RunFolder

STEPS_KILLED = 400


def torchrun(folder, *arguments, restarts=0):
    """Start a command in two processes."""
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", str(restarts), "--standalone"]
    return subprocess.Popen(
        [sys.executable, *launch, "-m", "sfumato", *arguments],
        cwd=folder,
        env={**environment(), "PYTHONWARNINGS": "default"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def in_two(folder, *arguments):
    """Return what a command says in two processes that are told what torchrun tells them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    started = [Started(arguments, folder, RANK=rank, LOCAL_RANK=rank, **meeting) for rank in "01"]
    ended = [each.communicate() for each in started]
    assert [code for code, *_ in ended] == [0, 0], ended
    return "".join(said for _, *both in ended for said in both)


def wait_for_a_checkpoint(checkpoints, process):
    until = time.monotonic() + 120
    while not any(int(path.name.removeprefix("step-")) > 0 for path in checkpoints.glob("step-*[0-9]")):
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


@pytest.mark.timeout(300)
def test_a_killed_process_and_max_restarts(finished, tmp_path):
    shutil.copy(finished / "tiny.npz", tmp_path)
    process = torchrun(tmp_path, "train", "tiny.npz", "--steps", str(STEPS_KILLED), "--latent-dim", "3", restarts=1)
    wait_for_a_checkpoint(tmp_path / "runs/tiny/checkpoints", process)
    workers = psutil.Process(process.pid).children()
    assert len(workers) == 2
    os.kill(workers[1].pid, signal.SIGKILL)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert said.count("error: another process of this training ended") <= 1  # torchrun may end the other one first
    assert said.count(f"of {STEPS_KILLED:,} (bit for bit the same run)") == 1, "it went on, and only one speaks"
    assert said.count("evaluated on") == 1
    steps = [line["step"] for line in map(json.loads, (tmp_path / "runs/tiny/metrics.jsonl").read_text().splitlines())]
    assert steps == sorted(steps)
    assert steps[-1] == STEPS_KILLED


def test_each_process_encodes_a_part(finished, tmp_path, command, monkeypatch):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    said = in_two(tmp_path, "encode", "runs/tiny", "-o", "two.npz")
    assert said.count("two.npz") == 1, "one of them speaks"
    monkeypatch.chdir(tmp_path)
    assert command("encode", "runs/tiny", "-o", "one.npz").code == 0
    with np.load("one.npz") as one, np.load("two.npz") as two:
        assert sorted(one.files) == sorted(two.files) == ["label", "log_variance", "mean"]
        for name in one.files:
            np.testing.assert_allclose(two[name], one[name], rtol=1e-6, atol=1e-6)  # products of other sizes


def test_each_process_measures_a_part(finished, tmp_path, command, monkeypatch):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "runs/tiny/evaluation.json"
    before = file.read_bytes()
    alone = command("evaluate", "runs/tiny", "--seed", "3", "--json")
    written = json.loads(file.read_text())
    file.write_bytes(before)
    said = in_two(tmp_path, "evaluate", "runs/tiny", "--seed", "3", "--quiet")
    assert said.count("examples of the test split") == 1, "one of them speaks"
    assert file.read_bytes() != before
    shared = json.loads(file.read_text())
    assert json.loads(alone.out)["values"] == written["values"]
    assert shared.keys() == written.keys()
    for name, value in written["values"].items():
        assert shared["values"][name]["n"] == value["n"]
        for part in ("value", "standard_error"):
            assert shared["values"][name][part] == pytest.approx(value[part], rel=1e-6), name


def test_spread_weights(finished, tmp_path, command, monkeypatch):
    shutil.copy(finished / "tiny.npz", tmp_path)
    said = in_two(tmp_path, "train", "tiny.npz", *STEPS, "--shard")
    assert said.count("evaluated on") == 1
    folder = RunFolder(tmp_path / "runs/tiny")
    assert folder.read_run()["training"]["shard"] is True
    assert "spread weights" in folder.open_checkpoints().latest().state["made_by"]["surroundings"]
    monkeypatch.chdir(tmp_path)
    assert command("sample", "runs/tiny", "-n", "2", "-o", "two.png").code == 0


def test_one_process_has_nobody_to_share_weights_with(finished, command, monkeypatch):
    monkeypatch.chdir(finished)
    result = command("train", "tiny.npz", *STEPS, "--shard", "--out", "runs/other")
    assert result.code == 2
    assert "--shard spreads a model over several processes" in result.err
    assert not (finished / "runs/other").exists()


@pytest.fixture
def interrupted(finished, tmp_path, monkeypatch):
    """An unfinished run in the current folder, as a killed process leaves it."""
    shutil.copy(finished / "tiny.npz", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run(["train", "tiny.npz", *STEPS, "--quiet"]) == 0
    shutil.rmtree("runs/tiny/model")
    os.remove("runs/tiny/evaluation.json")
    return RunFolder("runs/tiny")


def test_a_launch_goes_on_with_the_run_it_began(interrupted, command, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    result = command("train", "tiny.npz", *STEPS)
    assert result.code == 0
    assert "resumed at step 20 of 20" in result.out + result.err
    assert interrupted.model.is_dir()


@pytest.mark.parametrize("count", ["0", "1"])
def test_a_launch_leaves_a_run_that_was_there_before(interrupted, command, monkeypatch, count):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
    began = psutil.Process(os.getppid()).create_time()
    if count == "1":
        os.utime(interrupted.run, (began - 60, began - 60))
    result = command("train", "tiny.npz", *STEPS)
    assert result.code == 2
    assert "exists (unfinished, step 20 of 20" in result.err
