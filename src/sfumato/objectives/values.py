"""The numbers that every objective reports about the same terms, whatever it differentiates."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.core.terms import Terms

KL = Literal["analytic", "sampled", "path"]


def reported(terms: Terms, kl: Tensor | None) -> dict[str, Tensor]:
    """Return name -> (batch,) in nats (sigma has the unit of z), detached.

    ``reconstruction`` is -log p(x | z), averaged over the samples; ``elbo`` = -reconstruction - kl, at beta = 1
    whatever the objective's beta is; ``kl_mean`` + ``kl_variance`` are the two parts of a Gaussian KL. Several levels
    also have ``kl_level_1``, ``kl_level_2``, ..., top first, which add up to ``kl``.

    Args:
        terms: what the model said.
        kl: (levels, batch), or None where the posterior has no density; then there is no elbo either.
    """
    reconstruction = -terms.log_likelihood.mean(0)
    values = {"reconstruction": reconstruction}
    if kl is not None:
        values["kl"] = kl.sum(0)
        values["elbo"] = -reconstruction - values["kl"]
        if len(kl) > 1:
            values |= {f"kl_level_{number}": level for number, level in enumerate(kl, 1)}
    if terms.kl_parts is not None:
        values["kl_mean"], values["kl_variance"] = terms.kl_parts
    if terms.sigma is not None:
        values["sigma"] = terms.sigma
    values.update(terms.penalties)
    return {name: value.detach() for name, value in values.items()}


def kl_of(terms: Terms, kind: KL = "analytic") -> Tensor | None:
    """Return KL(q || p) of each level, (levels, batch): in closed form where asked for and known, else sampled."""
    if kind == "path":
        return terms.path_kl
    exact = terms.kl if kind == "analytic" else None
    return terms.sampled_kl if exact is None else exact


def log_weights(terms: Terms, name: str) -> Tensor:
    """Return log p(x, z) - log q(z | x), (samples, batch), for the objective called ``name``.

    Raises:
        UserError: a posterior has no density.
    """
    needs_density(terms, name)
    assert terms.log_weights is not None
    return terms.log_weights


def with_penalties(loss: Tensor, terms: Terms) -> Tensor:
    """Return ``loss``, (batch,), and the penalties that the model's parts ask for."""
    return loss + sum(terms.penalties.values()) if terms.penalties else loss


def needs_density(terms: Terms, name: str) -> None:
    """Raise UserError when a posterior has no density."""
    if terms.log_posterior is None:
        raise UserError(
            f"{name} needs a posterior with a density; this one is a point mass. "
            "Use DiagonalGaussian, or ELBO(beta=0) for an autoencoder."
        )
