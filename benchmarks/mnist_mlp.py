"""Dynamically binarised MNIST, gated 300-300, 40 latents: the bound with 5,000 samples on the whole test set.

    python benchmarks/mnist_mlp.py train mnist.npz /tmp/mnist --minutes 10
    python benchmarks/mnist_mlp.py evaluate mnist.npz /tmp/mnist --name mnist_mlp_10min

The first part of the time trains the ELBO, the rest the importance-weighted bound. A prior over exemplars is trained
with half of the training images and tested with all; the test sees the terms of those nearest to an image, which is a
little less than p(z), and so still a bound. Published with 2,000 epochs of the ELBO: 84.45 nats with N(0, I) and 82.43
with 500 pseudo-inputs (VAE with a VampPrior, Tomczak and Welling, 2018, table 1), 82.09 with exemplars (Exemplar VAE,
Norouzi et al., 2020, table 1).
"""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from dataclasses import replace

import psutil
import torch

from certificate import certificate, write_result
from mnist import arguments, binary_test, bound, fit, gated_vae, load, settings, start_at_the_mean
from sfumato.core.interfaces import Prior
from sfumato.core.numerics import fixed_noise
from sfumato.core.schedules import WarmUp
from sfumato.data import Binarise
from sfumato.distributions import GaussianMixture
from sfumato.io.folder import load_model, save_model
from sfumato.models import VAE
from sfumato.objectives import ELBO, IWAE
from sfumato.priors import Exemplar, Flow, StandardNormal, VampPrior
from sfumato.recipes.starting import start_parts

LATENT, SHAPE = 40, (1, 28, 28)
PRIORS = {
    "standard": lambda: StandardNormal(LATENT),
    "vamp": lambda: VampPrior(LATENT, SHAPE, components=500),
    "flow": lambda: Flow(LATENT, "coupling", transforms=6, hidden=(128, 128)),
    "exemplar": lambda: Exemplar(LATENT, SHAPE, exemplars=25_000, nearest=2, drawn=True),
}
PUBLISHED = {"standard": 84.45, "vamp": 82.43, "flow": None, "exemplar": 82.09}


def train(args: Namespace) -> None:
    data = load(args.data)
    with fixed_noise(args.seed):
        plain = gated_vae(LATENT)
        model = VAE(PRIORS[args.prior](), plain.posterior, plain.decoder, plain.likelihood)
    start_at_the_mean(model, data)
    start_parts(model, Binarise(SHAPE, "dynamic"), data, args.seed)
    seconds = 60 * args.minutes
    first, second = args.steps or (None, None)
    elbo = ELBO(schedule=WarmUp(2000))
    stages = [fit(model, elbo, data, settings(args), (1 - args.iwae_share) * seconds, floor=0.1, steps=first)]
    if args.iwae_share:
        gentle = replace(settings(args), learning_rate=args.lr / 10, seed=args.seed + 1)
        stages.append(fit(model, IWAE(samples=args.iwae), data, gentle, args.iwae_share * seconds, steps=second))
    save_model(args.folder / "model", model, card={}, replace=True)
    since_start = time.time() - psutil.Process().create_time()
    facts = {
        **certificate(recipe=f"gated 300-300, {LATENT} latents, {args.prior} prior", seeds=[args.seed]),
        "command": " ".join(sys.argv[2:]),
        "seconds_since_the_process_started": since_start,
        "prior": args.prior,
        "stages": stages,
    }
    (args.folder / "training.json").write_text(json.dumps(facts, indent=2))
    print(json.dumps(stages, indent=2))


def with_every_exemplar(model: VAE, data: Dataset) -> VAE:
    """Return ``model`` with all training images as exemplars, where half of them sufficed to train it."""
    images = torch.from_numpy(data.array("train"))
    prior = Exemplar(LATENT, SHAPE, exemplars=len(images))
    prior.start_from(Binarise(SHAPE, "dynamic").expected(images))
    prior.log_variance = model.prior.log_variance
    return VAE(prior, model.posterior, model.decoder, model.likelihood)


class NearestExemplars(Prior):
    """The terms of a mixture over exemplars that are nearest to some images, with the weights that they have in it.

    Args:
        model: with exemplars as its prior.
        count: how many terms each image chooses; what one chooses all see.
    """

    def __init__(self, model: VAE, count: int) -> None:
        super().__init__()
        self.latent_shape, self.count, self.encoder = model.prior.latent_shape, count, model.posterior
        with torch.no_grad():
            everything = model.eval().prior()
        assert isinstance(everything, GaussianMixture)
        self.found = self.everything = everything

    def choose(self, images: torch.Tensor) -> None:
        """Take the terms nearest to each of these images."""
        weights, means, scale = self.everything.log_weights, self.everything.means, self.everything.scale
        assert scale is not None
        with torch.no_grad():
            distance = torch.cdist(self.encoder(images).mean, means)
        near = distance.topk(self.count, largest=False).indices.flatten().sort().values
        again = torch.cat([near.new_zeros(1, dtype=torch.bool), near[1:] == near[:-1]])  # so that the number stays
        self.found = GaussianMixture(torch.where(again, -torch.inf, weights[near]), means[near], scale[near])

    def forward(self, y: torch.Tensor | None = None) -> GaussianMixture:
        """Return the chosen terms."""
        return self.found


def evaluate(args: Namespace) -> None:
    loaded, _ = load_model(args.folder / "model")
    assert isinstance(loaded, VAE)
    training = json.loads((args.folder / "training.json").read_text())
    data = load(args.data)
    images = binary_test(data)[:: args.every]
    if isinstance(loaded.prior, Exemplar):
        nearest = NearestExemplars(with_every_exemplar(loaded, data), args.nearest)
        model = VAE(nearest, loaded.posterior, loaded.decoder, loaded.likelihood)
        values = bound(model, images, args.samples, args.seed, batch=10, before=nearest.choose)
    else:
        values = bound(loaded, images, args.samples, args.seed)
    result = {
        **certificate(recipe=training["recipe"], seeds=[args.seed]),
        "nll_nats": {
            "value": -float(values.mean()),
            "standard_error": float(values.std() / len(values) ** 0.5),
            "n": len(values),
        },
        "samples": args.samples,
        "training_seconds": sum(stage["training_seconds"] for stage in training["stages"]),
        "training": training,
        "published_2000_epochs": PUBLISHED[training["prior"]],
    }
    write_result(args.name, result)
    print(result["nll_nats"])


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--prior", choices=tuple(PRIORS), default="standard")
    parser.add_argument("--iwae", type=int, default=5, help="K of the importance-weighted bound trained at the end")
    parser.add_argument("--iwae-share", type=float, default=0.35, help="of the time that is trained on that bound")
    parser.add_argument("--steps", type=int, nargs=2, help="of the two parts, instead of what fits into --minutes")
    parser.add_argument("--samples", type=int, default=5000, help="K of the bound that is reported")
    parser.add_argument("--nearest", type=int, default=200, help="exemplars whose terms of p(z) an image chooses")
    parser.add_argument("--every", type=int, default=1, help="evaluate every so many test images")
    args = parser.parse_args()
    {"train": train, "evaluate": evaluate}[args.part](args)


if __name__ == "__main__":
    main()
