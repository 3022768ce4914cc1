"""The class-conditional VAE on binarised MNIST: generation by class and Bayes classification.

    python benchmarks/mnist_conditional.py --data mnist.npz --condition prior
    python benchmarks/mnist_conditional.py --data mnist.npz --condition decoder

``prior`` is the article's pure form: only the prior sees y. The judge is an independent classifier, trained on the
training split; its own test accuracy stands beside its verdict.
"""

from __future__ import annotations

from certificate import certificate, write_result
from mnist import arguments, fit, gated_vae, load, start_at_the_mean
from sfumato.core.numerics import fixed_noise
from sfumato.core.schedules import WarmUp
from sfumato.data import Binarise
from sfumato.evaluation import bayes_accuracy, generation_accuracy, train_judge
from sfumato.objectives import ELBO
from sfumato.training import TrainingConfig


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--condition", choices=("prior", "decoder"), default="prior")
    parser.add_argument("--latent-dim", type=int, default=16)
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--samples", type=int, default=100, help="K of each p(x | y) in Bayes' rule")
    parser.add_argument("--per-class", type=int, default=1000)
    args = parser.parse_args()
    data = load(args.data)
    with fixed_noise(args.seed):
        model = gated_vae(args.latent_dim, 10, args.condition)
    start_at_the_mean(model, data)
    config = TrainingConfig(
        steps=10**6,
        batch_size=args.batch,
        learning_rate=args.lr,
        clip_norm=200.0,
        ema_decay=0.999,
        seed=args.seed,
        log_every=500,
        evaluate_every=50_000,
        checkpoint_every=50_000,
    )
    facts = fit(model, ELBO(schedule=WarmUp(2000)), data, config, 60 * args.minutes)
    binarise = Binarise((1, 28, 28), "dynamic")
    judge = train_judge(data, binarise, seed=args.seed)
    print("judge", judge.accuracy, flush=True)
    result = {
        "judge_accuracy": judge.accuracy.to_dict(),
        "generation_accuracy": generation_accuracy(model, judge, args.per_class, seed=args.seed).to_dict(),
        "bayes_accuracy": bayes_accuracy(model, data, binarise, samples=args.samples, seed=args.seed).to_dict(),
        "condition": args.condition,
        "latent_dim": args.latent_dim,
        "training": facts,
        "minutes_asked": args.minutes,
    }
    print(result, flush=True)
    name = args.name or f"mnist_conditional_{args.condition}"
    write_result(name, {**certificate(recipe="gated 300-300, class-conditional", seeds=[args.seed]), **result})


if __name__ == "__main__":
    main()
