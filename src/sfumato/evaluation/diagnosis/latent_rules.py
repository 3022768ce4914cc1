"""Findings about the latent variable: is it used, has it noise, does it fill its prior, does the label matter?"""

from __future__ import annotations

from collections.abc import Iterator

from sfumato.evaluation.diagnosis.finding import Finding, error_of
from sfumato.evaluation.diagnosis.symptoms import Measured, Settings, Symptoms
from sfumato.evaluation.latents import Latents

ALMOST_NOTHING = 0.02  # nats
ALIVE = 0.1  # nats of KL that a dimension had, to have been in use
DEAR = 3.0  # a weight from which on idle dimensions are those that it made idle
INDISPENSABLE = 1.0  # nats of KL of a dimension that could not be spared
UNPAID = 0.05
UNDERPAID, SMALL_SIGMA = 0.5, 0.1
LARGE_SIGMA = 2.0
HARDLY = 0.1  # nats that a label is worth; part of the distance between samples that it moves one
TOLD = 0.6  # accuracy of a classifier from which on z of the prior are others: a fifth of them
STRAY, MOSTLY_STRAY = 0.15, 0.5  # of the samples, where 0.05 is nothing unusual
EMPTY, LEAST_GAP = 0.2, 1.0  # of the rate, and nats, that only say how far the codes are from the prior


def collapse(symptoms: Symptoms) -> Iterator[Finding]:
    """Posterior collapse: of all dimensions, or of some that were in use."""
    measured, settings = symptoms.measured, symptoms.settings
    if measured is None or measured.latents is None or measured.use_of_z is None:
        return
    latents, use = measured.latents, measured.use_of_z
    dims = latents.mean.shape[1]
    beta = settings.beta or 0.0
    what = f"beta {beta:g}, a high price of every nat of KL" if beta > 1 else "a decoder that does well without z"
    options = ("--beta", "1") if beta > 1 else ("--careful",)
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
    idle = dims - latents.active_units
    if beta >= DEAR and 2 * idle >= dims:
        yield Finding(
            "collapsed dimensions",
            "warning",
            f"{idle} of {dims} latent dimensions are idle, and beta is {beta:g}.",
            f"The KL of a dimension is paid only while it saves as much in the reconstruction. Likely cause: {what}.",
            "Train with --beta 1, unless few dimensions are what you want.",
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
            "warning" if 2 * len(died) >= dims or beta > 1 else "note",
            f"{len(died)} of {dims} latent dimensions were in use (KL above {ALIVE:g} nats) and are idle now (below "
            f"{ALMOST_NOTHING:g}): {some_of(died)}.",
            f"The KL of a dimension is paid only while it saves as much in the reconstruction. Likely cause: {what}.",
            f"Train with {' '.join(options)}, if the ELBO matters less than these dimensions.",
            options,
        )


def noise(symptoms: Symptoms) -> Iterator[Finding]:
    """The noise-free limit, and a variance that is on its way there."""
    measured, settings = symptoms.measured, symptoms.settings
    latents = measured.latents if measured is not None else None
    balance = measured.balance if measured is not None else None
    typical = _typical_sigma(latents)
    words = "" if typical is None else f"sigma of the active dimensions is {typical:.3g} (1 is the prior's)"
    if words and balance is not None:
        words += f"; their noise costs {balance:.3f} of what a KL weight of 1 would let it cost"
    if settings.posterior == "Dirac":
        yield _noise_free("The posterior is a point mass: z has no noise, sigma is 0 (1 is the prior's).", settings)
    elif settings.beta == 0:
        yield _noise_free("The weight of the KL term is 0" + (f": {words}." if words else "."), settings)
    elif latents is None or typical is None or balance is None or _free(latents, settings):
        return
    elif balance < UNPAID:
        yield _noise_free(f"Measured: {words}.", settings)
    elif typical < SMALL_SIGMA and balance < UNDERPAID:
        do, options = _full_price(settings)
        yield Finding(
            "dying variance",
            "warning",
            f"Measured: {words}.",
            "The posterior's noise is smaller than the ELBO asks for: it is still shrinking, or the weight of the KL "
            "term is too small. It ends as an autoencoder, whose samples are poor.",
            do,
            options,
        )


def wide(symptoms: Symptoms) -> Iterator[Finding]:
    """A variance that explodes."""
    measured, settings = symptoms.measured, symptoms.settings
    sigma = None if measured is None or measured.latents is None else measured.latents.sigma
    if sigma is None or float(sigma.max()) <= LARGE_SIGMA:
        return
    numbers = [number for number, value in enumerate(sigma.tolist()) if value > LARGE_SIGMA]
    lower = f"{settings.learning_rate / 3:.1g}"
    right = settings.beta == 1
    yield Finding(
        "exploding variance",
        "warning",
        f"The posterior's sigma is up to {float(sigma.max()):.3g} (1 is the prior's), above {LARGE_SIGMA:g} in "
        f"dimensions {some_of(numbers)}.",
        "No KL term rewards a posterior that is wider than its prior: that term is missing, too weak, or the encoder's "
        "variance head has run away.",
        f"Train with a lower rate: --lr {lower}." if right else "Train with --beta 1.",
        ("--lr", lower) if right else ("--beta", "1"),
    )


