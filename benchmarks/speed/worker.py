"""One peer in its own process: it trains when asked to, and sleeps meanwhile.

    python worker.py PEER WORKLOAD DATA SEED

Json lines on standard input ask, json lines on standard output answer; what libraries print goes to standard error.

    {"do": "epochs", "count": 3}     -> {"seconds": ...}, after so many epochs of the peer's own training loop
    {"do": "score"}                  -> {"bounds": [...]}, the held-out bound of each image
    {"do": "bound"}                  -> {"seconds": ..., "nats": ...}, the peer's own importance bound
    {"do": "export", "path": ...}    -> {}, weights of the affine layers to a file; "import" reads them
    {"do": "facts"}                  -> what was set, versions, peak memory
    {"do": "stop"}                   -> the process ends

Before the first answer comes {"first_step": true}, as soon as one step is done. Needs numpy, and what the peer needs.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from scoring import Array, bounds
from workloads import BOUND_IMAGES, BOUND_SAMPLES, PIXELS, WORKLOADS, Workload

HAVE_LADDERS = ("sfumato", "script")


class Gate:
    """Stands between two epochs of a peer's training loop, which calls it and goes on when it returns.

    Args:
        answer: asked for everything that is no epoch.
        send: says a line.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], dict[str, Any]], send: Callable[[Any], None]) -> None:
        self.answer, self.send = answer, send
        self.left, self.seconds, self.stepped = 0, 0.0, False
        self.begin: float | None = None

    def step(self) -> None:
        """Note that a step is done; only the first one matters."""
        if not self.stepped:
            self.stepped = True
            self.send({"first_step": True})

    def done(self) -> None:
        """Stop the clock until the next call: what the peer does between epochs is not training."""
        if self.begin is not None:
            self.seconds += time.perf_counter() - self.begin
            self.begin = None

    def __call__(self) -> None:
        """Return when another epoch is wanted."""
        self.done()
        if self.left == 1:
            self.send({"seconds": self.seconds})
        self.left = max(0, self.left - 1) or self.wait()
        self.begin = time.perf_counter()

    def wait(self) -> int:
        """Answer until epochs are wanted; return how many."""
        for line in sys.stdin:
            request = json.loads(line)
            if request["do"] == "epochs":
                self.seconds = 0.0
                return int(request["count"])
            self.send(self.answer(request))
        os._exit(0)


class Peer:
    """What every peer is.

    Args:
        workload: what is trained.
        train: binary training images, uint8 (images, pixels).
        seed: of the weights, the order and the noise.

    ``packages`` are those whose versions are reported, ``settings`` what was chosen for it, in words.
    """

    packages: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()

    def __init__(self, workload: Workload, train: Array, seed: int) -> None:
        self.workload = workload

    @staticmethod
    def cannot(workload: Workload) -> str:
        """Return why it cannot train this, or ""."""
        return ""

    def train(self, gate: Gate) -> None:
        """Train for ever, calling ``gate`` before every epoch and ``gate.step`` after every step (or epoch)."""
        raise NotImplementedError

    def encode(self, x: Array) -> tuple[Array, Array]:
        """Return mean and log-variance of images (rows, pixels)."""
        raise NotImplementedError

    def decode(self, z: Array) -> Array:
        """Return logits (rows, pixels)."""
        raise NotImplementedError

    def bounds(self, x: Array, samples: int) -> Array:
        """Return the ELBO (one sample) or L_K of images (rows, pixels), nats; for one level of z the same for all."""
        return bounds(self.encode, self.decode, x, samples)

    def bound(self, x: Array, samples: int) -> float:
        """Return the mean of the peer's own importance bound over images (rows, pixels), nats."""
        raise NotImplementedError

    def linears(self) -> list[Any]:
        """Return the affine layers of the MLP as torch modules: trunk, mean, log-variance, hidden, logits."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """Return more to report."""
        return {}


def answers(peer: Peer, test: Array) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what answers every request but for epochs."""

    def weights(path: str, write: bool) -> dict[str, Any]:
        named = {
            f"{number}.{name}": getattr(layer, name)
            for number, layer in enumerate(peer.linears())
            for name in ("weight", "bias")
        }
        if write:
            np.savez(path, **{name: value.detach().numpy() for name, value in named.items()})
            return {}
        with np.load(path, allow_pickle=False) as file:
            for name, value in named.items():
                value.data.copy_(value.data.new_tensor(file[name]))
        return {}

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "score":
            found = peer.bounds(test.astype(np.float32), request.get("samples", 1))
            return {"bounds": found.tolist()}
        if request["do"] == "bound":
            x = test[:BOUND_IMAGES].astype(np.float32)
            begin = time.perf_counter()
            nats = peer.bound(x, BOUND_SAMPLES)
            return {"seconds": time.perf_counter() - begin, "nats": nats}
        if request["do"] in ("export", "import"):
            return weights(request["path"], request["do"] == "export")
        if request["do"] == "facts":
            versions = {name: metadata.version(name) for name in peer.packages}
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            return {"settings": peer.settings, "versions": versions, "peak_memory_bytes": peak, **peer.facts()}
        os._exit(0)

    return answer


def main() -> None:
    name, workload, path, seed = sys.argv[1:]
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print what they like

    def send(line: Any) -> None:
        print(json.dumps(line), file=channel, flush=True)

    task = WORKLOADS[workload]
    if task.network == "ladder" and name not in HAVE_LADDERS:
        send({"cannot": f"{name} has no model with several levels of z" if name != "jax" else "not written for JAX"})
        return
    maker: type[Peer] = importlib.import_module(f"peers.{name}_peer").Peer
    if reason := maker.cannot(task):
        send({"cannot": reason})
        return
    with np.load(path, allow_pickle=False) as file:
        train, test = file["train"].reshape(-1, PIXELS), file["test"].reshape(-1, PIXELS)
    peer = maker(task, train[: task.images], int(seed))
    peer.train(Gate(answers(peer, test), send))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.modules["worker"] = sys.modules["__main__"]  # one Gate and one Peer, whoever imports them
    main()
