"""Run as a program: the test run's type checker wraps every function, which torch.compile cannot read."""

import sys

import torch

from sfumato.evaluation import bounds
from sfumato.likelihoods import Bernoulli
from sfumato.models import VAE
from sfumato.networks import MLP
from sfumato.posteriors import DiagonalGaussian
from sfumato.priors import StandardNormal


def model() -> VAE:
    """Return a small model."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoders = [MLP((6,), (2,), hidden=(8,)) for _ in range(2)]
        return VAE(StandardNormal(2), DiagonalGaussian(*encoders), MLP((2,), (1, 6), hidden=(8,)), Bernoulli((6,)))


def agrees() -> None:
    """The same number whether blocks are scored by a compiled program or not; the last, smaller block counts too."""
    x = (torch.rand(4, 6) < 0.5).float()
    compiled = []
    right = bounds._compiled_log_weights()
    bounds._compiled_log_weights = lambda: lambda *given: compiled.append(given[1].shape) or right(*given)
    plain = bounds.importance_bound(model(), x, samples=23, block=20)
    found = bounds.importance_bound(model(), x, samples=23, block=20, compiled=True)
    torch.testing.assert_close(found, plain, rtol=1e-6, atol=1e-6)
    assert compiled == [(5, 4, 2)] * 3, compiled  # of 5, 5, 5, 5 and 3: not the first, not the last
    other = bounds.importance_bound(model(), x, samples=23, seed=1, block=20, compiled=True)
    assert not torch.allclose(other, plain, atol=1e-6), "the draws of another seed"


def goes_on() -> None:
    """Without a compiler everything is scored as written."""
    x = (torch.rand(4, 6) < 0.5).float()

    def missing(*given: object) -> torch.Tensor:
        raise RuntimeError("no compiler")

    bounds._compiled_log_weights = lambda: missing
    plain = bounds.importance_bound(model(), x, samples=23, block=20)
    assert torch.equal(bounds.importance_bound(model(), x, samples=23, block=20, compiled=True), plain)


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"agrees": agrees, "goes_on": goes_on}[sys.argv[1]]()
