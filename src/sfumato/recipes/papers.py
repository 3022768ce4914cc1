"""Papers as recipes: each composes parts, and is reachable as ``sfumato train DATA --recipe NAME``.

A paper says what differs from the plain VAE: the model, the objective, or both. Networks, likelihood, the size of z and
the training are decided from the data as for any other training, so that two papers differ in what they are about.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Likelihood, Network, Objective, Posterior, Prior
from sfumato.core.schedules import Constant, WarmUp
from sfumato.likelihoods import Bernoulli
from sfumato.models import VAE, Model
from sfumato.networks import MLP, Composed, Penalised, SpectralNorm
from sfumato.objectives import (
    DIP,
    ELBO,
    IWAE,
    MMD,
    AdversarialPrior,
    Capacity,
    DensityRatio,
    LearnedSimilarity,
    PerPart,
    PriorEnergy,
    SemiSupervised,
    StructuralSimilarity,
    TotalCorrelation,
)
from sfumato.posteriors import (
    Dirac,
    FlowPosterior,
    Hamiltonian,
    PoincareGaussian,
    RiemannianHamiltonian,
    VectorQuantiser,
    VonMisesFisher,
)
from sfumato.priors import Exemplar, Flow, GaussianMixture, PoincareNormal, StandardNormal, UniformSphere, VampPrior
from sfumato.recipes.ladder import build_ladder
from sfumato.recipes.networks import Recipe
from sfumato.recipes.vae import Condition, build_vae

FREE_BITS = 0.1  # nats for each latent dimension, when careful
WARM, WARM_CAREFUL = 1, 3  # tenths of the steps
COMPONENTS = 500  # of a VampPrior
NEAREST = 10  # exemplars that an example chooses
CENTROIDS = 100  # of a learned metric


@dataclass(frozen=True)
class Setting:
    """What a paper's model and objective are made for.

    Args:
        likelihood: p(x | z), decided from the data.
        latent_dim: dimensions of z.
        networks: the encoder's and the decoder's.
        frequencies: p(y) of each class; empty where there are none, or where they are not used.
        condition: who sees y besides the prior.
        examples: in the training split.
        steps: of the training.
        beta: the weight of the paper's KL term, or of what takes its place.
        careful: free bits and a longer warm-up, for those whose objective is the ELBO.
    """

    likelihood: Likelihood
    latent_dim: int
    networks: Recipe
    frequencies: tuple[float, ...]
    condition: Condition
    examples: int
    steps: int
    beta: float
    careful: bool = False


# --- models ---


def plain(setting: Setting) -> Model:
    """Return the VAE that papers about objectives train."""
    parts = (setting.networks, setting.likelihood, setting.latent_dim)
    return build_vae(*parts, setting.frequencies, setting.condition)


def assembled(
    setting: Setting,
    prior: Prior | None = None,
    posterior: Posterior | None = None,
    decoder: Callable[[Network], Network] | None = None,
) -> Model:
    """Return the VAE without classes, with other parts where some are given.

    Args:
        setting: for what.
        prior: p(z), by default N(0, I).
        posterior: q(z | x), by default Gaussian.
        decoder: makes another network of the usual one.
    """
    networks, likelihood, latent_dim = setting.networks, setting.likelihood, setting.latent_dim
    posterior = posterior or networks.posterior(likelihood.shape, latent_dim, 0)
    usual = networks.decoder(posterior.latent_shape, likelihood.parameter_shape, 0)
    generator = decoder(usual) if decoder else usual
    return VAE(prior or StandardNormal(latent_dim), posterior, generator, likelihood)


def encoder(setting: Setting, *shape: int) -> Network:
    """Return a network from x to numbers of ``shape``, for posteriors with other numbers than the usual ones."""
    trunk = setting.networks.trunk
    if trunk is None:
        raise UserError(f"this recipe needs networks with features to share; {setting.networks.name} has none.")
    features = trunk(setting.likelihood.shape, 0)
    return Composed(features, MLP(features.out_shape, shape, hidden=()))


def autoencoder(setting: Setting, decoder: Callable[[Network], Network] | None = None) -> Model:
    """Return the model whose posterior is a point."""
    return assembled(setting, posterior=Dirac(encoder(setting, setting.latent_dim)), decoder=decoder)


def flow_posterior(setting: Setting, kind: str) -> Model:
    """Return the model whose posterior a flow bends; the maps depend on x through features of their own."""
    base = setting.networks.posterior(setting.likelihood.shape, setting.latent_dim, 0)
    context = encoder(setting, 2 * setting.latent_dim)
    return assembled(setting, posterior=FlowPosterior(base, kind, context=context))  # type: ignore[arg-type]


def sphere(setting: Setting) -> Model:
    """Return the model whose z is a direction."""
    posterior = VonMisesFisher(encoder(setting, setting.latent_dim + 1))
    return assembled(setting, UniformSphere(setting.latent_dim), posterior)


def ball(setting: Setting) -> Model:
    """Return the model whose z lies in hyperbolic space."""
    return assembled(
        setting, PoincareNormal(setting.latent_dim), PoincareGaussian(encoder(setting, 2, setting.latent_dim))
    )


def quantised(setting: Setting, quantisers: int) -> Model:
    """Return the model whose z is made of codes: 4 numbers each where the size of z is a multiple of 4."""
    channels = math.gcd(4, setting.latent_dim)
    shape = (channels, setting.latent_dim // channels)
    posterior = VectorQuantiser(encoder(setting, *shape), codes=min(512, setting.examples), quantisers=quantisers)
    return assembled(setting, StandardNormal(shape), posterior)


def hamiltonian(setting: Setting) -> Model:
    """Return the model whose posterior follows the gradient of the joint density."""
    base = setting.networks.posterior(setting.likelihood.shape, setting.latent_dim, 0)
    return assembled(setting, posterior=Hamiltonian(base))


def riemannian(setting: Setting) -> Model:
    """Return the same in a space whose metric is learned, from as many examples as there are, or 100."""
    shape, dim = setting.likelihood.shape, setting.latent_dim
    base, metric = setting.networks.posterior(shape, dim, 0), encoder(setting, dim, dim)
    return assembled(setting, posterior=RiemannianHamiltonian(base, metric, shape, min(CENTROIDS, setting.examples)))


def vamp_prior(setting: Setting) -> Model:
    """Return the model whose prior is a mixture of posteriors, of as many as there are examples at the most."""
    components = min(COMPONENTS, setting.examples)
    return assembled(setting, VampPrior(setting.latent_dim, setting.likelihood.shape, components))


def exemplar_prior(setting: Setting) -> Model:
    """Return the model whose prior is a mixture around the codes of the training examples."""
    drawn = isinstance(setting.likelihood, Bernoulli)
    shape, examples = setting.likelihood.shape, setting.examples
    return assembled(setting, Exemplar(setting.latent_dim, shape, examples, nearest=NEAREST, drawn=drawn))


def seen_by_both(setting: Setting) -> Model:
    """Return the model of M2: N(0, I), and y beside x and beside z."""
    if not setting.frequencies:
        raise UserError("recipe m2 needs classes, some of them known. Give labels, -1 where unknown.")
    shape, classes = setting.likelihood.shape, len(setting.frequencies)
    posterior = setting.networks.posterior(shape, setting.latent_dim, classes)
    decoder = setting.networks.decoder((setting.latent_dim,), setting.likelihood.parameter_shape, classes)
    return VAE(StandardNormal(setting.latent_dim), posterior, decoder, setting.likelihood)


# --- objectives ---


def elbo(setting: Setting) -> Objective:
    """Return the ELBO, whose KL term warms up over the first tenth of the training, or three tenths when careful."""
    warm = setting.steps * (WARM_CAREFUL if setting.careful else WARM) // 10
    free_bits = round(FREE_BITS * setting.latent_dim, 6) if setting.careful else 0.0
    return ELBO(beta=setting.beta, free_bits=free_bits, schedule=WarmUp(warm) if warm else Constant())


def reconstruction(setting: Setting) -> Objective:
    """Return -log p(x | z), and the penalties of the model's parts."""
    return ELBO(beta=0.0)


