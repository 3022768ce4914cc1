"""The class-conditional VAE on binarised MNIST: generation by class and Bayes classification.

    python benchmarks/mnist_conditional.py train mnist.npz /tmp/pure --condition prior
    python benchmarks/mnist_conditional.py evaluate mnist.npz /tmp/pure --name mnist_conditional_prior

``prior`` is the article's pure form: only the prior sees y. The judge is an independent classifier, trained on the
training split; its own test accuracy stands beside its verdict. Training weighs the KL term more (beta 3): the class
means move further apart and fewer z of the prior lie where no posterior is (dev/LOG.md has the comparison).
"""

from __future__ import annotations

import json
from argparse import Namespace

import torch

from certificate import certificate, write_result
from mnist import arguments, fit, gated_vae, load, settings, start_at_the_mean
from sfumato.core.numerics import fixed_noise
from sfumato.core.schedules import WarmUp
from sfumato.data import Binarise
from sfumato.evaluation import Judge, bayes_accuracy, generation_accuracy, judge_accuracy, train_judge
from sfumato.evaluation.classes import Accuracy, accuracy
from sfumato.io.folder import load_model, save_model
from sfumato.models import VAE
from sfumato.objectives import ELBO


def train(args: Namespace) -> None:
    data = load(args.data)
    with fixed_noise(args.seed):
        model = gated_vae(args.latent_dim, 10, args.condition)
    start_at_the_mean(model, data)
    stage = fit(
        model, ELBO(beta=args.beta, schedule=WarmUp(2000)), data, settings(args), 60 * args.minutes, steps=args.steps
    )
    save_model(args.folder / "model", model, card={}, replace=True)
    recipe = f"gated 300-300, {args.latent_dim} latents, class-conditional, y seen by the {args.condition}"
    recipe += f", beta {args.beta:g}"
    facts = {**certificate(recipe=recipe, seeds=[args.seed]), "stages": [stage]}
    (args.folder / "training.json").write_text(json.dumps(facts, indent=2))


def evaluate(args: Namespace) -> None:
    data, binarise = load(args.data), Binarise((1, 28, 28), "dynamic")
    model: VAE = load_model(args.folder / "model")[0]  # type: ignore[assignment]
    training = json.loads((args.folder / "training.json").read_text())
    judge = train_judge(data, binarise, seed=args.seed)
    examples = data.split("test")
    result = {
        **certificate(recipe=training["recipe"], seeds=[args.seed]),
        "judge_accuracy": judge_accuracy(judge, examples, binarise, seed=args.seed).to_dict(),
        "generation_accuracy": generation_accuracy(model, judge, per_class=args.per_class, seed=args.seed).to_dict(),
        "generation_accuracy_most_probable_pixels": most_probable(model, judge, args.per_class, args.seed).to_dict(),
        "bayes_accuracy": bayes_accuracy(model, examples, binarise, samples=args.samples, seed=args.seed).to_dict(),
        "training": training,
    }
    write_result(args.name, result)
    print(json.dumps({name: value for name, value in result.items() if "accuracy" in name}, indent=2))


def most_probable(model: VAE, judge: Judge, per_class: int, seed: int) -> Accuracy:
    """Judge the most probable value of every pixel given z, instead of pixels drawn from p(x | z)."""
    asked = torch.arange(model.num_classes).repeat_interleave(per_class)
    images = model.eval().sample(len(asked), asked, generator=seed)
    return accuracy(asked, judge.classify((images > 0.5).float()), model.num_classes)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--condition", choices=("prior", "decoder", "both"), default="prior")
    parser.add_argument("--latent-dim", type=int, default=16)
    parser.add_argument("--steps", type=int, help="of the training, instead of what fits into --minutes")
    parser.add_argument("--beta", type=float, default=3.0, help="the weight of the KL term in training")
    parser.add_argument("--samples", type=int, default=100, help="K of each p(x | y) in Bayes' rule")
    parser.add_argument("--per-class", type=int, default=1000)
    args = parser.parse_args()
    {"train": train, "evaluate": evaluate}[args.part](args)


if __name__ == "__main__":
    main()
