r"""The article as a guided tour: its statements in short steps, each with what this very model says about it.

Every number is of the examples on the map (at most 500 of them), in nats or in units of z, with a standard error where
it is a mean over examples. Nothing here is a verdict on the article: `sfumato claims` measures that, over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato.app.snapshot import Snapshot
from sfumato.claims.statements import STATEMENTS
from sfumato.core.gaussians import as_normal
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.evaluation.estimate import mean_estimate

EXAMPLES = 500
PER_CLASS = 20
DEAD = 1e-3  # of the code's variance; an autoencoder with a variance left over had 1e-5 (claim 1)
NO_DATA = ("The data of this model are not here.",)
STREAM = 0x746F7572  # "tour"
_WORDS = {statement.name: statement for statement in STATEMENTS}


@dataclass(frozen=True)
class Stop:
    """One step of the tour.

    Args:
        name: what the page shows at it: cloud, noise, aggregate, parts, classes, prior, training.
        title: a few words.
        statements: of the article, S1 to S15.
        text: what to look at.
        here: what is so on this model, measured; one sentence each.
    """

    name: str
    title: str
    statements: tuple[str, ...]
    text: str
    here: tuple[str, ...]


def tour(snapshot: Snapshot, metrics: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the stops for one set of weights, ready for json; those that this model cannot show say why.

    Args:
        snapshot: the model and the examples on its map.
        metrics: the logged lines of its training.
    """
    facts = _facts(snapshot)
    stops = [build(snapshot, facts, metrics) for build in _STOPS]
    return [asdict(stop) | {"quotes": [_WORDS[name].text.en for name in stop.statements]} for stop in stops]


def _facts(snapshot: Snapshot) -> dict[str, Any]:
    """Return posteriors, and log p(x | z) at the mean and at a draw, of a part of the examples."""
    served, model = snapshot.served, snapshot.served.packaged.model
    n = min(EXAMPLES, len(snapshot.x)) if snapshot.rows is not None else 0
    if not n:
        return {}
    chosen = np.sort(np.random.default_rng(1).permutation(len(snapshot.x))[:n])
    x, y = snapshot.x[chosen], snapshot.y[chosen]
    label = torch.from_numpy(y) if model.labels_reach_networks else None
    with served.noise, torch.no_grad(), fixed_noise(seed_for(STREAM, 0)):
        data = served.packaged.preprocessing(torch.from_numpy(x))
        posterior = model.encode(data, label)
        at_mean = model.decode(posterior.mean, label).log_prob(data)
        at_draw = model.decode(posterior.sample(), label).log_prob(data)
    normal = as_normal(posterior)
    sigma = None if normal is None else normal.scale.flatten(1).double().numpy()
    centre = np.zeros((n, served.latent_dim))
    means = getattr(model.prior, "means", None)
    if isinstance(means, torch.Tensor) and (y >= 0).all():
        centre = means.detach().double().numpy()[y]
    return {
        "mean": posterior.mean.flatten(1).double().numpy(),
        "sigma": sigma,
        "centre": centre,
        "cost": mean_estimate(at_mean - at_draw, "nats"),
        "n": n,
    }


def _cloud(snapshot: Snapshot, facts: dict[str, Any], metrics: Sequence[dict[str, Any]]) -> Stop:
    here = [f"The latent space has {snapshot.served.latent_dim} dimensions; the map is a plane through it."]
    if facts.get("sigma") is not None:
        here.append(
            f"A cloud is {facts['sigma'].mean():.2f} wide on average; the prior's width is 1 (mean of "
            f"{facts['n']:,} examples and all dimensions)."
        )
    text = "An example of yours is chosen. The strip is decoded from draws of its own cloud, the dots around it."
    return Stop("cloud", "Every sample owns a cloud", ("S5", "S6"), text, tuple(here))


def _noise(snapshot: Snapshot, facts: dict[str, Any], metrics: Sequence[dict[str, Any]]) -> Stop:
    text = (
        "The strip widens the same cloud from 0 to 3 times its width. At 0 the model is an ordinary autoencoder; what "
        "the decoder was trained to bear is 1."
    )
    if not facts:
        return Stop("noise", "Is the noise alive?", ("S9",), text, NO_DATA)
    if facts["sigma"] is None:
        dead = (
            "This model's posterior has no variance: it is an ordinary autoencoder, the noise is dead by construction.",
        )
        return Stop("noise", "Is the noise alive?", ("S9",), text, dead)
    variance, spread = np.square(facts["sigma"]).mean(0), facts["mean"].var(0)
    share = float((variance / (variance + spread)).mean())
    verdict = "alive" if share > DEAD else "nearly dead: see `sfumato doctor`"
    here = (
        f"Mean posterior variance {variance.mean():.3g}; {100 * share:.1f} % of the code's variance is noise: it is "
        f"{verdict}.",
        f"The noise costs {facts['cost']} of log p(x|z): decoding a draw against decoding the mean.",
    )
    return Stop("noise", "Is the noise alive?", ("S9",), text, here)


