"""The Riemannian Hamiltonian posterior: its metric by hand, its steps by Jacobians, its weights by the evidence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from exact_models import DIMS, LATENT, linear_vae, log_evidence
from exact_models import data as linear_data
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.evaluation.bounds import importance_bound
from sfumato.models import VAE
from sfumato.networks import MLP
from sfumato.objectives import ELBO
from sfumato.posteriors import DiagonalGaussian, Hamiltonian, RiemannianHamiltonian, riemannian_hamiltonian

CENTROIDS, REACH, FLOOR = 4, 1.1, 0.2


def model_of(steps: int = 3, step_size: float = 0.1) -> VAE:
    """The linear model, with a posterior that is too wide and then moves."""
    torch.manual_seed(0)
    plain = linear_vae(1.6)
    metric = MLP((DIMS,), (LATENT, LATENT), hidden=(5,), activation="tanh")
    how = {"steps": steps, "step_size": step_size, "reach": REACH, "floor": FLOOR}
    posterior = RiemannianHamiltonian(plain.posterior, metric, (DIMS,), CENTROIDS, **how)
    posterior.start_from(linear_data(CENTROIDS, 7))
    return VAE(plain.prior, posterior.double(), plain.decoder, plain.likelihood)


def start(n: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    z, momentum = torch.randn(2, n, LATENT, generator=generator, dtype=torch.float64)
    return z, momentum


@torch.no_grad()
def test_the_metric_is_its_formula() -> None:
    posterior, (z, momentum) = model_of().posterior, start(5)
    rows, metric = posterior.rows.double(), posterior.learned()
    centres = posterior.base(rows).mean.numpy()
    raw = posterior.metric(rows).tril()
    torch.testing.assert_close(metric.lower.tril(-1), raw.tril(-1))
    logarithm = metric.lower.diagonal(dim1=1, dim2=2).log()
    torch.testing.assert_close(logarithm, raw.diagonal(dim1=1, dim2=2), rtol=0, atol=2e-3)  # it is bounded
    for place, velocity, root, value, v in zip(
        z.numpy(), metric.velocity(z, momentum).numpy(), metric.root(z).numpy(), metric.inverse(z).numpy(), momentum,
        strict=True,
    ):  # fmt: skip
        inverse = FLOOR * np.eye(LATENT)
        for centre, lower in zip(centres, metric.lower.numpy(), strict=True):
            inverse += lower @ lower.T * np.exp(-((place - centre) ** 2).sum() / REACH**2)
        np.testing.assert_allclose(value, inverse, rtol=1e-12)
        np.testing.assert_allclose(value, value.T, rtol=1e-12)
        np.testing.assert_allclose(root @ root.T, value, rtol=1e-12)
        np.testing.assert_allclose(velocity, value @ v.numpy(), rtol=1e-12)
        assert np.abs(inverse - FLOOR * np.eye(LATENT)).max() > 0.05


def test_the_force_is_the_slope_of_the_kinetic_energy() -> None:
    metric, (z, momentum) = model_of().posterior.learned(), start(5)
    z.requires_grad_()
    inverse = metric.inverse(z)
    energy = -0.5 * torch.logdet(inverse) + 0.5 * torch.einsum("bi,bij,bj->b", momentum, inverse, momentum)
    (slope,) = torch.autograd.grad(energy.sum(), z, retain_graph=True)
    torch.testing.assert_close(metric.force(z, momentum), -slope)
    assert slope.abs().min() > 1e-4


def step_of(model: VAE, size: float = 0.1):
    metric, x = model.posterior.learned(), linear_data(1)
    slope = riemannian_hamiltonian.slope_of_joint(model, x, None)
    return lambda z, momentum: metric.leapfrog(z, momentum, torch.tensor(size).double(), slope)


def test_a_step_is_undone_by_a_step_with_the_opposite_momentum() -> None:
    step, (z, momentum) = step_of(model_of()), start()
    there, moved = step(z, momentum)
    back, turned = step(there, -moved)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-7)
    torch.testing.assert_close(-turned, momentum, rtol=0, atol=1e-7)
    assert (there - z).abs().max() > 0.02


def volume(step, *given: Tensor) -> float:
    def flat(both: Tensor) -> Tensor:
        return torch.cat([part.flatten() for part in step(both[None, :LATENT], both[None, LATENT:])[:2]])

    jacobian = torch.autograd.functional.jacobian(flat, torch.cat([part.flatten() for part in given]))
    return float(torch.linalg.slogdet(jacobian)[1])


def test_a_step_keeps_volumes_because_its_equations_are_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    step, given = step_of(model_of()), start()
    assert volume(step, *given) == pytest.approx(0.0, abs=1e-7)
    monkeypatch.setattr(riemannian_hamiltonian, "ITERATIONS", 1)
    assert abs(volume(step, *given)) > 1e-4


def test_the_density_has_the_volume_of_the_whole_way() -> None:
    """From (z_0, noise) to (z_K, whitened momentum): the roots of the metric at both ends, and no more."""
    q = model_of().posterior(linear_data(1)[0])
    z, noise = start()
    said = q.dynamics(z, noise)[2]
    found = volume(q.dynamics, z, noise)
    assert float(said.detach()) == pytest.approx(found, abs=1e-6)
    assert abs(found) > 0.01


@torch.no_grad()
def test_weights_are_unbiased_for_the_evidence() -> None:
    x = linear_data(4)
    for steps, size in ((1, 0.15), (3, 0.1)):
        model = model_of(steps, size)
        ratio = (model.terms(x, samples=20_000).log_weights - log_evidence(x)).exp()
        assert ((ratio.mean(0) - 1).abs() < 5 * ratio.std(0) / 20_000**0.5).all()
        assert ratio.std() > 0.05


@torch.no_grad()
def test_far_from_all_examples_space_is_flat_and_the_steps_are_the_plain_ones() -> None:
    x, (z, noise) = linear_data(5), start(5)
    curved = model_of()
    curved.posterior.floor = 1.0
    curved.posterior.start_from(1e3 + linear_data(CENTROIDS, 7))
    plain = VAE(
        curved.prior, Hamiltonian(linear_vae(1.6).posterior, 3, 0.1).double(), curved.decoder, curved.likelihood
    )
    found, expected = (model.posterior(x).dynamics(z, noise) for model in (curved, plain))
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])
    assert found[2].abs().max() < 1e-9
    assert (found[0] - z).abs().max() > 0.1


def test_everything_learns() -> None:
    model, x = model_of(), linear_data(8)
    ELBO()(model.terms(x), 0).losses["model"].sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.posterior.parameters())
    assert importance_bound(model, x[:3], samples=4, block=6).isfinite().all()


def test_what_it_cannot_be_made_of_is_refused() -> None:
    base = DiagonalGaussian(MLP((DIMS,), (2,)), MLP((DIMS,), (2,)))
    with pytest.raises(UserError, match=r"a network that gives \(2, 2\)"):
        RiemannianHamiltonian(base, MLP((DIMS,), (2,)), (DIMS,))
    posterior = RiemannianHamiltonian(base, MLP((DIMS,), (2, 2)), (DIMS,), centroids=3)
    with pytest.raises(UserError, match="has no examples yet"):
        posterior.learned()
    with pytest.raises(UserError, match="starts from 3"):
        posterior.start_from(torch.zeros(2, DIMS))


@pytest.mark.parametrize("strongest", [riemannian_hamiltonian.STRONGEST, float("inf")])
def test_an_iteration_that_runs_away_stays_finite(strongest: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(riemannian_hamiltonian, "STRONGEST", strongest)
    posterior = model_of().posterior.float()
    z, momentum = (part.float() for part in start(20))
    found = posterior.learned().leapfrog(z, 1e4 * momentum, torch.tensor(1.0), lambda z: -z)
    assert all(bool(part.isfinite().all()) for part in found) == (strongest < float("inf"))
