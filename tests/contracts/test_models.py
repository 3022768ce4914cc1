"""The contract of ``sfumato.models``, and what sampling, reconstruction and interpolation promise."""

from __future__ import annotations

import math

import pytest
import torch
from contract import Case, ModuleContract, Numbers, covered, documented, flat, numbers, public_classes, stirred

from sfumato import models
from sfumato.core.errors import UserError
from sfumato.core.gaussians import has_density
from sfumato.data import Levels
from sfumato.likelihoods import Bernoulli, Categorical, DiscretizedLogistic, Gaussian
from sfumato.models import VAE, HierarchicalVAE, PackagedModel
from sfumato.networks import MLP, ConvDecoder, ConvEncoder, WithLabel
from sfumato.networks.ladder import ConvBottomUp, ConvTopDown, MLPBottomUp, MLPTopDown
from sfumato.posteriors import DiagonalGaussian, Dirac
from sfumato.priors import ClassConditional, StandardNormal

LABELS = torch.tensor([0, 2, -1, 1])
SHAPE = (1, 4, 3)


def vae(prior=None, likelihood=None, sees: str = "", dirac: bool = False) -> VAE:
    """Return a small VAE; ``sees`` names the networks that are given the label."""
    likelihood = likelihood or Bernoulli(SHAPE)

    def encoder():
        if "encoder" in sees:
            return WithLabel(MLP((SHAPE[0] + 3, *SHAPE[1:]), (2,), hidden=(6,), activation="tanh"), 3)
        return MLP(SHAPE, (2,), hidden=(6,), activation="tanh")

    latent = 2 + 3 * ("decoder" in sees)
    decoder = MLP((latent,), likelihood.parameter_shape, hidden=(6,), activation="tanh")
    return VAE(
        prior=prior or StandardNormal(2),
        posterior=Dirac(encoder()) if dirac else DiagonalGaussian(encoder(), encoder()),
        decoder=WithLabel(decoder, 3) if "decoder" in sees else decoder,
        likelihood=likelihood,
    )


def conv() -> VAE:
    likelihood = DiscretizedLogistic((2, 5, 3))
    trunk = ConvEncoder((2, 5, 3), (6,), widths=(3,))
    heads = [MLP((6,), (2,), hidden=()) for _ in range(2)]
    decoder = ConvDecoder((2,), likelihood.parameter_shape, widths=(3,))
    return VAE(StandardNormal(2), DiagonalGaussian(*heads, trunk=trunk), decoder, likelihood)


def conditional(sees: str = "") -> VAE:
    return vae(ClassConditional(3, 2, frequencies=(0.2, 0.5, 0.3)), sees=sees)


def call(model, dtype: torch.dtype, scale: float) -> Numbers:
    """Everything a model says, at z of our own choice: the noise of two precisions is not the same."""
    model.eval()
    inner = model.model if isinstance(model, PackagedModel) else model
    y = LABELS if inner.num_classes else None
    x = torch.sigmoid(numbers(4, *inner.likelihood.shape, dtype=dtype)).round()
    q = inner.encode(x * max(1.0, scale), y)
    z = scale * numbers(4, 2, dtype=dtype, seed=4)
    spread = [q.stddev] if has_density(q) else []
    return [q.mean, *spread, inner.decode(z, y).log_prob(x), inner.prior(y).log_prob(z)]


def case(name: str, build) -> Case:
    return Case(name, build, call)


def ladder(dims: tuple[int, ...] = (2, 3), likelihood=None, top=None) -> HierarchicalVAE:
    likelihood = likelihood or Bernoulli(SHAPE)
    up = MLPBottomUp(likelihood.shape, len(dims), width=6, hidden=4)
    down = MLPTopDown(dims, likelihood.parameter_shape, width=6, hidden=4)
    return HierarchicalVAE(top or StandardNormal(dims[0]), up, down, likelihood)


