r"""What the posteriors of a split look like, dimension by dimension, from one pass.

KL_i = mean over examples of L_mu,i + L_sigma,i, in closed form; a dimension is active when the variance over examples
of the posterior mean, Var_x(E_q[z_i]), is more than 0.01. Of several levels KL_i is taken at one draw of the levels
above; and since the prior of a lower level moves with them, and its mean with it, a dimension is active there when
KL_i is more than 0.01 nats.

References: Importance Weighted Autoencoders, Burda et al., 2016, https://arxiv.org/abs/1509.00519, appendix C; Ladder
Variational Autoencoders, Sonderby et al., 2016, https://arxiv.org/abs/1602.02282, section 3.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor, nn

from sfumato.core.gaussians import as_normal, kl_parts
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.core.processes import ALONE, Processes
from sfumato.data import Examples
from sfumato.evaluation.measuring import measuring
from sfumato.evaluation.passes import Tell, batch_lengths, batches, merged
from sfumato.models import Model

ACTIVE = 0.01
STREAM = 0x6C6174656E74  # "latent": keeps these random numbers apart from others with the same seed


@dataclass(frozen=True, eq=False)
class Latents:
    """The posteriors of n examples; latent dimensions in one row, D of them. Everything lies in main memory.

    Args:
        mean: posterior means.
        log_variance: posterior log-variances; None for a posterior that is not Gaussian.
        y: class numbers, -1 where unknown; None without classes.
        kl: KL of each dimension, nats, mean over examples; None where there is no closed form by dimension (a point
            mass, or the mixture prior of examples without a label).
        kl_mean: its part L_mu.
        kl_variance: its part L_sigma.
        levels: how many dimensions each level of z has, top first.
    """

    mean: Float32[Tensor, "n D"]
    log_variance: Float32[Tensor, "n D"] | None
    y: Int64[Tensor, " n"] | None
    kl: Float64[Tensor, " D"] | None
    kl_mean: Float64[Tensor, " D"] | None
    kl_variance: Float64[Tensor, " D"] | None
    levels: tuple[int, ...] = ()

    @property
    def variance_of_mean(self) -> Float64[Tensor, " D"]:
        """Var_x(E_q[z_i]) of each dimension, in units of z squared."""
        return self.mean.double().var(0, correction=0)

    @property
    def active(self) -> Bool[Tensor, " D"]:
        """Which dimensions are active."""
        return self.variance_of_mean > ACTIVE if len(self.levels) < 2 or self.kl is None else self.kl > ACTIVE

    @property
    def active_units(self) -> int:
        """How many dimensions are active."""
        return int(self.active.sum())

    @property
    def sigma(self) -> Float64[Tensor, " D"] | None:
        """The posterior's standard deviation in each dimension, mean over examples; None unless Gaussian."""
        return None if self.log_variance is None else (0.5 * self.log_variance.double()).exp().mean(0)

    @property
    def mean_sigma(self) -> float | None:
        """The posterior's standard deviation, mean over examples and dimensions; None unless Gaussian."""
        return None if self.sigma is None else float(self.sigma.mean())

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers by dimension, as lists for json; those that do not exist are None."""
        columns = {
            "kl": self.kl,
            "kl_mean": self.kl_mean,
            "kl_variance": self.kl_variance,
            "variance_of_mean": self.variance_of_mean,
            "sigma": self.sigma,
        }
        return {name: None if column is None else plain(column) for name, column in columns.items()}

    def by_level(self) -> list[dict[str, Any]]:
        """Return the dimensions, the active ones and the KL (nats) of each level, top first; empty for one level."""
        if len(self.levels) < 2 or self.kl is None:
            return []
        parts = zip(torch.split(self.active, list(self.levels)), torch.split(self.kl, list(self.levels)), strict=True)
        return [{"dimensions": len(kl), "active": int(active.sum()), "kl": float(kl.sum())} for active, kl in parts]


def find_latents(
    model: Model,
    examples: Examples,
    preprocessing: nn.Module,
    *,
    seed: int = 0,
    labels: bool = True,
    tell: Tell | None = None,
    processes: Processes = ALONE,
) -> Latents:
    """Encode a split.

    Args:
        model: in any mode.
        examples: the split.
        preprocessing: raw data to the model's input.
        seed: of the preprocessing's noise.
        labels: let the model see the labels: the KL is to p(z | y), and encoders that look at labels get them.
        tell: see :func:`~sfumato.evaluation.passes.batches`.
        processes: that share the work.
    """
    columns: dict[str, list[Tensor]] = {}
    parts: list[Tensor] = []
    flat = len(model.level_shapes) < 2
    with measuring(model) as device:
        for x, y, _, own in batches(examples, preprocessing, device, seed, tell, "latents", processes):
            label = y if labels and model.num_classes else None
            posterior = model.posterior(x, label)
            normal = as_normal(posterior)
            columns.setdefault("mean", []).append(posterior.mean.flatten(1).cpu())
            if normal is not None:
                columns.setdefault("log_variance", []).append(2 * normal.scale.log().flatten(1).cpu())
            if y is not None:
                columns.setdefault("y", []).append(y.cpu())
            of_batch = kl_parts(posterior, model.prior(label)) if flat else _parts_of_levels(model, x, label, own)
            if of_batch is not None:
                parts.append(
                    torch.stack([part.flatten(1).sum(0, dtype=torch.float64).cpu() for part in of_batch])[None]
                )
    lengths = batch_lengths(examples)
    found = merged(columns, lengths, processes)
    sums = merged({"kl": parts} if parts else {}, [1] * len(lengths), processes)
    numbers = found.get("y")
    l_mu = l_sigma = None
    unlabelled = bool(model.prior.num_classes) and numbers is not None and bool((numbers < 0).any())
    if sums and not unlabelled:
        l_mu, l_sigma = sums["kl"].sum(0) / len(examples)
    log_variance = found.get("log_variance")
    return Latents(
        mean=found["mean"].float(),
        log_variance=None if log_variance is None else log_variance.float(),
        y=numbers,
        kl=None if l_mu is None or l_sigma is None else l_mu + l_sigma,
        kl_mean=l_mu,
        kl_variance=l_sigma,
        levels=tuple(math.prod(shape) for shape in model.level_shapes),
    )


def _parts_of_levels(model: Model, x: Tensor, y: Tensor | None, seed: int) -> tuple[Tensor, Tensor] | None:
    """Return L_mu and L_sigma of every dimension of all levels, (batch, D), nats, given one draw of those above."""
    with fixed_noise(seed_for(STREAM, seed), x.device):
        inference = model.infer(x, y)
        levels = inference.levels(inference.draw(1))
    parts = [kl_parts(level.posterior, level.prior) for level in levels]
    if any(part is None for part in parts):
        return None
    columns = zip(*[part for part in parts if part is not None], strict=True)
    l_mu, l_sigma = (torch.cat([each.reshape(len(x), -1) for each in column], -1) for column in columns)
    return l_mu, l_sigma


def quick_look(model: Model, examples: Examples, preprocessing: nn.Module, seed: int = 0) -> dict[str, Any]:
    """Return what a training run logs about its posteriors, from one pass of the encoder, ready for json.

    Returns:
        ``kl_per_dimension`` (nats, a list, or None), ``active_units`` and ``mean_sigma`` (in units of z, or None).
    """
    found = find_latents(model, examples, preprocessing, seed=seed)
    return {
        "kl_per_dimension": None if found.kl is None else plain(found.kl),
        "active_units": found.active_units,
        "mean_sigma": found.mean_sigma,
    }


def plain(values: Float[Tensor, " D"]) -> list[float | None]:
    """Return a list for json, None in place of numbers that json has not."""
    return [
        value if finite else None for value, finite in zip(values.tolist(), values.isfinite().tolist(), strict=True)
    ]
