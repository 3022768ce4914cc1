"""Each objective against its formula, and what happens without a density."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sfumato.core.errors import UserError
from sfumato.core.schedules import WarmUp, WarmUpCosine
from sfumato.core.terms import Terms
from sfumato.likelihoods import Gaussian
from sfumato.models import VAE
from sfumato.networks import MLP
from sfumato.objectives import ELBO, IWAE, NaivePenalty
from sfumato.posteriors import DiagonalGaussian, Dirac
from sfumato.priors import StandardNormal

X = torch.linspace(-1, 1, 12).reshape(4, 3)


def vae(dirac: bool = False) -> VAE:
    mean, log_variance = MLP((3,), (2,)), MLP((3,), (2,))
    posterior = Dirac(mean) if dirac else DiagonalGaussian(mean, log_variance)
    return VAE(StandardNormal(2), posterior, MLP((2,), (1, 3)), Gaussian((3,), variance="fixed"))


def terms(samples: int = 3) -> Terms:
    return vae()(X, None, samples)


def loss(objective, record: Terms, step: int = 0) -> torch.Tensor:
    return objective(record, step).losses["model"]


def test_elbo_by_hand() -> None:
    record = terms()
    reconstruction, kl = -record.log_likelihood.mean(0), record.kl.sum(0)
    torch.testing.assert_close(loss(ELBO(), record), reconstruction + kl)
    torch.testing.assert_close(loss(ELBO(beta=4.0), record), reconstruction + 4 * kl)
    torch.testing.assert_close(loss(ELBO(beta=0.0), record), reconstruction)
    torch.testing.assert_close(loss(ELBO(kl="sampled"), record), reconstruction + record.sampled_kl.sum(0))


def test_reports_hold_beta_one_whatever_is_trained() -> None:
    record = terms()
    values = ELBO()(record, 0).values
    for other in (ELBO(beta=4.0), ELBO(free_bits=100.0), ELBO(schedule=WarmUp(10)), NaivePenalty()):
        torch.testing.assert_close(other(record, 0).values["elbo"], values["elbo"])
    torch.testing.assert_close(values["elbo"], record.log_likelihood.mean(0) - record.kl.sum(0))


@given(steps=st.integers(1, 10**6), beta=st.floats(0.1, 10), start=st.floats(0, 1))
def test_warm_up_ends_at_beta(steps: int, beta: float, start: float) -> None:
    objective, record = ELBO(beta=beta, schedule=WarmUp(steps, start)), RECORD
    for step in (steps, steps + 1, 10**12):
        assert torch.equal(loss(objective, record, step), loss(ELBO(beta=beta), record))
    expected = -record.log_likelihood.mean(0) + beta * start * record.kl.sum(0)
    torch.testing.assert_close(loss(objective, record, 0), expected)


def test_a_schedule_that_does_not_end_at_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"ends at 1.*Use WarmUp"):
        ELBO(schedule=WarmUpCosine(steps=10))


def test_free_bits_cost_nothing_below_and_everything_above() -> None:
    record = terms()
    reconstruction, kl = -record.log_likelihood.mean(0), record.kl.sum(0)
    torch.testing.assert_close(loss(ELBO(free_bits=1e3), record), reconstruction + 1e3)
    torch.testing.assert_close(loss(ELBO(free_bits=1e-6), record), reconstruction + kl)
    level = record.levels[0].posterior.base_dist
    gradients = torch.autograd.grad(loss(ELBO(free_bits=1e3), record).sum() - reconstruction.sum(), level.scale)
    assert gradients[0].abs().max() < 1e-6


def test_naive_penalty_by_hand() -> None:
    record = terms()
    normal = record.levels[0].posterior.base_dist
    mean_penalty = normal.loc.square().sum(-1)
    variance_penalty = normal.scale.square().log().square().sum(-1)
    output = NaivePenalty(mean_weight=0.3, variance_weight=0.7)(record, 0)
    expected = -record.log_likelihood.mean(0) + 0.3 * mean_penalty + 0.7 * variance_penalty
    torch.testing.assert_close(output.losses["model"], expected)
    torch.testing.assert_close(output.values["mean_penalty"], mean_penalty)
    torch.testing.assert_close(output.values["variance_penalty"], variance_penalty)


def test_a_point_mass_with_beta_zero_is_the_autoencoder() -> None:
    model = vae(dirac=True)
    output = ELBO(beta=0.0)(model(X), 0)
    code = model.posterior.mean(X)
    torch.testing.assert_close(output.losses["model"], -model.decode(code).log_prob(X))
    assert set(output.values) == {"reconstruction"}


@pytest.mark.parametrize("objective", [ELBO(), ELBO(beta=0.1, schedule=WarmUp(10)), IWAE()])
def test_a_point_mass_is_refused_with_the_reason(objective) -> None:
    with pytest.raises(UserError, match=r"needs a posterior with a density; this one is a point mass.*ELBO\(beta=0\)"):
        objective(vae(dirac=True)(X), 0)


def test_the_other_naive_penalty_by_hand() -> None:
    record = terms()
    normal = record.levels[0].posterior.base_dist
    output = NaivePenalty(mean_weight=0.3, variance_weight=0.7, variance="difference")(record, 0)
    off = (normal.scale**2 - 1).square().sum(-1)
    expected = -record.log_likelihood.mean(0) + 0.3 * normal.loc.square().sum(-1) + 0.7 * off
    torch.testing.assert_close(output.losses["model"], expected)
    torch.testing.assert_close(output.values["variance_penalty"], off)


def test_naive_penalty_wants_normals() -> None:
    with pytest.raises(UserError, match="Use DiagonalGaussian"):
        NaivePenalty()(vae(dirac=True)(X), 0)


RECORD = terms()
