r"""Another prior for a trained model: fitted to where its posteriors are.

With q(z) = 1/n sum_i q(z | x_i), the aggregate posterior of the training split, the mean ELBO is

    mean_i E[log p(x_i | z)] - I(x; z) - KL(q(z) || p(z)),

and a prior touches the last term only: the best one is q(z) itself, found by maximum likelihood on draws of it. Of a
quantiser z is made of codes, and the prior is fitted to those.
References: ELBO Surgery, Hoffman and Johnson, 2016; Diagnosing and Enhancing VAE Models, Dai and Wipf, 2019,
https://arxiv.org/abs/1903.05789 (a second stage on the latents); From Variational to Deterministic Autoencoders, Ghosh
et al., 2020, https://arxiv.org/abs/1903.12436 (density estimation afterwards).
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.distributions import Distribution

from sfumato.core.errors import UserError
from sfumato.core.gaussians import has_density
from sfumato.core.interfaces import Prior
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.core.spec import from_spec, to_spec
from sfumato.data import Dataset, Examples
from sfumato.evaluation.bounds import elbo_terms
from sfumato.evaluation.estimate import Estimate, mean_estimate
from sfumato.evaluation.measuring import measuring
from sfumato.evaluation.passes import Tell, batches
from sfumato.models import VAE, Model, PackagedModel
from sfumato.priors import AutoregressiveCodes, ClassConditionalMixture, Flow, GaussianMixture, SecondStage

BATCH, RATE, HELD_OUT, LOOK = 500, 2e-3, 0.1, 100
CODES = 4_000  # of a batch, where z is made of codes
DRAWS, STEPS = 5, 3_000
STREAM = 0x666974  # "fit": keeps these random numbers apart from others with the same seed


def _class_mixture(model: VAE) -> Prior:
    if not model.num_classes:
        raise UserError("a class-mixture is a prior for classes, and this model has none. Take gaussian-mixture.")
    weights = getattr(model.prior, "log_frequencies", None)
    frequencies = None if weights is None else tuple(weights.double().softmax(0).tolist())
    return ClassConditionalMixture(model.num_classes, model.latent_dim, frequencies=frequencies)


def _codes(model: VAE) -> Prior:
    sizes = getattr(model.posterior, "code_sizes", None)
    if sizes is None:
        raise UserError(
            f"a prior over codes needs the codes of a quantiser; {type(model.posterior).__name__} has none. Take "
            "gaussian-mixture."
        )
    return AutoregressiveCodes(model.posterior.latent_shape, sizes)


KINDS: dict[str, Callable[[VAE], Prior]] = {
    "gaussian-mixture": lambda model: GaussianMixture(model.latent_dim, 10, "full"),
    "class-mixture": _class_mixture,
    "coupling": lambda model: Flow(model.latent_dim, "coupling"),
    "autoregressive": lambda model: Flow(model.latent_dim, "autoregressive"),
    "spline": lambda model: Flow(model.latent_dim, "spline"),
    "second-stage": lambda model: SecondStage(model.latent_dim),
    "codes": _codes,
}


def usual_kind(model: Model) -> str:
    """Return the kind of prior that is fitted if nobody says: over the codes of a quantiser, by class where there are
    classes, else a mixture of normals.
    """
    if hasattr(model.posterior, "code_sizes"):
        return "codes"
    return "class-mixture" if model.num_classes else "gaussian-mixture"


def fit_prior(
    packaged: PackagedModel,
    dataset: Dataset,
    prior: Prior | str | None = None,
    *,
    draws: int = DRAWS,
    steps: int = STEPS,
    seed: int = 0,
    tell: Tell | None = None,
) -> PackagedModel:
    """Return the same model with a prior that is fitted to the training split; the rest is unchanged.

    Args:
        packaged: a trained VAE.
        dataset: as it was loaded.
        prior: one to start from, of the same latent shape, or the name of a kind: ``gaussian-mixture``, 10 components
            with full covariances, by scikit-learn; ``class-mixture``, 5 components for each class; a flow,
            ``coupling``, ``autoregressive`` or ``spline``; ``second-stage``, a VAE of z; ``codes``, of a quantiser.
            None: :func:`usual_kind`.
        draws: z of q(z | x) for each example.
        steps: of Adam, for priors that have no algorithm of their own.
        seed: of draws, weights and batches.
        tell: called as tell("latents", examples done, examples in all), then tell("prior", steps done, steps in all).

    Raises:
        UserError: the model is not a VAE, or the prior is for other latents or other classes.
    """
    prepared = packaged.preprocessing.prepare(dataset)
    how = {"draws": draws, "steps": steps, "seed": seed, "tell": tell}
    found = with_fitted_prior(packaged.model, prepared.split("train"), packaged.preprocessing, prior, **how)  # type: ignore[arg-type]
    return PackagedModel(found, copy.deepcopy(packaged.preprocessing), packaged.class_names)


def with_fitted_prior(
    model: Model,
    examples: Examples,
    preprocessing: nn.Module,
    prior: Prior | str | None = None,
    *,
    draws: int = DRAWS,
    steps: int = STEPS,
    seed: int = 0,
    tell: Tell | None = None,
) -> VAE:
    """Return a copy of ``model`` with a prior that is fitted to ``examples``; arguments as :func:`fit_prior`."""
    if not isinstance(model, VAE):
        raise UserError(
            f"fit_prior puts another prior into a VAE; {type(model).__name__} is none: its levels own their priors."
        )
    place = next(model.parameters())
    prior = usual_kind(model) if prior is None else prior
    with fixed_noise(seed_for(STREAM, seed), place.device):
        if isinstance(prior, str):
            if prior not in KINDS:
                raise UserError(f"fit_prior knows {', '.join(KINDS)}, or takes a prior; got '{prior}'.")
            prior = KINDS[prior](model)
        found = exchanged(model, prior)
    z, y = drawn_latents(found, examples, preprocessing, draws, bool(model.num_classes), seed, tell)
    by_itself = getattr(found.prior, "fit", None)
    if by_itself is not None:
        by_itself(z.flatten(0, 1), seed)
    else:
        _climb(found.prior, z, y, steps, seed, tell)
        found.zero_grad()
    return found.train(model.training)


def exchanged(model: VAE, prior: Prior) -> VAE:
    """Return a copy of ``model`` with ``prior`` in the place of its own, the same weights everywhere else."""
    place = next(model.parameters())
    found: VAE = from_spec(to_spec(model) | {"prior": to_spec(prior)}, "model").to(place.device, place.dtype)
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("prior.")}
    own = {f"prior.{name}": value for name, value in prior.state_dict().items()}
    found.load_state_dict(weights | own)
    return found


def drawn_latents(
    model: Model,
    examples: Examples,
    preprocessing: nn.Module,
    draws: int,
    labelled: bool,
    seed: int = 0,
    tell: Tell | None = None,
) -> tuple[Tensor, Int[Tensor, " n"] | None]:
    """Return draws of q(z | x) of every example, (draws, n, *latent), and the classes, (n,), of ``labelled`` ones.

    What has a point for a posterior is drawn once; with a prior over codes they are its codes, (1, n, codes).
    """
    found, labels = [], []
    with measuring(model) as device:
        for x, given, _, own in batches(examples, preprocessing.to(device), device, seed, tell, "latents"):
            y = given if labelled else None
            with fixed_noise(seed_for(STREAM, own), device):
                posterior = model.posterior(x, y)
                codes = getattr(posterior, "codes", None)
                if codes is None:
                    found.append(posterior.sample((draws if has_density(posterior) else 1,)))
                else:
                    found.append(codes.unsqueeze(0))
            labels += [] if y is None else [y]
    return torch.cat(found, 1), torch.cat(labels) if labels else None


def _climb(prior: Prior, z: Tensor, y: Tensor | None, steps: int, seed: int, tell: Tell | None) -> None:
    """Raise the mean of log p(z | y) by Adam; keep the weights that are best on a tenth of the examples."""
    with fixed_noise(seed_for(STREAM, seed, 1), z.device), torch.enable_grad():
        order = torch.randperm(z.shape[1], device=z.device)
        held, kept = order[: int(HELD_OUT * len(order)) or 1], order[int(HELD_OUT * len(order)) :]
        size = BATCH if z.is_floating_point() else min(BATCH, max(32, CODES // z.shape[2]))
        adam = torch.optim.Adam(prior.parameters(), lr=RATE)
        rates = torch.optim.lr_scheduler.CosineAnnealingLR(adam, max(1, steps))
        best, weights = -torch.inf, copy.deepcopy(prior.state_dict())
        for step in range(steps + 1):
            if step % LOOK == 0 or step == steps:
                with measuring(prior):
                    value = float(_log_density(prior, z[:, held], y, held).mean())
                if value > best:
                    best, weights = value, copy.deepcopy(prior.state_dict())
                if tell is not None:
                    tell("prior", step, steps)
            rows = kept[torch.randint(len(kept), (size,), device=z.device)]
            which = torch.randint(len(z), (size,), device=z.device)
            adam.zero_grad()
            (-_log_density(prior, z[which, rows], y, rows).mean()).backward()  # type: ignore[no-untyped-call]
            adam.step()
            rates.step()
        prior.load_state_dict(weights)


def _log_density(prior: Prior, z: Tensor, y: Tensor | None, rows: Tensor) -> Tensor:
    density: Distribution = prior(None if y is None else y[rows])
    score: Callable[[Tensor], Tensor] = density.log_prob if z.is_floating_point() else density.log_prob_of  # type: ignore[attr-defined]
    return score(z)


def compare_priors(
    before: VAE,
    after: VAE,
    examples: Examples,
    preprocessing: nn.Module,
    *,
    samples: int = 10,
    seed: int = 0,
    tell: Tell | None = None,
) -> dict[str, Estimate]:
    """Return what another prior changed, nats: ``elbo_before``, ``elbo_after``, and the mean difference ``elbo_gain``.

    The draws of z are the same for both, so that most of their noise leaves the difference. Where networks see labels
    they are told them, and the ELBO is the one given the label; otherwise nobody is. Of a model without a density
    q(z | x), which has no ELBO, they are called ``log_prior_...``, E log p(z); of a pair of which one has an ELBO the
    other is left out.

    Args:
        before: the model as it was trained.
        after: the same with another prior.
        examples: that neither has seen.
        preprocessing: raw data to the model's input.
        samples: draws of z for each example.
        seed: of the noise.
        tell: called as tell("ELBO", examples done, examples in all).
    """
    columns: dict[str, list[Tensor]] = {}
    models = {"before": before, "after": after}
    with measuring(before) as device, measuring(after):
        for x, given, _, own in batches(examples, preprocessing.to(device), device, seed, tell, "ELBO"):
            y = given if before.labels_reach_networks else None
            for when, model in models.items():
                values = elbo_terms(model, x, y, samples=samples, seed=own)
                if "elbo" in values:
                    columns.setdefault(f"elbo_{when}", []).append(values["elbo"])
                else:
                    columns.setdefault(f"log_prior_{when}", []).append(model.prior(y).log_prob(model.encode(x, y).mean))
    found = {name: torch.cat(parts) for name, parts in columns.items()}
    if "elbo_after" in found:
        found.pop("log_prior_before", None)  # a density; what there is now are probabilities
    for name in ("elbo", "log_prior"):
        if f"{name}_before" in found and f"{name}_after" in found:
            found[f"{name}_gain"] = found[f"{name}_after"] - found[f"{name}_before"]
    return {name: mean_estimate(values, "nats") for name, values in found.items()}
