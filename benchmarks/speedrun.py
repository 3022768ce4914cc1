"""Write docs/speedrun.md: the rules, and the records in benchmarks/results/speedrun_*.json.

python benchmarks/mnist_mlp.py train mnist.npz /tmp/run --prior flow --batch 400 --steps 6500 1000 --weight-decay 0.04
python benchmarks/mnist_mlp.py evaluate mnist.npz /tmp/run --name speedrun_cpu
python benchmarks/speedrun.py
"""

from __future__ import annotations

import json
from pathlib import Path

from certificate import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "speedrun.md"
TARGETS = (86.76, 84.45)
RULES = """# Speedrun

How many seconds from the start of a process to a variational autoencoder of binarised MNIST that is as good as a
published one? Written by `python benchmarks/speedrun.py` from the files `benchmarks/results/speedrun_*.json`.

## The rules

* **Data.** MNIST, the first 50,000 training images for training, the last 10,000 for choosing; pixels are drawn
  anew as Bernoulli variables with the grey value as probability whenever an image is used in training. The 10,000
  test images are drawn once, with the seed in `benchmarks/mnist.py`, and choose nothing, neither the length of the
  training nor a seed.
* **What counts.** $-\\log p(x)$ as bounded by importance sampling with 5,000 samples, in float32 or better, its
  mean over all 10,000 test images, at or below the target: 86.76 nats (one stochastic layer, Burda et al., 2016) or
  84.45 (gated 300-300 with 40 latents, Tomczak and Welling, 2018).
* **The clock** starts with the process and stops when the model is written. Imports, compiling, reading the data
  and every search for the fastest way to compute are in it; measuring the bound is not. What is cached between runs
  is emptied before.
* **The model** is a latent-variable model of the pixels with a density that the bound is a bound of. Any network,
  any prior, any objective. No other data, no weights that were trained before the clock started.
* **A record** is a result file that the two commands of the table's last column write, with the seed, the commit
  and the machine in it, on a machine that does nothing else. Of several tries all are reported, or the first.

To enter, send the recipe as a change to `benchmarks/`, with the result file.

## The records

| target | seconds | nats | machine | command, result |
|---|---|---|---|---|
"""


def main() -> None:
    lines = []
    for path in sorted(RESULTS.glob("speedrun_*.json")):
        found = json.loads(path.read_text())
        nats, training = found["nll_nats"], found["training"]
        reached = [target for target in TARGETS if nats["value"] <= target]
        machine, seconds = found["machine"], training["seconds_since_the_process_started"]
        lines.append(
            (
                seconds,
                f"| {min(reached) if reached else 'none'} | {seconds:,.0f} | {nats['value']:.2f} ± "
                f"{nats['standard_error']:.2f} | {machine['cores']} cores, {machine['processor']} | "
                f"`mnist_mlp.py train {training['command']}`, then `evaluate`: `{path.name}` |",
            )
        )
    table = "\n".join(line for _, line in sorted(lines)) or "| | | none yet | | |"
    PAGE.write_text(f"{RULES}{table}\n")


if __name__ == "__main__":
    main()
