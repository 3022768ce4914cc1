"""Emoji, 64x64 in colour: pictures by class, and a ladder of latents beside the flat model in bits per dimension.

    python benchmarks/emoji.py train flat emoji64.npz /tmp/emoji
    python benchmarks/emoji.py train ladder emoji64.npz /tmp/emoji
    python benchmarks/emoji.py train pictures emoji64.npz /tmp/emoji --minutes 26
    python benchmarks/emoji.py compare emoji64.npz /tmp/emoji      writes results/emoji.json
    python benchmarks/emoji.py draw emoji64.npz /tmp/emoji         writes docs/images/emoji.png

The data are 1,906 emoji of nine categories (Noto Color Emoji, Google, Apache-2.0) on white, 80, 10 and 10 % of each to
train, choose and test. Flat model and ladder have the same likelihood, exact masses of 8-bit values, no labels, one
core, and as many steps as fit into the same time of the processor; widths, latent size and learning rate were chosen
for each on the validation split. What is compared is L_K on the test images.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certificate import certificate, write_result
from mnist import Printer
from sfumato.core.numerics import fixed_noise
from sfumato.core.schedules import WarmUp
from sfumato.data import Dataset, Levels, load_dataset
from sfumato.evaluation import importance_bound, mean_estimate
from sfumato.evaluation.baselines import score_baselines
from sfumato.evaluation.fitting import with_fitted_prior
from sfumato.evaluation.units import bits_per_dim
from sfumato.io.folder import load_model, save_model
from sfumato.likelihoods import DiscretizedLogistic
from sfumato.models import VAE, HierarchicalVAE, Model
from sfumato.networks.ladder import ConvBottomUp, ConvTopDown
from sfumato.objectives import ELBO
from sfumato.priors import ClassConditionalMixture, StandardNormal
from sfumato.recipes import build_vae, schedule_for
from sfumato.recipes.networks import conv
from sfumato.recipes.plan import EVALUATIONS
from sfumato.report.pictures import image_grid
from sfumato.training import Trainer, TrainingConfig

SHAPE = (3, 64, 64)
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "emoji.png"
MEASURED_STEPS, SAMPLES = 5, 50
BETA, COMPONENTS, PRIOR_STEPS, COLUMNS = 1.0, 10, 3_000, 12  # of the pictures
ABOUT = {
    "flat": "convolutions 16-32-64, 128 latents",
    "ladder": "a vector of 32 latents and 6 maps of 4 channels, convolutions 24-48-64-96",
    "pictures": "convolutions 16-32-64, 64 latents, a learned mean for each class",
}


def build(name: str, data: Dataset) -> Model:
    """Return an untrained model."""
    likelihood = DiscretizedLogistic(SHAPE)
    if name == "ladder":
        widths, levels = (24, 48, 64, 96), (1, 1, 2, 2)
        path = ConvTopDown(likelihood.parameter_shape, 32, 4, widths, levels, hidden=24)
        return HierarchicalVAE(StandardNormal(32), ConvBottomUp(SHAPE, widths, levels, hidden=24), path, likelihood)
    recipe = conv(name, (16, 32, 64), 256, "")
    if name == "flat":
        return build_vae(recipe, likelihood, 128)
    assert data.y is not None
    shares = np.bincount(data.y[data.rows("train")], minlength=data.num_classes) / len(data.rows("train"))
    return build_vae(recipe, likelihood, 64, tuple(shares.tolist()))


def train(args: argparse.Namespace) -> None:
    """Train one model and leave it in the folder."""
    data = load_dataset(args.data)
    with fixed_noise(args.seed):
        model = build(args.model, data)
    config = TrainingConfig(
        steps=10**6,
        batch_size=args.batch,
        learning_rate=args.lr,
        clip_norm=500.0,
        precision="float32",
        seed=args.seed,
    )
    parts = (data.split("train"), data.split("validation"), Levels(SHAPE))
    seconds = 60 * args.minutes
    steps = steps_in_processor_time(seconds, Trainer(copy.deepcopy(model), ELBO(), *parts, config))
    objective = ELBO(beta=BETA if args.model == "pictures" else 1.0, schedule=WarmUp(steps // 10))
    begin = time.process_time()
    outcome = Trainer(model, objective, *parts, schedule_for(config, steps), listener=Printer()).fit()
    facts = {
        "about": ABOUT[args.model],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "batch": args.batch,
        "learning_rate": args.lr,
        "beta": objective.beta,
        "steps": outcome.step,
        "epochs": outcome.step * args.batch / len(parts[0]),
        "best_step": outcome.best_step,
        "skipped_steps": outcome.skipped,
        "processor_seconds": time.process_time() - begin,
        "validation_loss_nats": outcome.best_value,
        "seed": args.seed,
    }
    save_model(args.folder / args.model, model, card={}, replace=True)
    (args.folder / f"{args.model}.json").write_text(json.dumps(facts, indent=2))
    print(facts)


def steps_in_processor_time(seconds: float, trainer: Trainer) -> int:
    """Return how many steps take this time of the processor, whatever else the machine does; the model is trained."""
    begin = time.process_time()
    trainer.choose_engine(seconds)
    seconds -= time.process_time() - begin  # the training chooses again
    trainer.measured_step(0)
    begin = time.process_time()
    for step in range(MEASURED_STEPS):
        trainer.measured_step(1 + step)
    per_step = (time.process_time() - begin) / MEASURED_STEPS
    begin = time.process_time()
    trainer.measured_evaluation()
    return max(1, int((seconds - (EVALUATIONS + 1) * (time.process_time() - begin)) / per_step))


def compare(args: argparse.Namespace) -> None:
    """Write the bits per dimension of flat model and ladder on the test images."""
    data, preprocessing = load_dataset(args.data), Levels(SHAPE)
    x, dims = preprocessing(data.split("test").x), math.prod(SHAPE)
    scores, models = {}, {}
    for name in ("flat", "ladder"):
        model: Model = load_model(args.folder / name)[0]  # type: ignore[assignment]
        scores[name] = importance_bound(model, x, samples=SAMPLES, seed=args.seed)
        with torch.no_grad(), fixed_noise(args.seed):
            levels = model(x).kl.mean(1).tolist()
        models[name] = {
            **json.loads((args.folder / f"{name}.json").read_text()),
            "log_mass": mean_estimate(scores[name], "nats").to_dict(),
            "bits_per_dim": in_bits(scores[name], dims),
            "kl_of_each_level_top_first_nats": levels,
        }
        print(name, models[name]["bits_per_dim"], [round(level) for level in levels], flush=True)
    simple = score_baselines(DiscretizedLogistic(SHAPE), 1, data.split("train"), data.split("test"), preprocessing)
    baseline = bits_per_dim(simple["independent"], dims, discrete=True)
    assert baseline is not None
    result = {
        **certificate(recipe="flat VAE and ladder on emoji64, discretised logistic, ELBO, Adam", seeds=[args.seed]),
        "data": f"emoji64, {len(data):,} images of 64x64x3, {len(x)} of them test",
        "samples": SAMPLES,
        "models": models,
        "flat_minus_ladder": in_bits(scores["flat"] - scores["ladder"], dims),
        "every_value_on_its_own": baseline.to_dict(),
    }
    print(write_result("emoji", result), result["flat_minus_ladder"])


def in_bits(log_mass: Tensor, dims: int) -> dict[str, Any]:
    """Return the mean of -log P over images in bits for each value."""
    found = bits_per_dim(mean_estimate(log_mass, "nats"), dims, discrete=True)
    assert found is not None
    return found.to_dict()


def draw(args: argparse.Namespace) -> None:
    """Write the picture: a row of new emoji for each category."""
    data, preprocessing = load_dataset(args.data), Levels(SHAPE)
    model: VAE = load_model(args.folder / "pictures")[0]  # type: ignore[assignment]
    start = ClassConditionalMixture(data.num_classes, model.latent_dim, COMPONENTS)
    fitted = with_fitted_prior(model, data.split("train"), preprocessing, start, steps=PRIOR_STEPS, seed=args.seed)
    asked = torch.arange(data.num_classes).repeat_interleave(COLUMNS)
    x = fitted.eval().sample(len(asked), asked, temperature=args.temperature, generator=args.seed)
    page = image_grid(preprocessing.inverse(x.clamp(0, 1)), COLUMNS, data.class_names, preprocessing)
    page.quantize(256).save(PICTURE, optimize=True)
    print(PICTURE, f"{PICTURE.stat().st_size / 1e3:.0f} kB")


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("train", "compare", "draw"):
        part = parts.add_parser(name)
        if name == "train":
            part.add_argument("model", choices=tuple(ABOUT))
            part.add_argument("--minutes", type=float, default=5.0, help="time of the processor")
            part.add_argument("--batch", type=int, default=32)
            part.add_argument("--lr", type=float, default=1e-3, help="learning rate at its peak")
        part.add_argument("data", type=Path, help="emoji64.npz: x, y, categories")
        part.add_argument("folder", type=Path, help="where the trained models are left and found")
        part.add_argument("--seed", type=int, default=0)
        if name == "draw":
            part.add_argument("--temperature", type=float, default=0.8, help="of the prior")
    args = parser.parse_args()
    {"train": train, "compare": compare, "draw": draw}[args.part](args)


if __name__ == "__main__":
    main()
