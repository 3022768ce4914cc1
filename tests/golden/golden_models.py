"""What the golden folders hold: one small model of each kind, every preprocessing and every likelihood somewhere."""

import json
from pathlib import Path

import numpy as np
import torch

from sfumato.core.gaussians import has_density
from sfumato.core.numerics import fixed_noise
from sfumato.core.schedules import WarmUp, WarmUpCosine
from sfumato.core.spec import to_spec
from sfumato.data import Binarise, Columns, Counts, Identity, Integers, Levels, Standardise, Unit
from sfumato.data.columns import Column
from sfumato.distributions import WithMomentum
from sfumato.io.folder import load_model
from sfumato.likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Laplace,
    Masked,
    Mixed,
    MixtureOfLogistics,
    NegativeBinomial,
    Ordinal,
    Perceptual,
    Poisson,
    StudentT,
    ZeroInflated,
)
from sfumato.models import VAE, HierarchicalVAE, PackagedModel
from sfumato.networks import MLP, ConvDecoder, ConvEncoder, WithLabel
from sfumato.networks.autoencoder_kl import KLDecoder, KLEncoder
from sfumato.networks.ladder import MLPBottomUp, MLPTopDown
from sfumato.objectives import ELBO
from sfumato.posteriors import (
    ClampedGaussian,
    DiagonalGaussian,
    Dirac,
    FiniteScalarQuantiser,
    FlowPosterior,
    FullGaussian,
    GumbelSoftmax,
    Hamiltonian,
    LookupFreeQuantiser,
    LowRankGaussian,
    PoincareGaussian,
    PowerSpherical,
    RiemannianHamiltonian,
    SemiAmortised,
    VectorQuantiser,
    VonMisesFisher,
)
from sfumato.priors import (
    AutoregressiveCodes,
    ClassConditional,
    ClassConditionalMixture,
    Exemplar,
    Flow,
    GaussianMixture,
    PoincareNormal,
    SecondStage,
    StandardNormal,
    UniformSphere,
    VampPrior,
)
from sfumato.priors import Categorical as CategoricalPrior
from sfumato.training import TrainingConfig

PLACE = Path(__file__).parent
NAMES = ("a", "b", "c")
IMAGE, ROW = (1, 4, 4), (5,)
TRAINING = TrainingConfig(24, 16, schedule=WarmUpCosine(24, 2), log_every=2, evaluate_every=6, checkpoint_every=3)


def plain(likelihood, latent=2):
    """A VAE of two encoders for rows or images."""
    return around(StandardNormal(latent), two(likelihood.shape, latent), likelihood)


def two(shape=ROW, latent=2):
    """Two encoders."""
    return DiagonalGaussian(*(head(latent, shape=shape) for _ in range(2)))


def head(*out, shape=ROW):
    return MLP(shape, out, (3,))


def around(prior, posterior, likelihood):
    decoder = MLP(prior.latent_shape, likelihood.parameter_shape, (3,))
    return VAE(prior, posterior, decoder, likelihood)


def rows(prior, posterior):
    """What a prior and a posterior are tried with: standardised rows."""
    return around(prior, posterior, Gaussian(ROW, "shared")), standardised(ROW), reals(ROW)[:3]


def started(part):
    """What holds examples, with some."""
    part.start_from(standardised(ROW)(torch.from_numpy(reals(ROW))))
    return part


def conditional(likelihood):
    """Classes that own a mean, which the decoder sees too."""
    encoders = (MLP(likelihood.shape, (2,), (3,)) for _ in range(2))
    decoder = WithLabel(MLP((5,), likelihood.parameter_shape, (3,)), 3)
    return VAE(ClassConditional(3, 2), DiagonalGaussian(*encoders), decoder, likelihood)


def convolutional(likelihood):
    trunk = ConvEncoder(likelihood.shape, (6,), (2,))
    heads = (MLP((6,), (2,), ()) for _ in range(2))
    decoder = ConvDecoder((2,), likelihood.parameter_shape, (2,))
    return VAE(StandardNormal(2), DiagonalGaussian(*heads, trunk), decoder, likelihood)


def ladder(likelihood):
    down = MLPTopDown((2, 2), likelihood.parameter_shape, 4, 3)
    return HierarchicalVAE(StandardNormal(2), MLPBottomUp(likelihood.shape, 2, 4, 3), down, likelihood)