def capacity(setting: Setting) -> Objective:
    """Return beta |KL - C(t)|, C rising to 25 nats over the first half of the training."""
    half = setting.steps // 2
    return reconstruction(setting) + setting.beta * Capacity(25.0, WarmUp(half) if half else Constant())


def discriminator(setting: Setting) -> Network:
    """Return a network from z to the logit of a probability."""
    return MLP((setting.latent_dim,), (1,))


def learned_similarity(setting: Setting) -> Objective:
    """Return the KL term, and distances in the features of a discriminator of images."""
    features = MLP(setting.likelihood.shape, (256,), (512,), activate_output=True)
    similarity = LearnedSimilarity(features, MLP((256,), (1,), hidden=()))
    return ELBO(beta=setting.beta, reconstruction=0.0) + similarity


def structure(setting: Setting) -> Objective:
    """Return the KL term and beta times the loss of structural similarity, at as many scales as the images allow."""
    shape = setting.likelihood.shape
    side = min(shape[-2:]) if len(shape) == 3 else 0
    if side < 8:
        raise UserError(f"recipe msssim-vae needs images of at least 8 pixels a side; the data have {shape}.")
    sigma, reach = (1.5, 10) if side > 20 else (0.5, 4)
    scales = min(5, 1 + int(math.log2((side - 1) / reach)))
    return ELBO(reconstruction=0.0) + setting.beta * StructuralSimilarity(scales, sigma)


