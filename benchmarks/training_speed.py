"""Images a second of the training loop beside the usual script, in turns, in one process.

    python benchmarks/training_speed.py

The usual script is PyTorch's VAE example in shape: a Dataset that turns one PIL image at a time into a float tensor, a
DataLoader that shuffles and stacks, eager float32, Adam. Same MLP (784-512-16), same batch, same objective, same data
(fashion-mnist-mini). The rounds alternate, and the ratio is taken round by round.
"""

from __future__ import annotations

import statistics
import time

import torch
from PIL import Image
from torch.nn import functional as F

from certificate import certificate, write_result
from sfumato.core.numerics import fixed_noise
from sfumato.data import Binarise, Dataset, load_dataset
from sfumato.likelihoods import Bernoulli
from sfumato.models import VAE
from sfumato.networks import MLP
from sfumato.objectives import ELBO
from sfumato.posteriors import DiagonalGaussian
from sfumato.priors import StandardNormal
from sfumato.training import Trainer, TrainingConfig

ROUNDS = 7
IMAGES = 8_192


def reference() -> VAE:
    """Return the reference MLP 784-512-16."""
    shape = (1, 28, 28)
    trunk = MLP(shape, (512,), hidden=(), activate_output=True)
    posterior = DiagonalGaussian(MLP((512,), (16,), hidden=()), MLP((512,), (16,), hidden=()), trunk)
    return VAE(StandardNormal(16), posterior, MLP((16,), (1, *shape), hidden=(512,)), Bernoulli(shape))


class UsualScript:
    """The loop that people write."""

    def __init__(self, data: Dataset, batch: int) -> None:
        images = data.array("train")[:IMAGES, 0]

        class Images(torch.utils.data.Dataset):  # type: ignore[type-arg]
            def __len__(self) -> int:
                return len(images)

            def __getitem__(self, index: int) -> torch.Tensor:
                picture = Image.fromarray(images[index])
                values = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
                return values.view(1, 28, 28).float().div(255)

        self.loader = torch.utils.data.DataLoader(Images(), batch_size=batch, shuffle=True)
        self.encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 512), torch.nn.ReLU())
        self.mean, self.log_variance = torch.nn.Linear(512, 16), torch.nn.Linear(512, 16)
        self.decoder = torch.nn.Sequential(torch.nn.Linear(16, 512), torch.nn.ReLU(), torch.nn.Linear(512, 784))
        parts = (self.encoder, self.mean, self.log_variance, self.decoder)
        self.optimizer = torch.optim.Adam([p for part in parts for p in part.parameters()], lr=1e-3)

    def epoch(self) -> None:
        for grey in self.loader:
            x = torch.bernoulli(grey)
            features = self.encoder(x)
            mean, log_variance = self.mean(features), self.log_variance(features)
            z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
            reconstruction = F.binary_cross_entropy_with_logits(self.decoder(z), x.flatten(1), reduction="sum")
            kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
            loss = (reconstruction + kl) / len(x)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


class Ours:
    """The training loop of sfumato: guard, averaging, noise of (seed, step), metrics and all."""

    def __init__(self, data: Dataset, batch: int) -> None:
        steps = 10**6
        config = TrainingConfig(steps=steps, batch_size=batch, evaluate_every=steps, checkpoint_every=steps)
        binarise = Binarise(data.shape, "dynamic")
        train, validation = data.split("train"), data.split("validation")
        self.trainer = Trainer(reference(), ELBO(), train, validation, binarise, config)
        self.trainer.choose_engine(seconds=600)
        self.steps, self.done = IMAGES // batch, 0

    def epoch(self) -> None:
        for _ in range(self.steps):
            self.trainer.measured_step(self.done)
            self.done += 1


def rate(side: UsualScript | Ours) -> float:
    begin = time.perf_counter()
    side.epoch()
    return IMAGES / (time.perf_counter() - begin)


def main() -> None:
    data = load_dataset("fashion-mnist-mini")
    result = {}
    for batch in (128, 512):
        with fixed_noise(0):
            usual, ours = UsualScript(data, batch), Ours(data, batch)
        rate(usual), rate(ours)
        pairs = [(rate(usual), rate(ours)) for _ in range(ROUNDS)]
        ratios = [mine / theirs for theirs, mine in pairs]
        result[f"batch_{batch}"] = {
            "ratio_median": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
            "rounds": ROUNDS,
            "engine": str(ours.trainer.engine.way),
            "usual_images_per_second_median": statistics.median(pair[0] for pair in pairs),
            "ours_images_per_second_median": statistics.median(pair[1] for pair in pairs),
        }
        print(batch, result[f"batch_{batch}"], flush=True)
    head = certificate(recipe="784-512-16, Bernoulli, dynamic binarisation, float32", seeds=[0])
    write_result("training_speed", {**head, **result})


if __name__ == "__main__":
    main()
