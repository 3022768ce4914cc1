"""The contract of ``sfumato.posteriors``."""

from __future__ import annotations

import math

import pytest
import torch
from contract import Case, ModuleContract, Numbers, covered, documented, flat, numbers, public_classes
from densities import density_matches_samples
from torch import nn

from sfumato import posteriors
from sfumato.core.errors import UserError
from sfumato.core.gaussians import has_density
from sfumato.networks import MLP, ConvEncoder, KLEncoder, WithLabel
from sfumato.posteriors import ClampedGaussian, DiagonalGaussian, Dirac
from sfumato.posteriors.diagonal_gaussian import LOG_VARIANCE_BOUNDS

LABELS = torch.tensor([0, 2, -1, 1])


def call(posterior, dtype: torch.dtype, scale: float) -> Numbers:
    q = posterior(numbers(4, *posterior.in_shape, dtype=dtype, scale=scale), LABELS)
    return [q.mean, q.stddev] if has_density(q) else [q.mean]


def case(name: str, build) -> Case:
    return Case(name, build, call)


def head(size: int = 5) -> MLP:
    return MLP((size,), (2,), hidden=(6,), activation="tanh")


def with_label() -> WithLabel:
    return WithLabel(MLP((5 + 3,), (2,), hidden=(6,)), num_classes=3)


EXAMPLES = {
    "ClampedGaussian": [
        case("", lambda: ClampedGaussian(MLP((5,), (2, 2), hidden=(6,), activation="tanh"))),
        case("images", lambda: ClampedGaussian(KLEncoder((1, 2, 4), (2, 2), widths=(2, 4), groups=1))),
    ],
    "DiagonalGaussian": [
        case("two-encoders", lambda: DiagonalGaussian(mean=head(), log_variance=head())),
        case("trunk", lambda: DiagonalGaussian(head(6), head(6), trunk=MLP((5,), (6,), activate_output=True))),
        case("images", lambda: DiagonalGaussian(head(6), head(6), trunk=ConvEncoder((1, 5, 3), (6,), widths=(2,)))),
        case("with-label", lambda: DiagonalGaussian(with_label(), with_label())),
    ],
    "Dirac": [case("", lambda: Dirac(head())), case("with-label", lambda: Dirac(with_label()))],
}


def test_every_public_class_has_examples() -> None:
    covered(posteriors, EXAMPLES)


@pytest.mark.parametrize("cls", public_classes(posteriors))
def test_documentation(cls: type) -> None:
    documented(cls, "Args:", "Returns (call):")


@flat(EXAMPLES)
class TestPosteriors(ModuleContract):
    def test_shapes(self, case: Case) -> None:
        posterior = case.build()
        q = posterior(torch.zeros(4, *posterior.in_shape), LABELS)
        assert q.batch_shape == (4,)
        assert q.event_shape == posterior.latent_shape == (2,)
        assert q.rsample((3,)).shape == (3, 4, 2)
        one = posterior(torch.zeros(posterior.in_shape), LABELS[0])
        assert one.batch_shape == ()

    def test_gradients_flow_through_samples(self, case: Case) -> None:
        posterior = case.build()
        posterior(torch.ones(4, *posterior.in_shape), LABELS).rsample((3,)).square().sum().backward()
        assert all(parameter.grad is not None for parameter in posterior.parameters())

    def test_says_whether_it_sees_the_label(self, case: Case) -> None:
        assert case.build().sees_label == ("label" in case.name)


def test_diagonal_gaussian_integrates_to_one_and_matches_its_samples() -> None:
    posterior = DiagonalGaussian(mean=head(), log_variance=head()).double()
    q = posterior(numbers(5))
    density_matches_samples(q, -8.0, 8.0)


@pytest.mark.parametrize("extreme", [1e4, 1e9, 3e38, math.inf])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_no_log_variance_makes_inf_or_nan(extreme: float, sign: float) -> None:
    f2 = MLP((5,), (2,), hidden=())
    nn.init.constant_(f2.layers[-1].bias, sign * extreme)
    q = DiagonalGaussian(MLP((5,), (2,), hidden=()), f2)(torch.ones(4, 5))
    low, high = (math.exp(bound / 2) for bound in LOG_VARIANCE_BOUNDS)
    assert ((q.stddev >= low * 0.999) & (q.stddev <= high * 1.001)).all()
    z = q.rsample((3,))
    density = q.log_prob(z)
    assert torch.isfinite(density).all()
    (density.sum() + z.sum()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in f2.parameters())


def test_log_variance_is_what_f2_says_in_between() -> None:
    f2 = MLP((5,), (2,), hidden=())
    x = numbers(4, 5, dtype=torch.float32)
    q = DiagonalGaussian(MLP((5,), (2,), hidden=()), f2)(x)
    torch.testing.assert_close(2 * q.stddev.log(), f2(x), atol=3e-4, rtol=0)


def test_networks_that_do_not_fit_are_refused_with_the_cure() -> None:
    with pytest.raises(UserError, match="Build both alike"):
        DiagonalGaussian(MLP((5,), (2,)), MLP((5,), (3,)))
    with pytest.raises(UserError, match=r"Build them with in_shape=\(7,\)"):
        DiagonalGaussian(MLP((5,), (2,)), MLP((5,), (2,)), trunk=MLP((4,), (7,)))


def test_clamped_gaussian_is_exactly_what_its_network_says_inside_and_the_bound_outside() -> None:
    moments = MLP((1,), (2, 2), hidden=())
    nn.init.zeros_(moments.layers[-1].weight)
    with torch.no_grad():
        moments.layers[-1].bias.copy_(torch.tensor([0.5, -3.0, -40.0, 12.0]))
    q = ClampedGaussian(moments)(torch.zeros(3, 1))
    assert q.mean[0].tolist() == [0.5, -3.0]
    torch.testing.assert_close(q.stddev[0], torch.tensor([-15.0, 6.0]).exp())
    with pytest.raises(UserError, match=r"out_shape \(2, latent_dim\)"):
        ClampedGaussian(MLP((1,), (4,)))
