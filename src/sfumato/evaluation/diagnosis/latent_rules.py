"""Findings about the latent variable: is it used, has it noise, does it fill its prior, does the label matter?"""

from __future__ import annotations

from collections.abc import Iterator

from sfumato.evaluation.diagnosis.finding import Finding, error_of
from sfumato.evaluation.diagnosis.symptoms import Settings, Symptoms
from sfumato.evaluation.latents import Latents

ALMOST_NOTHING = 0.02  # nats
ALIVE = 0.1  # nats of KL that a dimension had, to have been in use
INDISPENSABLE = 1.0  # nats of KL of a dimension that could not be spared
UNPAID = 0.05
UNDERPAID, SMALL_SIGMA = 0.5, 0.1
LARGE_SIGMA = 2.0
TOLD, SURELY_TOLD = 0.75, 0.9


def collapse(symptoms: Symptoms) -> Iterator[Finding]:
    """Posterior collapse: of all dimensions, or of some that were in use."""
    measured, settings = symptoms.measured, symptoms.settings
    if measured is None or measured.latents is None or measured.use_of_z is None:
        return
    latents, use = measured.latents, measured.use_of_z
    dims = latents.mean.shape[1]
    smaller = f"{max(1.0, settings.beta) / 4:g}" if settings.beta and settings.beta > 1 else None
    what = f"beta {settings.beta:g} makes every nat of KL dear" if smaller else "a decoder that does well without z"
    options = ("--beta", "1") if smaller else ("--careful",)
    if latents.active_units == 0 or use.value < max(ALMOST_NOTHING, 2 * error_of(use)):
        total = f", the KL is {float(latents.kl.sum()):.3f} nats" if latents.kl is not None else ""
        yield Finding(
            "posterior collapse",
            "problem",
            f"{latents.active_units} of {dims} latent dimensions are active{total}, and the z of another example is as "
            f"good as its own to {use.value:.3f} ± {error_of(use):.3f} nats.",
            f"The posterior equals the prior, so z says nothing about x. Likely cause: {what}.",
            f"Train with {' '.join(options)}.",
            options,
        )
        return
    peaks = symptoms.course.peak_kl
    if latents.kl is None or len(peaks) != dims:
        return
    died = [
        number
        for number, (peak, now) in enumerate(zip(peaks, latents.kl.tolist(), strict=True))
        if peak > ALIVE and now < ALMOST_NOTHING and not bool(latents.active[number])
    ]
    if died:
        yield Finding(
            "collapsed dimensions",
            "warning" if 2 * len(died) >= dims or smaller else "note",
            f"{len(died)} of {dims} latent dimensions were in use (KL above {ALIVE:g} nats) and are idle now (below "
            f"{ALMOST_NOTHING:g}): {some_of(died)}.",
            f"The KL of a dimension is paid only while it saves more in the reconstruction; {what} tips it over.",
            f"Train with {' '.join(options)}, if the ELBO matters less than these dimensions.",
            options,
        )


def noise(symptoms: Symptoms) -> Iterator[Finding]:
    """The noise-free limit, and variances that die or explode."""
    measured, settings = symptoms.measured, symptoms.settings
    if measured is None or measured.latents is None:
        return
    latents, balance = measured.latents, measured.balance
    sigma, active = latents.sigma, latents.active
    typical = None if sigma is None or not bool(active.any()) else float(sigma[active].median())
    if settings.posterior == "Dirac":
        yield _noise_free("The posterior is a point mass: z has no noise at all.", settings)
    elif settings.beta == 0:
        said = "" if typical is None else f" Sigma of the active dimensions is {typical:.3g} (1 is the prior's)"
        paid = "." if balance is None else f", and its noise is paid with {balance:.3f} instead of 1."
        yield _noise_free(f"The weight of the KL term is 0.{said}{paid if said else ''}", settings)
    elif typical is not None and balance is not None and not _free(latents, settings):
        numbers = f"sigma of the active dimensions is {typical:.3g} (1 is the prior's); their noise costs "
        numbers += f"{balance:.3f} of what the KL term would let it cost (1 in balance)"
        if balance < UNPAID:
            yield _noise_free(f"Measured: {numbers}.", settings)
        elif typical < SMALL_SIGMA and balance < UNDERPAID:
            yield Finding(
                "dying variance",
                "warning",
                f"Measured: {numbers}.",
                "The posterior's noise is smaller than the KL term asks for: it is still shrinking, or the weight of "
                "the KL term is too small; it ends as an autoencoder, whose samples are poor.",
                f"Train longer, with the KL weight 1: --beta 1 --steps {2 * settings.steps}."
                if settings.beta == 1
                else "Train with --beta 1.",
                ("--steps", str(2 * settings.steps)) if settings.beta == 1 else ("--beta", "1"),
            )
    if sigma is not None and float(sigma.max()) > LARGE_SIGMA:
        wide = [number for number, value in enumerate(sigma.tolist()) if value > LARGE_SIGMA]
        yield Finding(
            "exploding variance",
            "warning",
            f"The posterior's sigma is up to {float(sigma.max()):.3g} (1 is the prior's), above {LARGE_SIGMA:g} in "
            f"dimensions {some_of(wide)}.",
            "No KL term rewards a posterior that is wider than its prior: that term is missing, too weak, or the "
            "encoder's variance head has run away.",
            f"Train with --beta 1 and a lower rate: --lr {settings.learning_rate / 3:.1g}."
            if settings.beta == 1
            else "Train with --beta 1.",
            ("--lr", f"{settings.learning_rate / 3:.1g}") if settings.beta == 1 else ("--beta", "1"),
        )


