"""What the claims measure, against numbers known by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from sfumato.claims.bench import affine, settle_variance, start_at_data
from sfumato.claims.c04_two_parts import Parts
from sfumato.claims.c07_log_variance import FORMS, FreeGaussian, variance_of
from sfumato.claims.c09_prior_sampling import log_relative_variance
from sfumato.claims.c10_learned_metric import Discriminator
from sfumato.claims.measures import detail, draws, frechet_distance, sharpness
from sfumato.likelihoods import Gaussian
from sfumato.models import VAE
from sfumato.networks import MLP
from sfumato.objectives import ELBO
from sfumato.posteriors import DiagonalGaussian
from sfumato.priors import StandardNormal


def vae() -> VAE:
    posterior = DiagonalGaussian(MLP((6,), (2,)), MLP((6,), (2,)))
    return VAE(StandardNormal(2), posterior, MLP((2,), (1, 6)), Gaussian((6,), "optimal"))


def exact_sample(mean: torch.Tensor, root: torch.Tensor) -> torch.Tensor:
    """Vectors whose sample mean and covariance (divisor n - 1) are exactly mean and root root^T."""
    x = torch.randn(200, len(mean), dtype=torch.float64)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), x.T, upper=False).T
    return mean + white @ root.T


def test_frechet_distance_of_normals_that_commute() -> None:
    """Diagonal covariances: |m|^2 + sum (s_1 - s_2)^2."""
    mean_1, mean_2 = torch.tensor([0.0, 1.0, -2.0]).double(), torch.tensor([0.5, 1.0, 1.0]).double()
    deviation_1, deviation_2 = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([3.0, 2.0, 0.1]).double()
    found = frechet_distance(
        exact_sample(mean_1, torch.diag(deviation_1)), exact_sample(mean_2, torch.diag(deviation_2))
    )
    expected = (mean_1 - mean_2).square().sum() + (deviation_1 - deviation_2).square().sum()
    assert found == pytest.approx(float(expected))


def test_frechet_distance_of_any_normals() -> None:
    """By eigenvalues of the product, which need no symmetric root."""
    root_1, root_2 = torch.randn(2, 4, 4, dtype=torch.float64)
    zero = torch.zeros(4).double()
    cov_1, cov_2 = root_1 @ root_1.T, root_2 @ root_2.T
    cross = torch.linalg.eigvals(cov_1 @ cov_2).real.clamp(min=0).sqrt().sum()
    expected = float(cov_1.trace() + cov_2.trace() - 2 * cross)
    one, other = exact_sample(zero, root_1), exact_sample(zero, root_2)
    assert frechet_distance(one, other) == pytest.approx(expected)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


def test_detail_of_one_bright_pixel_and_of_none() -> None:
    image = torch.zeros(1, 1, 5, 5)
    assert detail(image + 0.7) == pytest.approx(0, abs=1e-12)
    image[0, 0, 2, 2] = 1.0
    assert detail(image) == pytest.approx((16 + 4) / 9)  # -4 at the pixel, 1 at its four neighbours, 9 places


def test_blurring_takes_detail_away() -> None:
    real = torch.rand(4, 2, 12, 12)
    assert sharpness(real, real) == pytest.approx(1)
    assert sharpness(F.avg_pool2d(real, 3, stride=1, padding=1), real) < 0.2


def test_relative_variance_of_the_weights() -> None:
    """Weights 1 and 3: mean 2, variance 1; log(1 + 1/4). Equal weights: 0."""
    logs = torch.tensor([[1.0, 5.0], [3.0, 5.0]]).log()
    torch.testing.assert_close(log_relative_variance(logs), torch.tensor([math.log(1.25), 0.0]), atol=1e-6, rtol=0)


def test_draws_follow_their_normals_and_their_seed() -> None:
    means, variances = torch.tensor([[1.0, -3.0]]).repeat(5000, 1), torch.tensor([[4.0, 0.25]]).repeat(5000, 1)
    z = draws(means, variances, seed=4)
    torch.testing.assert_close(z.mean(0), means[0], atol=0.1, rtol=0)
    torch.testing.assert_close(z.var(0), variances[0], rtol=0.08, atol=0)
    assert torch.equal(z, draws(means, variances, seed=4))


def test_the_two_parts_add_up_to_the_elbo() -> None:
    terms = vae().eval()(torch.randn(4, 6))
    l_mu, l_sigma = terms.kl_parts
    reconstruction = -terms.log_likelihood.mean(0)

    def loss(objective) -> torch.Tensor:
        return objective(terms, 0).losses["model"]

    torch.testing.assert_close(loss(Parts(1, 1)), loss(ELBO()))
    torch.testing.assert_close(loss(Parts(1, 0)), reconstruction + l_mu)
    torch.testing.assert_close(loss(Parts(0, 1)), reconstruction + l_sigma)


def test_variances_of_every_form_are_positive_and_differ() -> None:
    h = torch.tensor([-2.0, 0.0, 2.0])
    expected = {
        "log": [math.exp(-2), 1, math.exp(2)],
        "softplus": [math.log1p(math.exp(-2)), math.log(2), math.log1p(math.exp(2))],
        "relu": [1e-8, 1e-8, 2],
        "square": [4, 1e-8, 4],
    }
    for form in FORMS:
        torch.testing.assert_close(variance_of(h, form), torch.tensor(expected[form]), rtol=1e-5, atol=1e-9)


def test_the_free_posterior_is_a_normal_with_that_variance() -> None:
    trunk, mean, variance = MLP((6,), (5,), ()), MLP((5,), (2,), ()), MLP((5,), (2,), ())
    x = torch.randn(3, 6)
    posterior = FreeGaussian(mean, variance, trunk, "softplus")(x)
    assert posterior.batch_shape == (3,)
    torch.testing.assert_close(posterior.mean, mean(trunk(x)))
    torch.testing.assert_close(posterior.variance, F.softplus(variance(trunk(x))) + 1e-8)


def test_the_optimal_variance_settles_at_the_error() -> None:
    model, x = vae().eval(), torch.randn(50, 6)
    settle_variance(model, x)
    error = (model.reconstruct(x, noise=True, generator=0) - x).square().mean()
    torch.testing.assert_close(model.likelihood.log_variance, error.log())
    fixed = VAE(model.prior, model.posterior, model.decoder, Gaussian((6,), "fixed", 0.3)).eval()
    settle_variance(fixed, x)
    assert float(fixed.likelihood.log_variance) == pytest.approx(2 * math.log(0.3))


def test_an_untrained_model_is_centred_on_the_data() -> None:
    model, x = vae(), 3 + torch.randn(50, 6)
    start_at_data(model, x)
    torch.testing.assert_close(model.encode(x).mean.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    for encoder in (model.posterior.mean, model.posterior.log_variance):
        first = affine(encoder)[0](x)
        torch.testing.assert_close(first.mean(0), torch.zeros(first.shape[1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(affine(model.decoder)[-1].bias, x.mean(0))


def test_shifting_and_stretching_z_changes_the_kl_and_no_reconstruction() -> None:
    """What claim 3 says of the end of a training: along these directions only the KL term says where z lies."""
    model, x = vae().eval(), torch.randn(50, 6)
    before, made, kl = model.encode(x), model.reconstruct(x), model(x).kl.mean()
    shift, stretch = torch.tensor([0.5, -1.0]), torch.tensor([2.0, 0.7])
    first, mean, spread = (affine(part) for part in (model.decoder, model.posterior.mean, model.posterior.log_variance))
    with torch.no_grad():
        mean[-1].weight.mul_(stretch[:, None])
        mean[-1].bias.mul_(stretch).add_(shift)
        spread[-1].bias.add_(2 * stretch.log())
        first[0].weight.div_(stretch)
        first[0].bias.sub_(first[0].weight @ shift)
    after = model.encode(x)
    torch.testing.assert_close(model.reconstruct(x), made, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after.mean, before.mean * stretch + shift, atol=1e-5, rtol=1e-5)
    ratio = after.stddev / before.stddev  # but for the soft bound of log sigma^2, which is the identity to 1e-3
    torch.testing.assert_close(ratio, stretch.expand_as(ratio), atol=0, rtol=1e-3)
    assert float((model(x).kl.mean() - kl).detach().abs()) > 0.1


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 10)])
def test_the_discriminator_takes_any_image(shape: tuple[int, ...]) -> None:
    logits, features = Discriminator(shape)(torch.rand(4, *shape))
    assert logits.shape == (4,)
    assert features.ndim == 4
