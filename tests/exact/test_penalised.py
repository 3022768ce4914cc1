"""Decoders that pay for their slope and weights, layers that stretch nothing, and structural similarity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from sfumato.core.errors import UserError
from sfumato.core.gaussians import independent_normal
from sfumato.core.terms import Level, Terms
from sfumato.likelihoods import Gaussian
from sfumato.models import VAE
from sfumato.networks import MLP, ConvDecoder, Penalised, SpectralNorm
from sfumato.objectives import ELBO, PriorEnergy, StructuralSimilarity
from sfumato.posteriors import Dirac
from sfumato.priors import StandardNormal


def test_the_slope_of_an_affine_map_is_its_weight_on_average() -> None:
    decoder = Penalised(MLP((3,), (1, 4), hidden=()), gradient=0.5).double()
    weight = decoder.network.layers[-1].weight
    found = decoder.penalties(torch.randn(2, 5000, 3).double())["decoder_gradient"].detach()
    exact = 0.5 * float(weight.detach().square().sum())
    assert abs(float(found.mean()) - exact) < 4 * float(found.std()) / 5000**0.5
    assert float(found.std()) / 5000**0.5 < 0.02 * exact


def test_the_slope_of_a_curved_map_is_its_jacobian_and_has_a_gradient() -> None:
    decoder = Penalised(MLP((2,), (3,), hidden=(4,), activation="tanh"), gradient=1.0).double()
    z = torch.tensor([0.3, -0.7]).double()
    jacobian = torch.autograd.functional.jacobian(decoder.network, z, create_graph=True)
    many = z.expand(1, 20_000, 2)
    found = decoder.penalties(many)["decoder_gradient"]
    assert abs(float((found.mean() - jacobian.square().sum()).detach())) < 4 * float(found.std().detach()) / 20_000**0.5
    first = decoder.network.layers[1].weight
    by_hand, estimate = (torch.autograd.grad(value, first)[0] for value in (jacobian.square().sum(), found.mean()))
    torch.testing.assert_close(estimate, by_hand, rtol=0.1, atol=0.02)


def test_a_regularised_autoencoder_adds_its_parts() -> None:
    """Reconstruction, half the squared code, the penalties of the decoder."""
    decoder = Penalised(MLP((2,), (1, 3), hidden=()), gradient=0.3, weights=0.01)
    model = VAE(StandardNormal(2), Dirac(MLP((3,), (2,))), decoder, Gaussian((3,), "fixed")).double()
    terms = model(torch.randn(4, 3).double())
    loss = (ELBO(beta=0) + 0.5 * PriorEnergy())(terms, 0).losses["model"]
    weights = 0.01 * sum(float(each.detach().square().sum()) for each in decoder.network.parameters())
    torch.testing.assert_close(terms.penalties["decoder_weights"], torch.full((4,), weights, dtype=torch.float64))
    parts = -terms.log_likelihood[0] - 0.5 * terms.log_prior[0] + terms.penalties["decoder_gradient"] + weights
    torch.testing.assert_close(loss, parts)
    assert {"decoder_gradient", "decoder_weights"} <= set(ELBO(beta=0)(terms, 0).values)


def test_without_weights_of_the_penalties_there_are_none() -> None:
    assert Penalised(MLP((2,), (3,))).penalties(torch.zeros(1, 4, 2)) == {}
    assert MLP((2,), (3,)).penalties(torch.zeros(1, 4, 2)) == {}


def test_normed_layers_stretch_by_one_at_most() -> None:
    network = MLP((5,), (4,), hidden=()).double()
    x = torch.randn(300, 5).double()
    weight, bias = (each.detach().numpy() for each in (network.layers[-1].weight, network.layers[-1].bias))
    expected = x.numpy() @ (weight / np.linalg.svd(weight)[1][0]).T + bias
    torch.testing.assert_close(SpectralNorm(network)(x).detach(), torch.from_numpy(expected))
    deep = SpectralNorm(MLP((5,), (4,), hidden=(20, 20))).double()
    with torch.no_grad():
        for parameter in deep.parameters():
            parameter.mul_(30)
    y = torch.randn(300, 5).double()
    assert ((deep(x) - deep(y)).norm(dim=1) <= (x - y).norm(dim=1) + 1e-12).all()


def structure(x: np.ndarray, y: np.ndarray, whole: bool) -> float:
    """Return the mean of contrast and structure, with the luminance if ``whole``, by scipy's filter."""

    def blurred(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, 1.5, mode="mirror", radius=5)

    mx, my = blurred(x), blurred(y)
    vx, vy, both = blurred(x * x) - mx**2, blurred(y * y) - my**2, blurred(x * y) - mx * my
    contrast = (2 * both + 0.03**2) / (vx + vy + 0.03**2)
    if whole:
        return float((contrast * (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2)).mean())
    return float(contrast[5:-5, 5:-5].mean())


def pictures(made: torch.Tensor, x: torch.Tensor) -> Terms:
    zero = torch.zeros(2).double()
    level = Level(torch.zeros(1, len(x), 2).double(), independent_normal(zero, zero), independent_normal(zero, zero))
    return Terms(x, None, (level,), independent_normal(made.unsqueeze(0), torch.zeros(1).double(), 3))


@pytest.mark.parametrize("scales", [1, 2])
def test_structural_similarity_by_scipy(scales: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 1, 24, 26, generator=generator).double()
    made = (x + 0.2 * torch.randn(x.shape, generator=generator).double()).clamp(0, 1)
    loss = StructuralSimilarity(scales)(pictures(made, x), 0).losses["model"]
    for n in range(3):
        one, other = made[n, 0].numpy(), x[n, 0].numpy()
        small = [each.reshape(12, 2, 13, 2).mean((1, 3)) for each in (one, other)]
        expected = (1 + structure(one, other, True)) / 2
        if scales == 2:
            b = 0.0448 / (0.0448 + 0.2856)
            fine, coarse = (1 + structure(one, other, False)) / 2, (1 + structure(*small, True)) / 2
            expected = fine**b * coarse ** (1 - b)
        assert float(loss[n]) == pytest.approx(1 - expected, abs=1e-7)  # its powers are float32
    same = StructuralSimilarity(scales)(pictures(x, x), 0).losses["model"]
    assert float(same.abs().max()) < 1e-12


def test_structural_similarity_of_noise_has_a_gradient() -> None:
    x = torch.rand(2, 1, 24, 24)
    decoder = ConvDecoder((2,), (1, 1, 24, 24), (4,))
    made = decoder(torch.randn(2, 2))[:, 0] - 5 * x
    loss = StructuralSimilarity()(pictures(made.double(), x.double()), 0).losses["model"]
    loss.sum().backward()
    assert all(bool(torch.isfinite(each.grad).all()) for each in decoder.parameters())


@pytest.mark.parametrize("shape", [(3, 9), (3, 1, 20, 28)])
def test_structural_similarity_wants_images_of_a_size(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape)
    with pytest.raises(UserError, match="needs images of more than 20 pixels a side"):
        StructuralSimilarity()(Terms(x, None, (), independent_normal(x, torch.zeros(1))), 0)