def _aggregate(snapshot: Snapshot, facts: dict[str, Any], metrics: Sequence[dict[str, Any]]) -> Stop:
    classes = snapshot.served.packaged.model.prior.num_classes > 0
    target = "its class's N(\u03bc, I)" if classes else "N(0, I)"
    text = (
        "The rings are the prior at one, two and three standard deviations; the points should fill them as smoke "
        "fills a room. Dimensions that stay empty or far too wide are where samples go wrong."
    )
    if not facts:
        return Stop("aggregate", "All clouds together", ("S10",), text, NO_DATA)
    noise = np.square(facts["sigma"]).mean(0) if facts["sigma"] is not None else 0.0
    total = np.square(facts["mean"] - facts["centre"]).mean(0) + noise
    low, high = float(total.min()), float(total.max())
    here = (
        f"Together the clouds have a second moment of {low:.2f} to {high:.2f} about {target}, dimension by dimension; "
        f"1 would be a perfect fit (mean {total.mean():.2f}, {facts['n']:,} examples).",
    )
    return Stop("aggregate", "All clouds together", ("S10",), text, here)


def _parts(snapshot: Snapshot, facts: dict[str, Any], metrics: Sequence[dict[str, Any]]) -> Stop:
    found = snapshot.latents
    text = (
        "The sliders stand in the order of their KL; the rows move the first and the last of them. What costs nothing "
        "to transmit changes nothing."
    )
    if snapshot.rows is None:
        return Stop("parts", "The two parts of the KL", ("S12",), text, NO_DATA)
    if found.kl is None or found.kl_mean is None or found.kl_variance is None:
        return Stop("parts", "The two parts of the KL", ("S12",), text, ("This model has no closed form of the KL.",))
    here = (
        f"KL {float(found.kl.sum()):.1f} nats = L\u03bc {float(found.kl_mean.sum()):.1f} + L\u03c3 "
        f"{float(found.kl_variance.sum()):.1f} (mean of {len(found.mean):,} examples).",
        f"{found.active_units} of {snapshot.served.latent_dim} dimensions are active: the variance of their mean "
        "is above 0.01.",
    )
    return Stop("parts", "The two parts of the KL", ("S12",), text, here)


def _classes(snapshot: Snapshot, facts: dict[str, Any], metrics: Sequence[dict[str, Any]]) -> Stop:
    text = "A row for each class: first its own mean decoded, then draws about it."
    served = snapshot.served
    means = getattr(served.packaged.model.prior, "means", None)
    if not isinstance(means, torch.Tensor) or not served.packaged.model.prior.num_classes:
        here = ("This model has one prior for all: train with --conditional to give every class a mean.",)
        return Stop("classes", "Class means choose the class", ("S15",), text, here)
    right, count = 0, 0
    for number in range(means.shape[0]):
        z, y = served.draw(PER_CLASS, number, 1.0, seed_for(STREAM, number))
        again = served.encode(served.decode(z, y), y).mean
        right += int((_nearest(again, means.detach().numpy()) == number).sum())
        count += PER_CLASS
    share = right / count
    error = math.sqrt(share * (1 - share) / count)
    here = (
        f"{100 * share:.0f} ± {100 * error:.0f} % of {count:,} samples, encoded again, lie nearest to the mean of the "
        "class that was asked for.",
    )
    return Stop("classes", "Class means choose the class", ("S15",), text, here)


def _prior(snapshot: Snapshot, facts: dict[str, Any], metrics: Sequence[dict[str, Any]]) -> Stop:
    dims = snapshot.served.latent_dim
    text = (
        "Fresh draws from the prior, decoded. Turn the temperature down to stay near the middle, up to leave what the "
        "decoder knows."
    )
    here = [f"A draw from N(0, I) in {dims} dimensions lies about {math.sqrt(dims):.1f} from the centre, not at it."]
    if facts:
        around = facts["mean"] - facts["centre"]
        noise = np.square(facts["sigma"]).sum(1) if facts["sigma"] is not None else 0.0
        radius = np.sqrt(np.square(around).sum(1) + noise)
        here.append(
            f"The model's own codes lie {radius.mean():.1f} from theirs: samples go where {_where(radius, dims)}."
        )
    return Stop("prior", "Sampling from the prior", ("S1", "S10"), text, tuple(here))


def _training(snapshot: Snapshot, facts: dict[str, Any], metrics: Sequence[dict[str, Any]]) -> Stop:
    text = (
        "The curves of this run: the noise \u03c3 and the KL. Early the noise falls and the KL rises; later they turn."
    )
    lines = [line for line in metrics if line.get("split") == "validation" and line.get("sigma") is not None]
    if len(lines) < 3:
        return Stop("training", "The noise adapts", ("S14",), text, ("There is no log of a training here.",))
    sigma = [float(line["sigma"]) for line in lines]
    lowest = int(np.argmin(sigma))
    turned = "and has grown since" if sigma[-1] > 1.02 * sigma[lowest] else "and has not turned yet"
    here = (
        f"\u03c3 began at {sigma[0]:.2f}, was lowest with {sigma[lowest]:.2f} at step {int(lines[lowest]['step']):,}, "
        f"{turned}: now {sigma[-1]:.2f}.",
    )
    return Stop("training", "The noise adapts", ("S14",), text, here)


def _nearest(z: NDArray[np.float32], means: NDArray[np.float32]) -> NDArray[np.int64]:
    distances = np.square(z[:, None] - means[None]).sum(-1)
    nearest: NDArray[np.int64] = distances.argmin(1)
    return nearest


def _where(radius: NDArray[np.float64], dims: int) -> str:
    ratio = float(radius.mean()) / math.sqrt(dims)
    if ratio > 1.15:
        return "few codes are, too near the middle"
    return "few codes are, too far out" if ratio < 0.87 else "the codes are"


_STOPS: tuple[Callable[[Snapshot, dict[str, Any], Sequence[dict[str, Any]]], Stop], ...] = (
    _cloud,
    _noise,
    _aggregate,
    _parts,
    _classes,
    _prior,
    _training,
)
