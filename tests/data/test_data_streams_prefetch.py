"""Reading ahead changes when a batch is read, and nothing else; whatever goes wrong there is said in one sentence."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from data_helpers import image_folder, noise, save_image
from streams_helpers import make, shards

from sfumato.core.errors import SfumatoError, UserError
from sfumato.data import Order, load_dataset
from sfumato.data.streams import ArrayRows, Meter, Prefetched, Rows, Streamed, WorkerDied


class Counting(Rows):
    """Rows that note what is read."""

    def __init__(self, x):
        super().__init__(x.shape, x.dtype, "counting")
        self.inner, self.reads = x, []

    def read(self, rows):
        self.reads.append(rows.tolist())
        return self.inner[rows]

    def identity(self):
        yield b""


def counting(count=50, **options):
    rows = Counting(noise(count, 3))
    split = Streamed(rows, np.arange(count)[::-1].copy(), torch.arange(count))
    return rows, split, Prefetched(split, **options)


def same(one, other):
    return all((a is None and b is None) or torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("photos"), {"a": 23, "b": 14})


def test_batches_are_bit_identical_and_foreseen(folder):
    data = load_dataset(folder, stream=True)
    train = data.split("train")
    plain, order = train.examples, Order(len(train), 8, seed=3)
    ahead = Prefetched(plain, order, ahead=3, workers=2)
    for step in range(2 * order.steps_per_epoch + 1):
        indices = order(step)
        assert same(ahead.batch(indices), plain.batch(indices))
    assert (ahead.foreseen, ahead.missed) == (2 * order.steps_per_epoch + 1, 0)
    assert 1 <= len(ahead._pool.processes) <= 2
    pids = [process.pid for process in ahead._pool.processes]
    ahead.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_it_starts_in_the_middle_of_an_epoch_and_follows_another_order():
    order, other = Order(50, 8, seed=1), Order(50, 8, seed=1, salt=2)
    _, plain, ahead = counting(order=order, workers=1)
    ahead.expect(order, 11)
    for step in (11, 12, 13):
        assert same(ahead.batch(order(step)), plain.batch(order(step)))
    ahead.expect(other, 9)
    for step in (9, 10):
        assert same(ahead.batch(other(step)), plain.batch(other(step)))
    assert ahead.missed == 0
    ahead.close()


def test_unforeseen_requests_are_read_at_once_and_disturb_nothing():
    order = Order(50, 8, seed=1)
    _, plain, ahead = counting(order=order, workers=1)
    odd = torch.tensor([4, 4, 0])
    assert same(ahead.batch(order(0)), plain.batch(order(0)))
    assert same(ahead.batch(order(0)), plain.batch(order(0)))  # tried again: as the engine does
    assert same(ahead.batch(odd), plain.batch(odd))
    assert same(ahead.batch(order(1)), plain.batch(order(1)))
    assert (ahead.foreseen, ahead.missed) == (2, 1)
    ahead.close()
    assert same(ahead.batch(order(2)), plain.batch(order(2)))


def test_a_pass_in_rising_order_is_foreseen_after_its_first_batch():
    _, plain, ahead = counting(workers=1)
    for _ in range(2):
        for start in range(0, 50, 12):
            indices = torch.arange(start, min(start + 12, 50))
            assert same(ahead.batch(indices), plain.batch(indices))
    assert (ahead.foreseen, ahead.missed) == (8, 2)
    ahead.close()


def test_no_more_is_read_ahead_than_was_allowed(monkeypatch):
    order = Order(50, 5, seed=0)
    rows, _, ahead = counting(order=order, ahead=3, workers=1)
    ahead.batch(order(0))
    time.sleep(0.2)
    assert len(rows.reads) == 4
    ahead.close()
    monkeypatch.setattr("sfumato.data.streams.prefetch.MOST_BYTES", 2 * 5 * 3)
    rows, _, ahead = counting(order=order, ahead=3, workers=1)
    ahead.batch(order(0))
    time.sleep(0.2)
    assert len(rows.reads) == 3
    ahead.close()


def test_torchs_random_state_is_left_alone():
    order = Order(50, 8, seed=1)
    _, _, ahead = counting(order=order)
    state = torch.get_rng_state()
    for step in range(9):
        ahead.batch(order(step))
    assert torch.equal(torch.get_rng_state(), state)
    ahead.close()


def test_a_damaged_image_reaches_the_reader_of_its_batch_by_name(tmp_path):
    image_folder(tmp_path / "p", {"": 20}, size=32)
    data = load_dataset(tmp_path / "p", stream=True, split=(1, 0, 0))
    whole = (tmp_path / "p/013.png").read_bytes()
    (tmp_path / "p/013.png").write_bytes(whole[: len(whole) // 2])
    order = Order(20, 4, seed=0)
    ahead = Prefetched(data.split("train").examples, order, workers=1)
    named = 0
    for step in range(order.steps_per_epoch):
        if 13 in order(step):
            with pytest.raises(UserError, match=r"013.png should be an image; it cannot be read"):
                ahead.batch(order(step))
            named += 1
        else:
            ahead.batch(order(step))
    assert named == 1
    ahead.close()


def test_a_killed_worker_is_one_sentence_that_names_the_file(tmp_path):
    image_folder(tmp_path / "p", {"": 12})
    data = load_dataset(tmp_path / "p", stream=True, split=(1, 0, 0))
    order = Order(12, 4, seed=0)
    ahead = Prefetched(data.split("train").examples, order, ahead=1, workers=1)
    ahead.batch(order(0))
    while not ahead._queue[0].batch.done():
        time.sleep(0.01)
    (process,) = ahead._pool.processes
    os.kill(process.pid, signal.SIGKILL)
    ahead.batch(order(1))  # was read before
    with pytest.raises(
        WorkerDied, match=r"a process that decodes images ended \(SIGKILL\) at 0\d\d.png. If the machine"
    ):
        ahead.batch(order(2))
    assert not issubclass(WorkerDied, UserError)
    assert issubclass(WorkerDied, SfumatoError)
    assert same(ahead.batch(order(3)), data.split("train").examples.batch(order(3)))  # a new one takes its place
    ahead.close()


def test_workers_end_with_their_parent(tmp_path):
    image_folder(tmp_path / "p", {"": 12})
    script = f"""
