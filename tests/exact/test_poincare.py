"""The normal of the Poincare ball against quadrature, the geometry of the ball, and its own draws."""

import math

import pytest
import torch

from sfumato.distributions import PoincareNormal
from sfumato.distributions.poincare_normal import add, from_origin, length, log_sinh_ratio, to_origin

CASES = [((0.0, 0.0), (1.0, 1.0)), ((0.4, -0.3), (0.5, 0.5)), ((0.0, 0.7), (0.6, 0.9))]


def normal(mean, scale):
    return PoincareNormal(torch.tensor(mean, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64))


@pytest.mark.parametrize(("mean", "scale"), CASES)
def test_the_density_adds_up_to_one_over_the_disk(mean, scale):
    """Polar coordinates, out to a geodesic radius of 12."""
    count, angles = 1500, 300
    radius = (torch.arange(count, dtype=torch.float64) + 0.5) / count * 12
    r, width = torch.tanh(radius / 2), (1 - torch.tanh(radius / 2) ** 2) / 2 * 12 / count
    theta = (torch.arange(angles, dtype=torch.float64) + 0.5) / angles * 2 * math.pi
    z = torch.stack([r[:, None] * theta.cos(), r[:, None] * theta.sin()], -1)
    area = (r * width)[:, None] * 2 * math.pi / angles
    assert float((normal(mean, scale).log_prob(z).exp() * area).sum()) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize(("mean", "scale"), CASES)
def test_draws_are_as_far_from_the_centre_as_the_scale_says(mean, scale):
    found = normal(mean, scale)
    ways = to_origin(add(-found.centre, found.rsample((40_000,))))
    assert torch.allclose(ways.mean(0), torch.zeros(2, dtype=torch.float64), atol=0.02)
    assert torch.allclose(ways.std(0), torch.tensor(scale, dtype=torch.float64), rtol=0.02)


def test_geometry():
    """d(0, z) = 2 artanh |z|; translations keep distances, here arcosh(1 + 2 |u - v|^2 / ((1 - |u|^2)(1 - |v|^2)))."""
    u, v, w = (
        0.9 * torch.nn.functional.normalize(torch.randn(50, 3).double(), dim=-1) * torch.rand(50, 1) for _ in "uvw"
    )

    def apart(a, b):
        return 2 * length(add(-a, b)).atanh().squeeze(-1)

    def formula(a, b):
        gap = (a - b).square().sum(-1) / ((1 - a.square().sum(-1)) * (1 - b.square().sum(-1)))
        return torch.acosh(1 + 2 * gap)

    assert torch.allclose(apart(u, v), formula(u, v), atol=1e-9)
    assert torch.allclose(apart(add(w, u), add(w, v)), formula(u, v), atol=1e-7)
    way = torch.randn(50, 3).double()
    assert torch.allclose(to_origin(from_origin(way)), way, atol=1e-9)
    assert torch.allclose(2 * from_origin(way).norm(dim=-1).atanh(), way.norm(dim=-1), atol=1e-9)


def test_log_sinh_ratio_near_and_far():
    r = torch.tensor([0.0, 1e-6, 9.9e-3, 1.01e-2, 1.0, 30.0], dtype=torch.float64)
    exact = [math.log(math.sinh(x) / x) if x else 0.0 for x in r.tolist()]
    assert torch.allclose(log_sinh_ratio(r), torch.tensor(exact, dtype=torch.float64), atol=1e-9)


def test_the_gradient_of_a_draw_follows_the_centre():
    """d/dm E[d(0, z)] by the reparametrised gradient against a difference of the expectation, same noise."""
    way = torch.tensor([0.5, -0.2], dtype=torch.float64, requires_grad=True)

    def distance(at):
        torch.manual_seed(0)
        draws = PoincareNormal(from_origin(at), torch.full((2,), 0.3).double()).rsample((1000,))
        return to_origin(draws).norm(dim=-1).mean()

    (slope,) = torch.autograd.grad(distance(way), way)
    for place in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[place] = 1e-5
        with torch.no_grad():
            difference = (distance(way + step) - distance(way - step)) / 2e-5
        assert float(slope[place]) == pytest.approx(float(difference), abs=1e-6)
