"""The importance bound of sfumato beside pythae's ``get_nll``: the same weights, images and number of samples.

pythae takes one image after the other: it repeats it ``batch_size`` (100) times, encodes the copies, draws one z for
each and decodes them. With 100 samples and 1,000 images those are 1,000 passes of 100 rows through the encoder and the
decoder. sfumato encodes every image once and decodes blocks of images times samples that fit the cache. Both in
float32; sfumato adds up in float64.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from arithmetic import ratios, spread
from processes import Process, Unable
from workloads import BOUND_IMAGES, BOUND_SAMPLES

from certificate import certificate

EPOCHS = 5
PAUSE = 0.5
PEERS = ("sfumato", "pythae")


def compare(pythons: dict[str, Path | str], data: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Return the entry of the result file: rates in images x samples a second, and the nats of both.

    Args:
        pythons: peer -> its interpreter, or why it has none.
        data: the npz file.
        folder: for logs and the weights.
        rounds: timed turns of each, after one to warm up.
    """
    processes: dict[str, Process] = {}
    result: dict[str, dict[str, Any]] = {}
    for peer in PEERS:
        python = pythons.get(peer, "not asked for")
        try:
            if isinstance(python, str):
                raise Unable(python)
            processes[peer] = Process(python, peer, "mlp-100", data, 0, folder)
        except Unable as reason:
            result[peer] = {"cannot": str(reason)}
    weights = str(folder / "weights.npz")
    processes["sfumato"].ask("epochs", count=EPOCHS - 1)
    processes["sfumato"].ask("export", path=weights)
    found: dict[str, list[dict[str, float]]] = {peer: [] for peer in processes}
    for process in processes.values():
        process.ask("import", path=weights)
        process.ask("bound")  # warms up
    for _ in range(rounds):
        for peer, process in processes.items():
            time.sleep(PAUSE)
            found[peer].append(process.ask("bound"))
    rates = {peer: [BOUND_IMAGES * BOUND_SAMPLES / turn["seconds"] for turn in turns] for peer, turns in found.items()}
    for peer, process in processes.items():
        result[peer] = {
            "images_times_samples_per_second": spread(rates[peer]),
            "seconds": spread([turn["seconds"] for turn in found[peer]]),
            "nats": spread([turn["nats"] for turn in found[peer]]),
            "sfumato_is_times_as_fast": ratios(rates["sfumato"], rates[peer]),
            **process.ask("facts"),
        }
        process.stop()
        print("bound", peer, result[peer], flush=True)
    return {
        **certificate(recipe="784-512-16, importance bound, float32", seeds=[0]),
        "images": BOUND_IMAGES,
        "samples": BOUND_SAMPLES,
        "rounds": rounds,
        "epochs_trained": EPOCHS,
        "peers": result,
    }
