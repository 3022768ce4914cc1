"""Gradient estimators against the gradient of the bound that they are for, by quadrature over the draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from exact_models import data, linear_vae
from linear_ladder import data as ladder_data
from linear_ladder import linear_ladder
from torch import Tensor

from sfumato.core.terms import Level, Terms
from sfumato.likelihoods import Bernoulli
from sfumato.models import VAE
from sfumato.networks import MLP
from sfumato.objectives import ELBO, IWAE, PerPart
from sfumato.posteriors import DiagonalGaussian
from sfumato.priors import StandardNormal

X = torch.tensor([[1.0, 0.0, 1.0, 1.0]]).double()


def model() -> VAE:
    """One latent dimension, four bits, a posterior that is not the best."""
    torch.manual_seed(3)
    networks = (MLP((4,), (1,), hidden=(3,), activation="tanh") for _ in range(2))
    decoder = MLP((1,), (1, 4), hidden=(3,), activation="tanh")
    return VAE(StandardNormal(1), DiagonalGaussian(*networks), decoder, Bernoulli((4,))).double()


def on_nodes(vae: VAE, draws: int, nodes: int) -> tuple[Terms, Tensor]:
    """Return terms whose examples are the nodes of a quadrature over ``draws`` draws, and their weights."""
    points = np.linspace(-8, 8, nodes)  # equidistant: for what is smooth and gone at the ends no rule is better
    weights = np.exp(-(points**2) / 2) * (points[1] - points[0])
    noise = torch.tensor(list(itertools.product(points, repeat=draws))).T.unsqueeze(-1)
    weight = torch.tensor([np.prod(each) for each in itertools.product(weights, repeat=draws)])
    x = X.expand(noise.shape[1], 4)
    posterior = vae.posterior(x)
    z = posterior.mean + posterior.stddev * noise
    terms = Terms(x, None, (Level(z, posterior, vae.prior()),), vae.decode(z))
    return terms, weight / (2 * np.pi) ** (draws / 2)


def gradient(vae: VAE, loss: Tensor, half: str) -> Tensor:
    """Return the gradient of a loss by one half of the model, in one row."""
    own = list(vae.halves[half])
    found = torch.autograd.grad(loss, own, retain_graph=True)
    return torch.cat([each.flatten() for each in found])


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_doubly_reparametrised_gradients_are_those_of_the_bound_on_average(half: str) -> None:
    vae = model()
    terms, weight = on_nodes(vae, draws=2, nodes=121)
    bound = IWAE(samples=2)(terms, 0).losses["model"]
    estimate = IWAE(samples=2, gradient="doubly")(terms, 0)
    expected = gradient(vae, (weight * bound).sum(), half)
    found = gradient(vae, (weight * estimate.losses[half]).sum(), half)
    assert expected.norm() > 1e-2
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    for loss in (*estimate.losses.values(), estimate.loss, -estimate.values["iwae"]):
        torch.testing.assert_close(loss, bound), "the value is that of the bound, not of the surrogate"
    if half == "encoder":
        one, other = (gradient(vae, each[5], half) for each in (bound, estimate.losses[half]))
        assert (one - other).norm() > 1e-3, "node by node they differ: it is another estimator"


def test_the_path_gradient_is_that_of_the_elbo_on_average() -> None:
    vae = model()
    terms, weight = on_nodes(vae, draws=1, nodes=241)
    exact = (weight * ELBO()(terms, 0).losses["model"]).sum()
    path = (weight * ELBO(kl="path")(terms, 0).losses["model"]).sum()
    torch.testing.assert_close(path, exact)
    for half in ("encoder", "decoder"):
        torch.testing.assert_close(gradient(vae, path, half), gradient(vae, exact, half), rtol=1e-7, atol=1e-9)


def test_the_path_gradient_has_no_noise_at_the_exact_posterior() -> None:
    vae = linear_vae()
    terms = vae(data(6), None, 3)
    encoder = list(vae.posterior.parameters())

    def length(objective: ELBO) -> float:
        found = torch.autograd.grad(objective(terms, 0).losses["model"].sum(), encoder, retain_graph=True)
        return float(torch.cat([each.flatten() for each in found]).norm())

    assert length(ELBO(kl="path", samples=3)) < 1e-8
    assert length(ELBO(kl="sampled", samples=3)) > 1
    assert length(ELBO(samples=3)) > 0.1


def test_the_path_gradient_of_a_ladder_is_right_on_average() -> None:
    """Levels hang on the draws above; what is left out is 0 on average all the same. Against the plain gradient."""
    ladder = linear_ladder(wrong=0.4)
    x = ladder_data(1).expand(500, 4)
    found = []
    for _ in range(40):
        terms = ladder(x)
        row = [
            torch.autograd.grad(
                ELBO(kl=kind)(terms, 0).losses["model"].mean(), ladder.bottom_up.weight, retain_graph=True
            )
            for kind in ("path", "sampled")
        ]
        found.append([float(each[0]) for each in row])
    path, plain = torch.tensor(found).double().unbind(1)
    difference = path - plain
    assert abs(float(plain.mean())) > 0.1
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / len(found) ** 0.5
    assert float(path.std()) < float(plain.std())


def test_doubly_reparametrised_gradients_have_less_noise() -> None:
    """At K = 32, over 2,000 copies of one example, by the mean of the posterior."""
    vae = model()
    mean, scale = torch.full((2000, 1), 0.3).double().requires_grad_(), torch.tensor(0.8).double()
    posterior = torch.distributions.Independent(torch.distributions.Normal(mean, scale), 1)
    z = posterior.rsample((32,))
    terms = Terms(X.expand(2000, 4), None, (Level(z, posterior, vae.prior()),), vae.decode(z))
    outputs = (
        IWAE(samples=32)(terms, 0).losses["model"],
        IWAE(samples=32, gradient="doubly")(terms, 0).losses["encoder"],
    )
    plain, doubly = (torch.autograd.grad(loss.sum(), mean, retain_graph=True)[0] for loss in outputs)
    assert float(doubly.var()) < 0.2 * float(plain.var())
    assert abs(float((doubly - plain).mean())) < 4 * float((doubly - plain).std()) / 2000**0.5


def test_m_and_k_are_not_swapped() -> None:
    """Defect 20: the mean of M = 3 bounds of K = 2 draws each, by hand; PIWAE's decoder has the bound of all six."""
    terms = model()(X.expand(5, 4), None, 6)
    weights = terms.log_weights.detach().numpy()
    by_hand = [np.mean([np.log(np.mean(np.exp(weights[2 * m : 2 * m + 2, n]))) for m in range(3)]) for n in range(5)]
    miwae = IWAE(samples=2, outer=3)
    assert miwae.samples == 6
    torch.testing.assert_close(miwae(terms, 0).losses["model"].detach(), -torch.tensor(np.array(by_hand)))
    piwae = PerPart(encoder=miwae, decoder=IWAE(samples=6))(terms, 0)
    torch.testing.assert_close(piwae.losses["encoder"].detach(), -torch.tensor(np.array(by_hand)))
    whole = np.log(np.exp(weights).mean(0))
    torch.testing.assert_close(piwae.losses["decoder"].detach(), -torch.tensor(whole))
    torch.testing.assert_close(piwae.values["iwae"], torch.tensor(whole))


def test_ciwae_is_a_sum() -> None:
    terms = model()(X.expand(5, 4), None, 4)
    found = (0.3 * ELBO(samples=4, kl="sampled") + 0.7 * IWAE(samples=4))(terms, 0)
    weights = terms.log_weights.detach()
    expected = -(0.3 * weights.mean(0) + 0.7 * (weights.logsumexp(0) - np.log(4)))
    torch.testing.assert_close(found.losses["model"].detach(), expected)
    torch.testing.assert_close(found.values["iwae"], weights.logsumexp(0) - np.log(4))