def semi_supervised(setting: Setting) -> Objective:
    """Return the bounds of M2 and the classifier's loss, weighted as in the paper, a tenth of the examples."""
    classifier = MLP(setting.likelihood.shape, (max(2, len(setting.frequencies)),))
    return SemiSupervised(classifier, weight=0.1 * setting.examples)


@dataclass(frozen=True)
class Paper:
    """What a paper says.

    Args:
        about: in a few words.
        reference: Authors, year, where.
        model: makes the model.
        objective: makes the objective.
        beta: the weight of the KL term, or what takes its place, unless another is asked for; None: there is none.
        likelihood: that the paper is about; None: decided from the data.
        afterwards: the kind of prior that is fitted when the training is over, of
            :func:`~sfumato.evaluation.fit_prior`; empty for none.
    """

    about: str
    reference: str
    model: Callable[[Setting], Model] = plain
    objective: Callable[[Setting], Objective] = elbo
    beta: float | None = 1.0
    likelihood: str | None = None
    afterwards: str = ""


def regularised(decoder: str, change: Callable[[Network], Network]) -> Paper:
    """Return the regularised autoencoder with that kind of ``decoder``, which ``change`` makes of the usual one."""
    return Paper(
        f"no noise, small codes, {decoder}",
        "Ghosh et al., 2020, arXiv:1903.12436",
        lambda setting: autoencoder(setting, change),
        lambda setting: reconstruction(setting) + setting.beta * PriorEnergy(),
        1e-2,
    )