def first_stage(likelihood):
    """The networks of AutoencoderKL on a grid of latents."""
    channels = 2
    trunk = KLEncoder(likelihood.shape, (2, channels, 2, 2), widths=(2, 2), groups=1)
    heads = (MLP((2, channels, 2, 2), (channels * 4,), ()) for _ in range(2))
    decoder = KLDecoder((channels * 4,), likelihood.parameter_shape, widths=(2, 2), groups=1)
    return VAE(StandardNormal(channels * 4), DiagonalGaussian(*heads, trunk), decoder, likelihood)


def point(likelihood):
    decoder = MLP((2,), likelihood.parameter_shape, (3,))
    return VAE(StandardNormal(2), Dirac(MLP(likelihood.shape, (2,), (3,))), decoder, likelihood)


def standardised(shape):
    return Standardise(shape).fit(reals(shape))


def reals(shape):
    return np.random.default_rng(3).normal(1.5, 2.0, (6, *shape)).astype(np.float32)


def counts(shape, high):
    return np.random.default_rng(4).integers(0, high, (6, *shape))


def bytes_of(shape):
    return counts(shape, 256).astype(np.uint8)


def mixed():
    parts = (Gaussian((2,), "per_dimension"), Bernoulli((1,)), Categorical((1,), 3), Ordinal((1,), 4))
    return Mixed(parts, (0, 4, 1, 2, 3))


def columns():
    """Two real columns around three of levels."""
    levels = [tuple(float(level) for level in range(count)) for count in (2, 3, 4)]
    kinds = zip(("binary", "category", "ordinal"), "bcd", levels, strict=True)
    return Columns(
        (Column("a", "real"), *(Column(name, kind, each) for kind, name, each in kinds), Column("e", "real"))
    )


def table():
    rows = reals(ROW)
    for place, high in ((1, 2), (2, 3), (3, 4)):
        rows[:, place] = counts((1,), high)[:, 0]
    return rows


GOLDEN = {
    "vae": lambda: (plain(Bernoulli(IMAGE)), Binarise(IMAGE, "fixed", 7), bytes_of(IMAGE)),
    "dynamic": lambda: (plain(Bernoulli(IMAGE)), Binarise(IMAGE, "dynamic"), bytes_of(IMAGE)),
    "classes": lambda: (conditional(DiscretizedLogistic(IMAGE)), Levels(IMAGE), bytes_of(IMAGE)),
    "ladder": lambda: (ladder(Gaussian(ROW, "predicted")), standardised(ROW), reals(ROW)),
    "kl-first-stage": lambda: (first_stage(Gaussian(IMAGE, "shared")), standardised(IMAGE), reals(IMAGE)),
    "convolutions": lambda: (convolutional(DiscretizedLogistic((3, 4, 4))), Levels((3, 4, 4)), bytes_of((3, 4, 4))),
    "optimal": lambda: (plain(Gaussian(ROW)), standardised(ROW), reals(ROW)),
    "categorical": lambda: (plain(Categorical(ROW, 6)), Integers(ROW, 6), counts(ROW, 6)),
    "masked": lambda: (plain(Masked(Gaussian(ROW, "shared"))), Identity(ROW), reals(ROW)),
    "grey": lambda: (plain(ContinuousBernoulli(IMAGE)), Unit(IMAGE, 255.0), bytes_of(IMAGE)),
    "laplace": lambda: (plain(Laplace(ROW)), standardised(ROW), reals(ROW)),
    "mixture": lambda: (plain(MixtureOfLogistics((3, 2, 2), 2)), Levels((3, 2, 2)), bytes_of((3, 2, 2))),
    "student": lambda: (plain(StudentT(ROW, "predicted")), standardised(ROW), reals(ROW)),
    "ordinal": lambda: (plain(Ordinal(ROW, 4)), Integers(ROW, 4), counts(ROW, 4)),
    "poisson": lambda: (plain(Poisson(ROW, means=(1.0, 2.0, 3.0, 4.0, 5.0))), Counts(ROW), counts(ROW, 9)),
    "counts": lambda: (plain(ZeroInflated(NegativeBinomial(ROW))), Counts(ROW), counts(ROW, 9)),
    "table": lambda: (plain(mixed()), columns().fit(table()), table()),
    "perceptual": lambda: (plain(Perceptual(MLP(IMAGE, (3,), (3,)))), standardised(IMAGE), reals(IMAGE)),
    "point": lambda: (point(Gaussian(ROW, "fixed")), standardised(ROW), reals(ROW)),
    "vamp": lambda: rows(VampPrior(2, ROW, components=3), two()),
    "exemplar": lambda: rows(started(Exemplar(2, ROW, exemplars=4, subset=2)), two()),
    "mixture-prior": lambda: rows(
        GaussianMixture(2, 3, covariance="full"), FlowPosterior(two(), "iaf", 2, hidden=(4,))
    ),
    "class-mixture": lambda: rows(ClassConditionalMixture(3, 2, 2), FlowPosterior(two(), "planar", 2, context=head(2))),
    "coupling-prior": lambda: rows(Flow(2, "coupling", 2, (4,)), FullGaussian(head(3, 2))),
    "spline-prior": lambda: rows(Flow(2, "spline", 1, (4,)), LowRankGaussian(head(3, 2))),
    "hamiltonian": lambda: rows(StandardNormal(2), Hamiltonian(two(), steps=2)),
    "householder": lambda: rows(StandardNormal(2), FlowPosterior(two(), "householder", 2)),
    "riemannian": lambda: rows(
        StandardNormal(2), started(RiemannianHamiltonian(two(), head(2, 2), shape=ROW, centroids=3, steps=2))
    ),
    "second-stage": lambda: rows(SecondStage(2, hidden=(3,)), FlowPosterior(two(), "householder", 2)),
    "lookup-free": lambda: rows(StandardNormal((2, 3)), LookupFreeQuantiser(head(2, 3))),
    "codes": lambda: rows(
        AutoregressiveCodes((2, 3), (2, 2), width=4, heads=1, depth=1), LookupFreeQuantiser(head(2, 3))
    ),
    "semi-amortised": lambda: rows(StandardNormal(2), SemiAmortised(two(), steps=2)),
    "clamped": lambda: rows(StandardNormal(2), ClampedGaussian(head(2, 2))),
    "von-mises-fisher": lambda: rows(UniformSphere(3), VonMisesFisher(head(4))),
    "power-spherical": lambda: rows(UniformSphere(3), PowerSpherical(head(4))),
    "poincare": lambda: rows(PoincareNormal(2), PoincareGaussian(head(2, 2))),
    "gumbel-softmax": lambda: rows(CategoricalPrior(2, 3), GumbelSoftmax(head(2, 3))),
    "finite-scalar": lambda: rows(StandardNormal((2, 3)), FiniteScalarQuantiser(head(2, 3), levels=(3, 4))),
    "vector-quantiser": lambda: rows(StandardNormal((2, 3)), VectorQuantiser(head(2, 3), codes=4, quantisers=2)),
}