def conv_ladder(shape: tuple[int, ...] = (2, 9, 7), levels: tuple[int, ...] = (1, 2)) -> HierarchicalVAE:
    likelihood, widths = DiscretizedLogistic(shape), (4, 3)
    up = ConvBottomUp(shape, widths, levels, hidden=3)
    down = ConvTopDown(likelihood.parameter_shape, 2, 1, widths, levels, hidden=3)
    return HierarchicalVAE(StandardNormal(2), up, down, likelihood)


def call_ladder(model, dtype: torch.dtype, scale: float) -> Numbers:
    """The densities of all levels together, at z of our own choice."""
    model.eval()
    y = LABELS if model.num_classes else None
    x = torch.sigmoid(numbers(4, *model.likelihood.shape, dtype=dtype)).round()
    q = model.encode(x * max(1.0, scale), y)
    z = scale * numbers(4, model.latent_dim, dtype=dtype, seed=4)
    mean, own = q.mean, numbers(4, model.latent_dim, dtype=dtype, seed=4)
    prior = model.prior(y)
    # With z far out the densities of the next levels are as far from 1; what is compared is at z of usual size.
    return [mean, q.log_prob(own), model.decode(z, y).log_prob(x), prior.log_prob(own), prior.coloured(own)]


def ladder_case(name: str, build) -> Case:
    return Case(name, build, call_ladder)


EXAMPLES = {
    "VAE": [
        case("bernoulli", vae),
        case("dirac", lambda: vae(dirac=True)),
        case("gaussian", lambda: vae(likelihood=Gaussian(SHAPE, variance="per_dimension"))),
        case("optimal", lambda: vae(likelihood=Gaussian(SHAPE, variance="optimal"))),
        case("categorical", lambda: vae(likelihood=Categorical(SHAPE, 3))),
        case("conv", conv),
        case("conditional", conditional),
        case("conditional-decoder", lambda: conditional("decoder")),
        case("conditional-both", lambda: conditional("encoder and decoder")),
        case("label-in-networks", lambda: vae(sees="encoder and decoder")),
        case("conditional-encoder", lambda: conditional("encoder")),
        case("label-in-encoder", lambda: vae(sees="encoder")),
    ],
    "HierarchicalVAE": [
        ladder_case("two-levels", ladder),
        ladder_case("many-levels", lambda: ladder((2,) * 12)),
        ladder_case("gaussian", lambda: ladder(likelihood=Gaussian((5,), variance="per_dimension"))),
        ladder_case("conditional", lambda: ladder(top=ClassConditional(3, 2, frequencies=(0.2, 0.5, 0.3)))),
        ladder_case("conv", conv_ladder),
    ],
    "PackagedModel": [case("", lambda: PackagedModel(vae(likelihood=DiscretizedLogistic(SHAPE)), Levels(SHAPE)))],
}


def test_every_public_class_has_examples() -> None:
    covered(models, EXAMPLES)


@pytest.mark.parametrize("cls", public_classes(models))
def test_documentation(cls: type) -> None:
    documented(cls, "Args:")


@flat(EXAMPLES)
class TestModels(ModuleContract):
    pass


