"""The optimal variance is the sigma-VAE: D/2 log MSE, and it is learned from accepted steps only."""

from __future__ import annotations

import math

import pytest
import torch

from sfumato.likelihoods import Gaussian
from sfumato.likelihoods.gaussian import MEMORY

BATCH, SHAPE = 8, (2, 3)
SIZE = math.prod(SHAPE)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(BATCH, 1, *SHAPE).double().requires_grad_(), torch.randn(BATCH, *SHAPE).double()


def test_the_loss_is_that_of_the_sigma_vae() -> None:
    mean, x = batch()
    loss = -Gaussian(SHAPE, variance="optimal").train()(mean).log_prob(x).mean()
    mse = (mean.squeeze(1) - x).square().mean()
    expected = SIZE / 2 * mse.log() + SIZE / 2 * (math.log(2 * math.pi) + 1)
    torch.testing.assert_close(loss, expected)
    (found,) = torch.autograd.grad(loss, mean)
    (wanted,) = torch.autograd.grad(SIZE / 2 * (mean.squeeze(1) - x).square().mean().log(), mean)
    torch.testing.assert_close(found, wanted)


def test_no_other_variance_does_better_on_the_batch() -> None:
    mean, x = batch()
    best = Gaussian(SHAPE, variance="optimal").train()(mean).log_prob(x).mean()
    for scale in (0.5, 1.0, 1.3, 1.5, 3.0):
        assert Gaussian(SHAPE, variance="fixed", scale=scale)(mean).log_prob(x).mean() <= best + 1e-9


def test_the_running_variance_moves_with_accepted_steps_only() -> None:
    likelihood = Gaussian(SHAPE, variance="optimal", scale=2.0).double().train()
    mean, x = batch()
    start = likelihood.log_variance.clone()
    likelihood(mean).log_prob(x)
    assert torch.equal(likelihood.log_variance, start), "a step that is not accepted changes nothing"
    likelihood.accept_step()
    mse = (mean.squeeze(1) - x).square().mean().detach()
    torch.testing.assert_close(likelihood.log_variance, MEMORY * start + (1 - MEMORY) * mse.log())
    assert not likelihood.log_variance.requires_grad, "a statistic, with no graph behind it"
    moved = likelihood.log_variance.clone()
    likelihood.accept_step()
    assert torch.equal(likelihood.log_variance, moved), "each batch counts once"


def test_evaluation_uses_the_running_variance_and_changes_nothing() -> None:
    likelihood = Gaussian(SHAPE, variance="optimal", scale=0.5).double()
    mean, x = batch()
    likelihood.eval()
    single = likelihood(mean[:1]).log_prob(x[:1])
    torch.testing.assert_close(likelihood(mean).log_prob(x)[:1], single)
    before = likelihood.log_variance.clone()
    likelihood.accept_step()
    assert torch.equal(likelihood.log_variance, before)
    fixed = Gaussian(SHAPE, variance="fixed", scale=0.5).double()
    torch.testing.assert_close(single, fixed(mean[:1]).log_prob(x[:1]), rtol=1e-4, atol=1e-4)


def test_the_start_is_soon_forgotten() -> None:
    """From a standard deviation of 1 to one of 0.03 in 1,000 steps, within 1 % of the variance."""
    likelihood = Gaussian((4,), variance="optimal").train()
    for _ in range(1000):
        likelihood(torch.zeros(4, 1, 4)).log_prob(torch.full((4, 4), 0.03))
        likelihood.accept_step()
    assert float(likelihood.log_variance.exp()) == pytest.approx(0.03**2, rel=0.01)


def test_a_perfect_decoder_does_no_harm() -> None:
    likelihood = Gaussian((4,), variance="optimal").train()
    output = torch.zeros(4, 1, 4, requires_grad=True)
    loss = -likelihood(output).log_prob(torch.zeros(4, 4)).sum()
    loss.backward()
    likelihood.accept_step()
    assert torch.isfinite(loss)
    assert torch.isfinite(output.grad).all()
    assert torch.isfinite(likelihood.log_variance)