def prior_mismatch(symptoms: Symptoms) -> Iterator[Finding]:
    """An aggregate posterior that is not the prior: bad where samples show it, else nats that could be saved."""
    measured, settings = symptoms.measured, symptoms.settings
    course = symptoms.course
    if measured is None or measured.told is None or measured.stray is None:
        return
    if course.state == "running" and 2 * course.step < settings.steps:
        return  # every training begins so
    told, strays = measured.told, measured.stray
    sure, lost = (value.value - 2 * error_of(value) for value in (told, strays))
    seen = sure > TOLD and lost > STRAY
    if not seen and not _empty(measured):
        return
    parts = []
    if measured.prior_gap is not None and measured.rate is not None:
        gap, rate = measured.prior_gap, measured.rate
        parts.append(
            f"KL(q(z) || p(z)) is at least {gap.value:,.1f} ± {error_of(gap):.1f} of the {rate.value:,.1f} nats of KL"
        )
    parts.append(f"a classifier tells z of the posteriors from z of the prior in {told.value:.0%} of the cases")
    parts.append(
        f"{strays.value:.0%} ± {error_of(strays):.0%} of the samples are farther from every example than 95 % of the "
        "reconstructions (50 % and 5 % where nothing is wrong)"
    )
    text = ", ".join(parts[:-1]) + f", and {parts[-1]}."
    if settings.beta is not None and settings.beta < 1:
        do, options = "--beta 1", ("--beta", "1")
    elif settings.latent_dim <= 4:
        do, options = f"more --steps, {2 * settings.steps}, or a larger --beta", ("--steps", str(2 * settings.steps))
    else:
        latent = str(settings.latent_dim // 2)
        do, options = f"fewer dimensions, --latent-dim {latent}, or a larger --beta", ("--latent-dim", latent)
    yield Finding(
        "prior mismatch",
        "note" if not seen else "problem" if lost > MOSTLY_STRAY else "warning",
        text[0].upper() + text[1:],
        "The posteriors together do not fill the prior, and the decoder never saw what lies between them."
        if seen
        else "The posteriors together do not fill the prior. Samples hardly suffer, but the ELBO pays these nats.",
        f"Train with {do}; or take z from encoded examples instead of the prior.",
        options,
    )


def ignored_labels(symptoms: Symptoms) -> Iterator[Finding]:
    """A conditional model for which it makes no difference what y is."""
    measured = symptoms.measured
    if measured is None or measured.label_gain is None:
        return
    gain, moves = measured.label_gain, measured.label_moves
    heard = gain.value > 2 * error_of(gain)
    if heard and gain.value > HARDLY and (moves is None or moves > HARDLY):
        return
    yield Finding(
        "ignored labels",
        "warning" if heard and gain.value > ALMOST_NOTHING else "problem",
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
    if 0 < active <= 0.75 * dims and dims - active >= 2 and not (settings.beta or 0) >= DEAR:
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
    do, options = _full_price(settings)
    if settings.posterior == "Dirac":
        do = "Train with a DiagonalGaussian posterior and --beta 1."
    return Finding(
        "noise-free limit",
        "problem",
        symptom,
        "Without a price for small variances the noise dies and the VAE becomes an autoencoder: z of the prior are not "
        "among those that the decoder knows, so samples are poor, and there is no useful bound on log p(x).",
        do,
        options,
    )


def _full_price(settings: Settings) -> tuple[str, tuple[str, ...]]:
    """Return what makes the KL term count, in words and as an option: the weight 1, or more time where it is 1."""
    if settings.beta == 1 and settings.posterior != "Dirac":
        longer = str(2 * settings.steps)
        return f"The KL weight is 1 already, so the variance has not settled: train longer, --steps {longer}.", (
            "--steps",
            longer,
        )
    return "Train with --beta 1.", ("--beta", "1")


def _typical_sigma(latents: Latents | None) -> float | None:
    """Return the median sigma of the active dimensions."""
    if latents is None or latents.sigma is None or not bool(latents.active.any()):
        return None
    return float(latents.sigma[latents.active].median())


def _free(latents: Latents, settings: Settings) -> bool:
    """Whether the KL is no more than what costs nothing: then nothing is paid, and that is no disease."""
    return latents.kl is None or float(latents.kl.sum()) < 1.2 * settings.free_bits


def _empty(measured: Measured) -> bool:
    """Whether much of the rate surely is KL(q(z) || p(z)), which says nothing about x."""
    gap, rate = measured.prior_gap, measured.rate
    return gap is not None and rate is not None and gap.value - 2 * error_of(gap) > max(LEAST_GAP, EMPTY * rate.value)


def _idle_kl(latents: Latents) -> float:
    """Return the largest KL of an idle dimension, nats."""
    return 0.0 if latents.kl is None else float(latents.kl[~latents.active].max())


def some_of(numbers: list[int]) -> str:
    """Return the first few numbers, and how many more there are."""
    shown = ", ".join(map(str, numbers[:8]))
    return shown + (f", and {len(numbers) - 8} more" if len(numbers) > 8 else "")