import os, signal
from sfumato.data import Order, load_dataset
from sfumato.data.streams import Prefetched
data = load_dataset({str(tmp_path / "p")!r}, stream=True, split=(1, 0, 0))
order = Order(12, 4, seed=0)
ahead = Prefetched(data.split("train").examples, order, workers=1)
ahead.batch(order(0))
print(ahead._pool.processes[0].pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    for _ in range(200):
        try:
            os.kill(int(done.stdout), 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the worker lives on")


def test_a_worker_loads_neither_torch_nor_more_than_it_needs(folder):
    data = load_dataset(folder, stream=True)
    train = data.split("train")
    train.expect(Order(len(train), 4, seed=0))
    train.batch(Order(len(train), 4, seed=0)(0))
    (process, *_) = train._pool.processes
    with open(f"/proc/{process.pid}/maps") as maps:
        assert "torch" not in maps.read()
    train.close()


@pytest.mark.parametrize("kind", ["floats", "parquet", "shards"])
def test_every_kind_is_read_ahead_alike(kind, tmp_path):
    if kind == "shards":
        shards(tmp_path / "set")
        data = load_dataset(tmp_path / "set")
    else:
        path, reading = make(kind, tmp_path)
        data = load_dataset(path, stream=True, **reading)
    train = data.split("train")
    order = Order(len(train), 4, seed=0)
    train.expect(order)
    for step in range(order.steps_per_epoch + 2):
        assert same(train.batch(order(step)), train.examples.batch(order(step)))
    assert train.missed == 0
    train.close()


def test_the_check_of_a_preprocessing_holds_for_what_is_read_ahead(tmp_path):
    save_image(tmp_path / "p/a.png", np.full((8, 8), 7, dtype=np.uint8))
    save_image(tmp_path / "p/b.png", np.full((8, 8), 200, dtype=np.uint8))
    data = load_dataset(tmp_path / "p", stream=True, split=(1, 0, 0))

    def check(x, source):
        if (x > 100).any():
            raise UserError(f"{source} is too bright.")

    train = data.checking(check).split("train")
    order = Order(2, 1, seed=0)
    train.expect(order)
    outcomes = []
    for step in range(2):
        try:
            train.batch(order(step))
            outcomes.append(int(order(step)))
        except UserError as error:
            outcomes.append(str(error))
    assert sorted(map(str, outcomes)) == ["0", "p is too bright."]
    train.close()


def meter(*steps, workers=1):
    """Return a meter that has seen steps of (loader, copy, model) seconds."""
    now = [0.0]
    made = Meter(workers, clock=lambda: now[0])
    for loader, copy, model in [*steps, (0, 0, 0)]:
        made.asked()
        now[0] += loader
        made.read()
        now[0] += copy
        made.given()
        now[0] += model
    return made


def test_the_meter_adds_up_and_names_the_bottleneck():
    found = meter((3, 1, 1), (2, 0, 3))
    assert found.shares == {"loader": 0.5, "copy": 0.1, "model": 0.4}
    assert [step.model for step in found.steps] == [1, 3]
    assert found.sentence().startswith(
        "the loader is the bottleneck: the model waits 50% of the time. More workers (now 1)"
    )
    assert "copy to the device is the bottleneck: the model waits 60% of the time" in meter((1, 6, 3)).sentence()
    assert meter((0.5, 0.25, 9.25)).sentence() == "the model is the bottleneck: it waits 8% of the time for data."
    assert meter().sentence() == "nothing was measured yet: two steps are needed."
    found.copied(0.5)
    found.reset()
    assert found.count == 0


def test_copies_that_the_device_reports_later_are_not_the_models_time():
    now = [0.0]
    made = Meter(clock=lambda: now[0])
    made.asked(), made.read(), made.given()
    now[0] = 10.0
    made.copied(4.0)
    made.asked()
    assert made.shares == {"loader": 0.0, "copy": 0.4, "model": 0.6}


def test_a_slow_loader_is_seen_and_reading_ahead_hides_a_fast_one():
    class Slow(Counting):
        def read(self, rows):
            time.sleep(0.03)
            return super().read(rows)

    order = Order(40, 4, seed=0)
    rows = Slow(noise(40, 3))
    waits = {}
    for work in (0.0, 0.08):
        ahead = Prefetched(Streamed(rows, np.arange(40)), order, ahead=3, workers=1)
        for step in range(10):
            ahead.batch(order(step))
            time.sleep(work)
        ahead.meter.asked()
        waits[work] = ahead.meter.shares["loader"]
        ahead.close()
    assert waits[0.0] > 0.8
    assert waits[0.08] < waits[0.0] / 2


def test_memory_stays_bounded_over_a_set_of_400_mb(tmp_path):
    path = tmp_path / "big.npy"
    header = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(100_000, 1, 64, 64))
    header[::5000] = 7
    del header
    script = f"""
import resource, torch
from sfumato.data import Order, load_dataset
data = load_dataset({str(path)!r}, stream=True)
train = data.split("train")
order = Order(len(train), 256, seed=0)
train.expect(order)
train.batch(order(0))
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
before, most, total = resident(), 0, 0
for step in range(1, order.steps_per_epoch):
    x, _ = train.batch(order(step))
    total += x.numel()
    if step % 20 == 0:
        most = max(most, resident() - before)
print(total, most, train.missed)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    total, most, missed = map(int, done.stdout.split())
    assert total > 320e6
    assert missed == 0
    assert most < 60e6, f"{most / 1e6:.0f} MB more than at the start"


def test_rows_in_memory_can_be_streamed_too():
    rows = ArrayRows(noise(10, 3))
    assert same(Prefetched(Streamed(rows, np.arange(10))).batch(torch.tensor([3])), (torch.from_numpy(rows[[3]]), None))
