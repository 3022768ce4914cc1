"""Every prior with every posterior over the same z: what papers combine, and what nobody has."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from sfumato.core.spec import from_spec, to_spec
from sfumato.evaluation.bounds import importance_bound
from sfumato.likelihoods import Bernoulli
from sfumato.models import VAE
from sfumato.networks import MLP
from sfumato.objectives import ELBO, IWAE
from sfumato.posteriors import (
    DiagonalGaussian,
    FlowPosterior,
    FullGaussian,
    GumbelSoftmax,
    LowRankGaussian,
    PowerSpherical,
    VonMisesFisher,
)
from sfumato.priors import (
    Categorical,
    ClassConditional,
    ClassConditionalMixture,
    Exemplar,
    Flow,
    GaussianMixture,
    StandardNormal,
    UniformSphere,
    VampPrior,
)

DIMS, LATENT = 5, 3
LABELS = torch.tensor([0, 2, -1, 1])


def network(*out: int) -> MLP:
    return MLP((DIMS,), out, hidden=(6,), activation="tanh")


def diagonal() -> DiagonalGaussian:
    return DiagonalGaussian(network(LATENT), network(LATENT))


PRIORS = {
    "normal": lambda: StandardNormal(LATENT),
    "classes": lambda: ClassConditional(3, LATENT, learn_variance=True),
    "class-mixtures": lambda: ClassConditionalMixture(3, LATENT, 2),
    "mixture": lambda: GaussianMixture(LATENT, 2),
    "full-mixture": lambda: GaussianMixture(LATENT, 2, "full"),
    "vamp": lambda: VampPrior(LATENT, (DIMS,), 3),
    "exemplars": lambda: Exemplar(LATENT, (DIMS,), 6, subset=4),
    "coupling": lambda: Flow(LATENT, "coupling", 2, (8,)),
    "autoregressive": lambda: Flow(LATENT, "autoregressive", 2, (8,)),
    "spline": lambda: Flow(LATENT, "spline", 1, (8,)),
}
POSTERIORS = {
    "diagonal": diagonal,
    "full": lambda: FullGaussian(network(1 + LATENT, LATENT)),
    "low-rank": lambda: LowRankGaussian(network(2 + 1, LATENT)),
    "planar": lambda: FlowPosterior(diagonal(), "planar", 2, network(3)),
    "radial": lambda: FlowPosterior(diagonal(), "radial", 2),
    "householder": lambda: FlowPosterior(diagonal(), "householder", 2, network(3)),
    "iaf": lambda: FlowPosterior(diagonal(), "iaf", 2, network(3), (8,)),
}
PAIRS = [(first, second) for first, second in itertools.product(PRIORS.items(), POSTERIORS.items())]
PAIRS += [
    (("sphere", lambda: UniformSphere(LATENT)), ("von-mises-fisher", lambda: VonMisesFisher(network(LATENT + 1)))),
    (("sphere", lambda: UniformSphere(LATENT)), ("power-spherical", lambda: PowerSpherical(network(LATENT + 1)))),
    (("categories", lambda: Categorical(2, 4, learn=True)), ("gumbel", lambda: GumbelSoftmax(network(2, 4)))),
]


@pytest.mark.parametrize(
    ("prior", "posterior"),
    [pytest.param(first[1], second[1], id=f"{first[0]}-{second[0]}") for first, second in PAIRS],
)
def test_a_prior_and_a_posterior(prior, posterior) -> None:
    q = posterior()
    model = VAE(prior(), q, MLP(q.latent_shape, (1, DIMS), hidden=()), Bernoulli((DIMS,)))
    if isinstance(model.prior, Exemplar):
        model.prior.start_from(torch.randn(6, DIMS))
    x = (torch.rand(4, DIMS) > 0.5).float()
    y = LABELS if model.num_classes else None
    losses = [objective(model.terms(x, y, objective.samples), 0).losses["model"] for objective in (ELBO(), IWAE(2))]
    for loss in losses:
        assert loss.shape == (4,)
        assert loss.isfinite().all()
    sum(losses).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    untouched = [name for name, parameter in model.named_parameters() if not parameter.grad.any()]
    assert not untouched
    model.eval()
    bound = importance_bound(model, x, y, samples=5)
    assert bound.isfinite().all()
    again = from_spec(json.loads(json.dumps(to_spec(model))), "model").eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(importance_bound(again, x, y, samples=5), bound)
    assert torch.equal(again.sample(3, generator=1), model.sample(3, generator=1))
    assert model.reconstruct(x, y).shape == x.shape