PAPERS: dict[str, Paper] = {
    "vae": Paper("N(0, I), a Gaussian posterior, the ELBO", "Kingma and Welling, 2014, arXiv:1312.6114"),
    "ae": Paper("no noise, no prior", "Hinton and Salakhutdinov, 2006, Science", autoencoder, reconstruction, None),
    "sigma-vae": Paper(
        "a Gaussian likelihood with the best variance", "Rybkin et al., 2021, arXiv:2006.13202", likelihood="gaussian"
    ),
    # the weight of the KL, and disentanglement
    "beta-vae": Paper("the KL term times beta, by default 4", "Higgins et al., 2017, ICLR", beta=4.0),
    "disentangled-beta-vae": Paper(
        "beta |KL - C|, C rising to 25 nats; beta 1,000",
        "Burgess et al., 2018, arXiv:1804.03599",
        objective=capacity,
        beta=1000.0,
    ),
    "factor-vae": Paper(
        "beta times the total correlation, by a discriminator; beta 35",
        "Kim and Mnih, 2018, arXiv:1802.05983",
        objective=lambda setting: ELBO() + setting.beta * DensityRatio(discriminator(setting)),
        beta=35.0,
    ),
    "beta-tc-vae": Paper(
        "the total correlation counts beta times, by default 6",
        "Chen et al., 2018, arXiv:1802.04942",
        objective=lambda setting: ELBO() + (setting.beta - 1) * TotalCorrelation(setting.examples),
        beta=6.0,
    ),
    "dip-vae": Paper(
        "beta times what the covariance of the codes lacks to I",
        "Kumar et al., 2018, arXiv:1711.00848",
        objective=lambda setting: ELBO() + setting.beta * DIP(),
    ),
    # several samples
    "iwae": Paper(
        "the importance-weighted bound of 50 samples",
        "Burda et al., 2016, arXiv:1509.00519",
        objective=lambda setting: IWAE(samples=50),
        beta=None,
    ),
    "miwae": Paper(
        "the mean of 5 bounds of 10 samples",
        "Rainforth et al., 2018, arXiv:1802.04537",
        objective=lambda setting: IWAE(samples=10, outer=5),
        beta=None,
    ),
    "ciwae": Paper(
        "half the ELBO, half the bound of 10 samples",
        "Rainforth et al., 2018, arXiv:1802.04537",
        objective=lambda setting: 0.5 * ELBO(samples=10) + 0.5 * IWAE(samples=10),
        beta=None,
    ),
    "piwae": Paper(
        "8 bounds of 8 for the encoder, one of 64 for the decoder",
        "Rainforth et al., 2018, arXiv:1802.04537",
        objective=lambda setting: PerPart(encoder=IWAE(samples=8, outer=8), decoder=IWAE(samples=64)),
        beta=None,
    ),
    "miwae-missing": Paper(
        "tables with missing cells: the bound of 20 samples on what is there",
        "Mattei and Frellsen, 2019, arXiv:1812.02633",
        objective=lambda setting: IWAE(samples=20),
        beta=None,
        likelihood="mixed",
    ),
    # other priors
    "vampprior": Paper(
        "the prior is a mixture of posteriors at 500 learned inputs",
        "Tomczak and Welling, 2018, arXiv:1705.07120",
        vamp_prior,
    ),
    "exemplar": Paper(
        "the prior is a mixture around the codes of the training examples",
        "Norouzi et al., 2020, arXiv:2004.04795",
        exemplar_prior,
    ),
    "flow-prior": Paper(
        "the prior is a normalising flow (RealNVP)",
        "Dinh et al., 2017, arXiv:1605.08803",
        lambda setting: assembled(setting, Flow(setting.latent_dim)),
    ),
    "mixture-prior": Paper(
        "the prior is a mixture of ten normals",
        "Dilokthanakul et al., 2016, arXiv:1611.02648",
        lambda setting: assembled(setting, GaussianMixture(setting.latent_dim)),
    ),
    "two-stage-vae": Paper(
        "a second VAE, of the z of the first, becomes the prior",
        "Dai and Wipf, 2019, arXiv:1903.05789",
        likelihood="gaussian",
        afterwards="second-stage",
    ),
    # other posteriors
    "vae-linnf": Paper(
        "planar flows on the posterior",
        "Rezende and Mohamed, 2015, arXiv:1505.05770",
        lambda setting: flow_posterior(setting, "planar"),
    ),
    "vae-iaf": Paper(
        "inverse autoregressive flows on the posterior",
        "Kingma et al., 2016, arXiv:1606.04934",
        lambda setting: flow_posterior(setting, "iaf"),
    ),
    "hvae": Paper(
        "the posterior follows the gradient of the joint, 3 steps",
        "Caterini et al., 2018, arXiv:1805.11328",
        hamiltonian,
    ),
    "rhvae": Paper(
        "Hamiltonian steps in a space whose metric is learned",
        "Chadebec et al., 2020, arXiv:2010.11518",
        riemannian,
    ),
    "s-vae": Paper(
        "z on a sphere, von Mises and Fisher's posterior", "Davidson et al., 2018, arXiv:1804.00891", sphere
    ),
    "poincare-vae": Paper(
        "z in hyperbolic space, where trees have room", "Mathieu et al., 2019, arXiv:1901.06033", ball
    ),
    "lvae": Paper(
        "five levels of z above each other",
        "Sonderby et al., 2016, arXiv:1602.02282",
        lambda setting: build_ladder(setting.likelihood, setting.latent_dim, 5, setting.frequencies),
    ),
    "vq-vae": Paper(
        "z of entries of a learned list, then a prior over them",
        "van den Oord et al., 2017, arXiv:1711.00937",
        lambda setting: quantised(setting, 1),
        reconstruction,
        None,
        afterwards="codes",
    ),
    "hrq-vae": Paper(
        "z of sums of entries of three lists, then a prior over them",
        "Hosking et al., 2022, arXiv:2203.03463",
        lambda setting: quantised(setting, 3),
        reconstruction,
        None,
        afterwards="codes",
    ),
    # other distances to the prior
    "wae-mmd": Paper(
        "no noise, beta times the kernel distance of the codes to the prior; beta 10",
        "Tolstikhin et al., 2018, arXiv:1711.01558",
        autoencoder,
        lambda setting: reconstruction(setting) + setting.beta * MMD(),
        10.0,
    ),
    "info-vae": Paper(
        "the ELBO and beta - 1 times the kernel distance; beta 10",
        "Zhao et al., 2019, arXiv:1706.02262",
        objective=lambda setting: ELBO() + (setting.beta - 1) * MMD("rbf"),
        beta=10.0,
    ),
    "aae": Paper(
        "no KL, beta times an adversary that knows the prior",
        "Makhzani et al., 2016, arXiv:1511.05644",
        objective=lambda setting: reconstruction(setting) + setting.beta * AdversarialPrior(discriminator(setting)),
    ),
    "rae-l2": regularised("small weights of the decoder", lambda network: Penalised(network, weights=1e-6)),
    "rae-gp": regularised("a decoder of small slope", lambda network: Penalised(network, gradient=1e-3)),
    "rae-sn": regularised("a decoder whose layers stretch nothing", SpectralNorm),
    # other distances between images
    "vae-gan": Paper(
        "distances in the features of a discriminator, and its verdict",
        "Larsen et al., 2016, arXiv:1512.09300",
        objective=learned_similarity,
    ),
    "msssim-vae": Paper(
        "beta times the loss of structural similarity, by default 100",
        "Snell et al., 2017, arXiv:1511.06409",
        objective=structure,
        beta=100.0,
        likelihood="logistic",
    ),
    # labels
    "m2": Paper(
        "some labels are known: every class is tried where not",
        "Kingma et al., 2014, arXiv:1406.5298",
        seen_by_both,
        semi_supervised,
        None,
    ),
}