@flat({"VAE": EXAMPLES["VAE"]})
class TestVAE:
    def test_terms_hold_exactly_the_samples_that_were_asked_for(self, case: Case) -> None:
        model = case.build()
        x = torch.ones(4, *model.likelihood.shape)
        y = LABELS if model.num_classes else None
        for samples in (1, 5):
            terms = model(x, y, samples)
            assert terms.z[0].shape == (samples, 4, 2)
            assert terms.log_likelihood.shape == terms.log_prior.shape == (samples, 4)
            if has_density(terms.levels[0].posterior):
                assert terms.log_posterior.shape == (samples, 4)
                assert terms.sampled_kl.shape == (1, 4)
                assert terms.sigma.shape == (4,)

    def test_seeds_repeat_and_leave_torch_as_it_was(self, case: Case) -> None:
        model = case.build().eval()
        x = torch.ones(4, *model.likelihood.shape)
        y = LABELS if model.num_classes else None
        before = torch.get_rng_state()
        for draw in (
            lambda seed: model.sample(5, generator=seed),
            lambda seed: model.sample(5, generator=seed, draw=True),
            lambda seed: model.reconstruct(x, y, noise=True, generator=seed),
        ):
            assert torch.equal(draw(3), draw(3))
            assert torch.equal(draw(torch.Generator().manual_seed(3)), draw(torch.Generator().manual_seed(3)))
            assert draw(3).shape[1:] == model.likelihood.shape
            assert draw(3).dtype == torch.float32
        assert torch.equal(torch.get_rng_state(), before)
        assert not torch.equal(model.sample(5, generator=3, draw=True), model.sample(5, generator=4, draw=True))

    def test_interpolation_ends_are_exact(self, case: Case) -> None:
        model = case.build().eval()
        start, end = (torch.full((2, *model.likelihood.shape), value) for value in (0.0, 1.0))
        y = LABELS[:2] if model.num_classes else None
        for path in ("spherical", "linear"):
            shown = model.interpolate(start, end, steps=5, y=y, path=path)
            assert shown.shape == (5, 2, *model.likelihood.shape)
            torch.testing.assert_close(shown[0], model.reconstruct(start, y), rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(shown[-1], model.reconstruct(end, y), rtol=1e-6, atol=1e-6)


@flat({"HierarchicalVAE": EXAMPLES["HierarchicalVAE"]})
class TestHierarchicalVAE:
    def test_terms_hold_exactly_the_samples_and_levels_that_were_asked_for(self, case: Case) -> None:
        model = case.build()
        x = torch.ones(4, *model.likelihood.shape)
        y = LABELS if model.num_classes else None
        for samples in (1, 5):
            terms = model(x, y, samples)
            assert [z.shape for z in terms.z] == [(samples, 4, *shape) for shape in model.level_shapes]
            assert terms.log_likelihood.shape == terms.log_prior.shape == terms.log_posterior.shape == (samples, 4)
            assert terms.kl.shape == terms.sampled_kl.shape == (len(model.level_shapes), 4)
            assert terms.sigma.shape == (4,)

    def test_every_sample_of_an_example_has_the_features_of_that_example(self, case: Case) -> None:
        """The posteriors of two examples at once are those of each alone, for every draw."""
        model = stirred(case.build()).eval()
        x = numbers(2, *model.likelihood.shape, dtype=torch.float32).sigmoid().round()
        noise = numbers(3, 2, model.latent_dim, dtype=torch.float32, seed=5)
        both = model.infer(x).levels(noise)
        for row in (0, 1):
            alone = model.infer(x[row : row + 1]).levels(noise[:, row : row + 1])
            for whole, part in zip(both, alone, strict=True):
                torch.testing.assert_close(whole.z[:, row], part.z[:, 0], rtol=1e-4, atol=1e-4)

    def test_seeds_repeat_and_leave_torch_as_it_was(self, case: Case) -> None:
        model = case.build().eval()
        before = torch.get_rng_state()
        x = torch.ones(4, *model.likelihood.shape)
        for draw in (
            lambda seed: model.sample(5, generator=seed),
            lambda seed: model.sample(5, generator=seed, draw=True),
            lambda seed: model.reconstruct(x, noise=True, generator=seed),
        ):
            assert torch.equal(draw(3), draw(3))
            assert draw(3).shape[1:] == model.likelihood.shape
        assert torch.equal(torch.get_rng_state(), before)
        assert not torch.equal(model.sample(5, generator=3, draw=True), model.sample(5, generator=4, draw=True))

    def test_interpolation_ends_are_exact(self, case: Case) -> None:
        model = case.build().eval()
        start, end = (torch.full((2, *model.likelihood.shape), value) for value in (0.0, 1.0))
        for path in ("spherical", "linear"):
            shown = model.interpolate(start, end, steps=4, path=path)
            torch.testing.assert_close(shown[0], model.reconstruct(start), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(shown[-1], model.reconstruct(end), rtol=1e-5, atol=1e-5)

    def test_densities_are_float32_under_autocast(self, case: Case) -> None:
        model = case.build()
        with torch.autocast("cpu", torch.bfloat16):
            terms = model(torch.ones(4, *model.likelihood.shape), LABELS if model.num_classes else None, 2)
            for value in (*terms.z, terms.log_likelihood, terms.log_prior, terms.log_posterior, terms.kl):
                assert value.dtype == torch.float32

    def test_a_z_in_one_row_comes_apart(self, case: Case) -> None:
        model = case.build().eval()
        z = model.prior().sample((6,))
        parts = model.split(z)
        assert [part.shape[1:] for part in parts] == [torch.Size(shape) for shape in model.level_shapes]
        assert torch.equal(torch.cat([part.flatten(1) for part in parts], 1), z)
        assert model.decoder(z.reshape(2, 3, -1)).shape == (2, 3, *model.likelihood.parameter_shape)


def test_ladders_of_images_of_any_size_and_any_number_of_levels() -> None:
    for shape, levels in (((1, 1, 1), (1, 1)), ((3, 17, 5), (0, 3)), ((1, 8, 8), (2, 0)), ((1, 3, 2), (0, 0))):
        model = conv_ladder(shape, levels)
        assert model(torch.zeros(2, *shape), None, 3).log_likelihood.shape == (3, 2)
        assert len(model.level_shapes) == 1 + sum(levels)


def test_paths_that_do_not_fit_are_refused_with_the_cure() -> None:
    up, down = MLPBottomUp((5,), 2, 6, 4), MLPTopDown((2, 3), (1, 5), 6, 4)
    with pytest.raises(UserError, match=r"prior for the top level's shape, \(2,\); got one for \(3,\)"):
        HierarchicalVAE(StandardNormal(3), up, down, Bernoulli((5,)))
    with pytest.raises(UserError, match="Build both with the same levels and hidden"):
        HierarchicalVAE(StandardNormal(2), MLPBottomUp((5,), 3, 6, 4), down, Bernoulli((5,)))
    with pytest.raises(UserError, match=r"needs 2 numbers for each data value.*out_shape=\(2, 5\)"):
        HierarchicalVAE(StandardNormal(2), up, down, DiscretizedLogistic((5,)))
    with pytest.raises(UserError, match="2 widths and 1 numbers of levels"):
        ConvBottomUp((1, 8, 8), (4, 4), (1,))
    with pytest.raises(UserError, match="got none"):
        MLPTopDown((), (1, 5))


def test_temperature_zero_gives_the_mean_and_temperature_the_spread() -> None:
    model = vae()
    mean = model.expectation(model.decode(torch.zeros(1, 2)))
    assert torch.equal(model.sample(3, temperature=0.0), mean.expand(3, *SHAPE))
    prior = models.model.tempered(StandardNormal(2)(), 0.5)
    torch.testing.assert_close(prior.stddev, torch.full((2,), 0.5))
    torch.testing.assert_close(prior.mean, torch.zeros(2))
    for wrong in (-0.1, math.nan):
        with pytest.raises(UserError, match="0 or more"):
            model.sample(3, temperature=wrong)


def test_temperature_zero_gives_the_mean_of_the_class() -> None:
    model = conditional()
    expected = model.expectation(model.decode(model.prior.means[[1]]))
    torch.testing.assert_close(model.sample(3, label=1, temperature=0.0), expected.expand(3, *SHAPE))


def test_labels_that_there_are_not_are_refused() -> None:
    model = conditional("decoder")
    for wrong in (3, -1, torch.tensor([0, 1, 3])):
        with pytest.raises(UserError, match="class number from 0 to 2"):
            model.sample(3, label=wrong)
    for wrong in (torch.tensor([0, 1]), torch.tensor([0.5])):
        with pytest.raises(UserError, match="one class number, or one for each of 3 samples"):
            model.sample(3, label=wrong)
    with pytest.raises(UserError, match="Train with --conditional"):
        vae().sample(3, label=0)


def test_samples_of_a_class_have_its_statistics() -> None:
    """Through an affine decoder the drawn z can be read off."""
    model = VAE(
        ClassConditional(3, 2, frequencies=(0.2, 0.5, 0.3)),
        DiagonalGaussian(MLP((2,), (2,)), MLP((2,), (2,))),
        MLP((2,), (1, 2), hidden=()),
        Gaussian((2,)),
    )
    with torch.no_grad():
        model.prior.means.copy_(torch.tensor([[-3.0, 0.0], [0.0, 2.0], [4.0, 1.0]]))
        model.decoder.layers[-1].weight.copy_(torch.eye(2))
        model.decoder.layers[-1].bias.zero_()
    n = 20_000
    for label in range(3):
        z = model.sample(n, label=label, generator=label)
        assert ((z.mean(0) - model.prior.means[label]).abs() < 5 / math.sqrt(n)).all()
        assert ((z.std(0) - 1).abs() < 5 / math.sqrt(2 * n)).all()
    mixed = model.sample(4, label=torch.tensor([2, 0, 1, 0]), temperature=0.0)
    torch.testing.assert_close(mixed, model.prior.means[[2, 0, 1, 0]].detach())
    anything = model.sample(n, generator=9)
    expected = torch.tensor([0.2, 0.5, 0.3]) @ model.prior.means.detach()
    assert ((anything.mean(0) - expected).abs() < 5 * anything.std(0) / math.sqrt(n)).all()


def test_classes_are_drawn_by_their_frequencies_for_a_decoder_that_sees_them() -> None:
    model = conditional("decoder")
    labels = model._labels(20_000, None, torch.device("cpu"))
    shares = torch.bincount(labels, minlength=3) / 20_000
    assert (shares - torch.tensor([0.2, 0.5, 0.3])).abs().max() < 0.02


def test_spherical_keeps_the_radius_and_meets_both_ends() -> None:
    z0, z1 = numbers(3, 4, dtype=torch.float32), numbers(3, 4, dtype=torch.float32, seed=2)
    z0, z1 = (z / z.norm(dim=-1, keepdim=True) for z in (z0, z1))
    for weight in (0.0, 0.25, 0.5, 1.0):
        point = models.model.spherical(z0, z1, torch.tensor(weight))
        torch.testing.assert_close(point.norm(dim=-1), torch.ones(3))
    assert torch.equal(models.model.spherical(z0, z1, torch.tensor(0.0)), z0)
    assert torch.equal(models.model.spherical(z0, z1, torch.tensor(1.0)), z1)
    for parallel in (z0, 3 * z0, -z0):
        middle = models.model.spherical(z0, parallel, torch.tensor(0.5))
        torch.testing.assert_close(middle, (z0 + parallel) / 2, atol=2e-4, rtol=0)
    assert torch.isfinite(models.model.spherical(z0, 0 * z0, torch.tensor(0.5))).all()


def test_reconstruct_takes_the_mean_of_the_posterior() -> None:
    model, x = vae(), torch.ones(4, *SHAPE)
    torch.testing.assert_close(model.reconstruct(x), model.expectation(model.decode(model.encode(x).mean)))
    assert torch.equal(model.reconstruct(x), model.reconstruct(x))


def test_parts_that_do_not_fit_are_refused_with_the_cure() -> None:
    posterior = DiagonalGaussian(MLP((3,), (2,)), MLP((3,), (2,)))
    with pytest.raises(UserError, match=r"one latent shape.*Give all three the same"):
        VAE(StandardNormal(4), posterior, MLP((2,), (1, 3)), Bernoulli((3,)))
    with pytest.raises(UserError, match=r"needs 2 numbers for each data value.*out_shape=\(2, 3\)"):
        VAE(StandardNormal(2), posterior, MLP((2,), (1, 3)), DiscretizedLogistic((3,)))


def test_parts_for_different_numbers_of_classes_are_refused() -> None:
    with pytest.raises(UserError, match=r"one number of classes; got parts for \[3, 4\]"):
        vae(prior=ClassConditional(num_classes=4, latent_dim=2), sees="decoder")