def made(name):
    """Return (packaged model, raw examples, labels or None), a function of the name."""
    with fixed_noise(sum(map(ord, name))):
        model, preprocessing, raw = GOLDEN[name]()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    names = NAMES if model.num_classes else ()
    labels = torch.tensor([0, 1, 2, 0, 1, 2])[: len(raw)] if model.num_classes else None
    return PackagedModel(model, preprocessing, names).eval(), raw, labels


@torch.no_grad()
def numbers(packaged, raw, labels):
    """Return what the model says about raw examples: posterior means, decodings of them, and the ELBO's terms there."""
    model = packaged.model
    x = packaged.preprocessing.expected(torch.as_tensor(raw))
    x = x.round() if isinstance(packaged.preprocessing, Binarise) else x
    posterior, y = model.encode(x, labels), labels if model.labels_reach_networks else None
    z = posterior.mean
    found = {"encode": z, "decode": model.expectation(model.decode(z, y)), "likelihood": model.decode(z, y).log_prob(x)}
    with fixed_noise(0):  # a second stage estimates its density by draws
        found["prior"] = model.prior(labels if model.num_classes else None).log_prob(z)
    if has_density(posterior) and not isinstance(posterior, WithMomentum):  # which is known at its own draws only
        found["posterior"] = posterior.log_prob(z)
        found["elbo"] = found["likelihood"] + found["prior"] - found["posterior"]
    return {key: value.double().flatten().tolist() for key, value in found.items()}


def stored(folder):
    """Return the numbers beside a golden model folder."""
    return json.loads((folder / "numbers.json").read_text())


def run_data():
    """Return the data of the golden run: they came from an array, and have to be given again."""
    dice = np.random.default_rng(0)
    y = dice.integers(0, 3, 60)
    x = dice.random((3, *IMAGE))[y] * 200 + dice.integers(0, 55, (60, *IMAGE))
    return x.astype(np.uint8), y


def run_trees():
    """Return the configuration of the golden run."""
    with fixed_noise(0):
        trees = {"model": to_spec(conditional(DiscretizedLogistic(IMAGE))), "training": to_spec(TRAINING)}
    return trees | {"objective": to_spec(ELBO(schedule=WarmUp(6)))}


def load(folder):
    """Return the model of a golden folder."""
    return load_model(folder, kind="packaged")[0]