def prior_mismatch(symptoms: Symptoms) -> Iterator[Finding]:
    """An aggregate posterior far from the prior, so that samples are worse than reconstructions."""
    measured, settings = symptoms.measured, symptoms.settings
    if measured is None or measured.told is None or measured.worse is None:
        return
    told, worse = measured.told, measured.worse
    if told.value - 2 * error_of(told) < TOLD or worse.value < max(0.01, 2 * error_of(worse)):
        return
    strong = settings.beta is not None and settings.beta < 1
    latent = max(1, settings.latent_dim // 2)
    yield Finding(
        "prior mismatch",
        "problem" if told.value > SURELY_TOLD and worse.value > 0.1 else "warning",
        f"A classifier tells z of the posteriors from z of the prior in {told.value:.0%} ± {error_of(told):.0%} of the "
        f"cases (50 % were equal); samples lie {measured.samples or 0:.3f} from the data, reconstructions "
        f"{measured.reconstructions or 0:.3f} (energy distance, as a fraction of the data's spread).",
        "The decoder never saw much of where samples come from: the posteriors together do not fill the prior.",
        f"Train with {'--beta 1' if strong else f'fewer dimensions, --latent-dim {latent}, or a larger --beta'}; or "
        "take z from encoded examples instead of the prior.",
        ("--beta", "1") if strong else ("--latent-dim", str(latent)),
    )


def ignored_labels(symptoms: Symptoms) -> Iterator[Finding]:
    """A conditional model for which it makes no difference what y is."""
    measured = symptoms.measured
    if measured is None or measured.label_gain is None:
        return
    gain, moves = measured.label_gain, measured.label_moves
    if gain.value > max(ALMOST_NOTHING, 2 * error_of(gain)) and (moves is None or moves > 0.05):
        return
    yield Finding(
        "ignored labels",
        "problem",
        f"The right class instead of another one is worth {gain.value:.3f} ± {error_of(gain):.3f} nats, and a sample "
        f"of which only the class changes moves by {moves or 0:.1%} of the distance between two samples.",
        "Labels do not say anything about these data, or the model gets what they say from x already.",
        "Let the decoder see the class, --condition decoder; or leave the classes out, --no-conditional.",
        ("--condition", "decoder"),
    )


def latent_size(symptoms: Symptoms) -> Iterator[Finding]:
    """Too many or too few latent dimensions."""
    measured, settings, course = symptoms.measured, symptoms.settings, symptoms.course
    if measured is None or measured.latents is None or course.state == "running":
        return
    latents = measured.latents
    active, dims = latents.active_units, latents.mean.shape[1]
    if 0 < active <= 0.75 * dims and dims - active >= 2:
        size = min(dims - 1, active + 1)
        yield Finding(
            "too many latents",
            "note",
            f"{active} of {dims} latent dimensions are active; the others have at most "
            f"{_idle_kl(latents):.2g} nats of KL each.",
            "The data need no more. Idle dimensions cost time and do no other harm.",
            f"--latent-dim {size} is enough.",
            ("--latent-dim", str(size)),
        )
    kl = latents.kl
    if active == dims and kl is not None and float(kl.min()) > INDISPENSABLE and settings.pca_95 > dims:
        yield Finding(
            "too few latents",
            "note",
            f"All {dims} latent dimensions are active, and the least used one has {float(kl.min()):.1f} nats; "
            f"{settings.pca_95} principal components hold 95 % of the variance.",
            "No dimension is idle, so more of them would probably be used.",
            f"Train with --latent-dim {2 * dims}.",
            ("--latent-dim", str(2 * dims)),
        )


def _noise_free(symptom: str, settings: Settings) -> Finding:
    return Finding(
        "noise-free limit",
        "problem",
        symptom,
        "Without a price for small variances the noise dies and the VAE becomes an autoencoder: z of the prior are not "
        "among those that the decoder knows, so samples are poor, and there is no useful bound on log p(x).",
        "Train with --beta 1."
        if settings.posterior != "Dirac"
        else "Train with a DiagonalGaussian posterior and --beta 1.",
        ("--beta", "1"),
    )


def _free(latents: Latents, settings: Settings) -> bool:
    """Whether the KL is no more than what costs nothing: then nothing is paid, and that is no disease."""
    return latents.kl is None or float(latents.kl.sum()) < 1.2 * settings.free_bits


def _idle_kl(latents: Latents) -> float:
    """Return the largest KL of an idle dimension, nats."""
    return 0.0 if latents.kl is None else float(latents.kl[~latents.active].max())


def some_of(numbers: list[int]) -> str:
    """Return the first few numbers, and how many more there are."""
    shown = ", ".join(map(str, numbers[:8]))
    return shown + (f", and {len(numbers) - 8} more" if len(numbers) > 8 else "")
