"""Dynamically binarised MNIST, gated 300-300, 40 latents, N(0, I): the bound with 5,000 samples on the whole test set.

    python benchmarks/mnist_mlp.py --data mnist.npz --minutes 10

Published with 2,000 epochs: 84.45 nats (VAE with a VampPrior, Tomczak and Welling, 2018, table 1, standard prior).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from certificate import certificate, write_result
from mnist import arguments, binary_test, bound, fit, gated_vae, load, start_at_the_mean
from sfumato.core.numerics import fixed_noise
from sfumato.core.schedules import WarmUp
from sfumato.io.folder import save_model
from sfumato.objectives import ELBO, IWAE
from sfumato.training import TrainingConfig


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=5000, help="K of the bound")
    parser.add_argument("--keep", type=Path, help="a folder to leave the model in")
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--lr", type=float, default=8e-3)
    parser.add_argument("--iwae", type=int, default=5, help="K of the importance-weighted bound trained at the end")
    parser.add_argument("--iwae-share", type=float, default=0.35, help="of the time that is trained on that bound")
    parser.add_argument("--test-images", type=int, default=10_000)
    args = parser.parse_args()
    data = load(args.data)
    with fixed_noise(args.seed):
        model = gated_vae(40)
    start_at_the_mean(model, data)
    config = TrainingConfig(
        steps=10**6,
        batch_size=args.batch,
        learning_rate=args.lr,
        clip_norm=200.0,
        ema_decay=0.999,
        seed=args.seed,
        log_every=500,
        evaluate_every=10**6,
        checkpoint_every=10**6,
    )
    seconds = 60 * args.minutes
    stages = [fit(model, ELBO(schedule=WarmUp(2000)), data, config, (1 - args.iwae_share) * seconds, floor=0.1)]
    if args.iwae_share:
        gentle = replace(config, learning_rate=args.lr / 10, seed=args.seed + 1)
        stages.append(fit(model, IWAE(samples=args.iwae), data, gentle, args.iwae_share * seconds))
    print(stages, flush=True)
    if args.keep:
        save_model(args.keep, model, card={}, replace=True)
    values = bound(model, binary_test(data)[: args.test_images], args.samples, args.seed)
    error = float(values.std() / len(values) ** 0.5)
    result = {
        "nll_nats": {"value": -float(values.mean()), "standard_error": error, "n": len(values)},
        "samples": args.samples,
        "stages": stages,
        "training_seconds": sum(stage["training_seconds"] for stage in stages),
        "minutes_asked": args.minutes,
        "published_2000_epochs": 84.45,
    }
    name = args.name or f"mnist_mlp_{args.minutes:g}min"
    write_result(name, {**certificate(recipe="gated 300-300, 40 latents, N(0, I)", seeds=[args.seed]), **result})
    print(result["nll_nats"])


if __name__ == "__main__":
    main()
