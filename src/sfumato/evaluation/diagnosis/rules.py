"""From symptoms to findings. Pure: the same symptoms give the same findings, with the numbers that were measured.

The limits are judgements, chosen so that a run which is known to have the disease is named and one that has not is not;
the tests hold both. A difference counts when it is more than two standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from sfumato.evaluation.diagnosis.finding import SEVERITIES, Finding, error_of
from sfumato.evaluation.diagnosis.latent_rules import collapse, ignored_labels, latent_size, noise, prior_mismatch, wide
from sfumato.evaluation.diagnosis.symptoms import Course, Settings, Symptoms

UNUSUAL = 30.0
CLOSE = 0.02
OVERFIT = 0.02
STILL_RISING, LEAST_GAIN = 0.01, 0.1  # of all that was gained; nats
TOO_EARLY = 0.1  # of the steps
RECENT = 5
USUAL_RATE, FAR_RATE = 1e-3, 20.0  # of Adam: A Method for Stochastic Optimization, Kingma and Ba, 2015
SETTLED = 2.0  # quotient of a learned variance and the error that it should be
COPIED = 0.1  # of the validation and test examples
SHIFTED = 0.6  # accuracy of telling validation from training examples

Rule = Callable[[Symptoms], Iterator[Finding]]


def diagnose(symptoms: Symptoms) -> list[Finding]:
    """Return what follows from ``symptoms``, the worst first; nothing for a healthy run."""
    course, measured = symptoms.course, symptoms.measured
    if (
        course.state != "finished"
        and course.step < TOO_EARLY * symptoms.settings.steps
        and measured
        and measured.finite
    ):
        symptoms = replace(symptoms, measured=None)  # a model that has hardly begun has every disease
    found = [finding for rule in RULES for finding in rule(symptoms)]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def broken_numbers(symptoms: Symptoms) -> Iterator[Finding]:
    """Non-finite weights, numbers and steps."""
    course, settings, measured = symptoms.course, symptoms.settings, symptoms.measured
    lower = f"{settings.learning_rate / 10:g}"
    cure = f"Train with a lower rate: --lr {lower}; and look for extreme values: sfumato inspect DATA."
    if measured is not None and not measured.finite:
        yield Finding(
            "non-finite weights",
            "problem",
            "Weights of the model are NaN or infinite.",
            "A step with a number that was not finite was taken over into the weights.",
            cure,
            ("--lr", lower),
        )
    if course.broken or course.recoveries:
        yield Finding(
            "non-finite steps",
            "problem" if course.broken else "warning",
            f"{course.broken} lines of the metrics hold a number that is not finite, and training went back to an "
            f"earlier checkpoint {course.recoveries} times, in {course.step:,} steps.",
            f"The learning rate {settings.learning_rate:g} is too high here, or the data hold extreme values.",
            cure,
            ("--lr", lower),
        )
    elif course.skipped:
        share = course.skipped / max(1, course.step)
        yield Finding(
            "skipped steps",
            "warning" if share > 0.01 else "note",
            f"{course.skipped:,} of {course.step:,} steps ({share:.2%}) went wrong and changed nothing.",
            "Their loss was not finite, or their gradient was far larger than those before.",
            f"Many of them ask for a lower rate: --lr {lower}." if share > 0.01 else "So few do no harm.",
            ("--lr", lower) if share > 0.01 else (),
        )


def learning_rate(symptoms: Symptoms) -> Iterator[Finding]:
    """A rate that made the model worse than a fresh one, or one that is far from those that work."""
    course, settings = symptoms.course, symptoms.settings
    rate = settings.learning_rate
    first, *later = [value for _, value in course.elbo] or [0.0]
    # else what was trained is not the ELBO, which may well fall
    weighed = settings.objective == "ELBO" and 0.5 <= (settings.beta or 0.0) <= 2
    diverged = weighed and len(later) > 1 and max(later) < first
    if not diverged and rate <= FAR_RATE * USUAL_RATE:
        return
    lower = f"{min(rate / 10, USUAL_RATE):g}"
    if diverged:
        symptom = (
            f"No evaluation was better than that of fresh weights, {first:,.1f} nats; the last was {later[-1]:,.4g}."
        )
    else:
        symptom = f"The learning rate is {rate:g}, {rate / USUAL_RATE:,.0f} times the usual {USUAL_RATE:g} of Adam."
    yield Finding(
        "learning rate too high",
        "problem" if diverged else "warning",
        symptom,
        "Steps of this length jump over what they should descend: units die, and what was learned is lost again.",
        f"Train with --lr {lower}.",
        ("--lr", lower),
    )


def splits(symptoms: Symptoms) -> Iterator[Finding]:
    """Splits that share examples, or are not of one kind: then no number of the evaluation means what it says."""
    settings, measured = symptoms.settings, symptoms.measured
    if settings.crossing:
        share = settings.crossing / max(1, settings.held_out)
        yield Finding(
            "examples in several splits",
            "problem" if share > COPIED else "warning" if share > 0.1 * COPIED else "note",
            f"{settings.crossing:,} examples lie in more than one split, beside {settings.held_out:,} validation and "
            f"test examples ({share:.1%}).",
            "The model has seen what it is judged by, so the numbers are too good.",
            "Let the data be split anew, duplicates together: give one array or folder, without splits of its own.",
        )
    shift = None if measured is None else measured.shift
    if shift is not None and shift.value - 3 * error_of(shift) > SHIFTED:
        yield Finding(
            "splits differ",
            "problem" if shift.value > 0.9 else "warning",
            f"A classifier tells validation from training examples in {shift.value:.0%} ± {error_of(shift):.0%} of the "
            "cases; in splits that were drawn at random it is 50 %.",
            "They are of different kinds, classes, times or scales, so the ELBO on one says little about the other.",
            "Look at both splits (sfumato inspect DATA), or let them be drawn at random: --split 0.8,0.1,0.1 on one "
            "array or folder.",
        )


def grey_bernoulli(symptoms: Symptoms) -> Iterator[Finding]:
    """Cross-entropy of values that are not 0 or 1."""
    measured = symptoms.measured
    if measured is None or not measured.between:
        return
    yield Finding(
        "Bernoulli on grey values",
        "problem",
        f"{measured.between:.1%} of the values that the Bernoulli likelihood is given lie strictly between 0 and 1.",
        "A Bernoulli variable is 0 or 1. The cross-entropy of grey values is no likelihood: its numbers are not nats, "
        "and its decoder cannot say how sure it is.",
        "Draw 0 and 1 from them, --binarise dynamic, or score all levels, --likelihood logistic.",
        ("--binarise", "dynamic"),
    )


def scales(symptoms: Symptoms) -> Iterator[Finding]:
    """Means taken for sums, a KL weight far from 1, a fixed decoder variance that is far off."""
    settings, measured = symptoms.settings, symptoms.measured
    beta = settings.beta
    if beta and not 1 / 3 < beta < 3:
        match = reduction_factor(beta, settings)
        if match:
            yield Finding(
                "mean and sum mixed up",
                "problem",
                f"beta is {beta:g}, which is {match}.",
                "A loss that is averaged over dimensions or examples needs such a weight; ours is a sum over both, in "
                "nats, and needs none.",
                "Train with --beta 1; sfumato units converts a weight from a paper or a repository.",
                ("--beta", "1"),
            )
        elif not 1 / UNUSUAL < beta < UNUSUAL:
            yield Finding(
                "unusual KL weight",
                "warning",
                f"beta is {beta:g}; in nats the ELBO has 1, and published values reach from about 0.1 to 20.",
                "Weights that far from 1 mostly come from a loss that was averaged over dimensions.",
                "sfumato units says what a weight amounts to here; --beta 1 is the ELBO.",
                ("--beta", "1"),
            )
    if measured is None or measured.misfit is None:
        return
    if settings.variance != "fixed":
        yield from _unsettled(measured.misfit, symptoms)
    elif not 0.2 < measured.misfit < 5:
        weight = 1 / max(measured.misfit, 1e-12)
        size = f"{weight:,.3g} times as large as" if weight > 1 else f"{1 / weight:,.3g} times smaller than"
        yield Finding(
            "decoder variance off",
            "problem" if not 0.05 < measured.misfit < 20 else "warning",
            f"The fixed variance of the decoder is {size} the mean squared error (quotient {measured.misfit:.3g}).",
            f"Beside a calibrated decoder this is a KL weight of {weight:,.3g}: a wrong variance is a hidden beta.",
            "Let the variance be learned: --likelihood gaussian (variance shared), without a fixed one in --config.",
            ("--likelihood", "gaussian"),
        )


def _unsettled(misfit: float, symptoms: Symptoms) -> Iterator[Finding]:
    """A learned decoder variance that has not come down to the error."""
    if misfit > 1 / SETTLED or symptoms.course.state == "running":
        return
    longer = str(4 * symptoms.settings.steps)
    yield Finding(
        "decoder variance not settled",
        "warning",
        f"The learned variance of the decoder is still {1 / max(misfit, 1e-12):,.3g} times the mean squared error.",
        f"It moves by about the learning rate a step, and {symptoms.settings.steps:,} steps were too few; until it is "
        "there it weighs the KL too much, and dimensions die.",
        f"Train longer: --steps {longer}, or with a higher --lr.",
        ("--steps", longer),
    )


def reduction_factor(beta: float, settings: Settings) -> str:
    """Return in words the factor between two reductions that ``beta`` equals within 2 %, or "".

    >>> settings = Settings("ELBO", "Bernoulli", None, "DiagonalGaussian", 1.0, 0.0, 784, 20, 128, 60_000, 100, 1e-3)
    >>> reduction_factor(1 / 784, settings)
    '1 / 784, one over the values of an example'
    """
    dims, latent, batch, train = settings.dims, settings.latent_dim, settings.batch_size, settings.train
    factors = (
        (1 / dims, f"1 / {dims:,}, one over the values of an example"),
        (latent / dims, f"{latent} / {dims:,}, latent dimensions over values"),
        (batch / train, f"{batch} / {train:,}, batch over training examples"),
        (1 / latent, f"1 / {latent}, one over the latent dimensions"),
        (1 / batch, f"1 / {batch}, one over the batch"),
        (1 / train, f"1 / {train:,}, one over the training examples"),
        (float(dims), f"{dims:,}, the values of an example"),
        (dims / latent, f"{dims:,} / {latent}, values over latent dimensions"),
        (float(batch), f"{batch}, the batch"),
    )
    near = [words for factor, words in factors if abs(math.log(beta / factor)) < CLOSE]
    return near[0] if near else ""


def unreached_weight(symptoms: Symptoms) -> Iterator[Finding]:
    """A KL weight that never reached beta, or had not when the kept weights were made."""
    course, settings = symptoms.course, symptoms.settings
    if not settings.beta or course.state == "running":
        return
    if course.weight < 1 and course.state == "stopped":
        yield Finding(
            "KL weight below beta",
            "warning",
            f"It stopped at step {course.step:,} of {settings.steps:,}, where the KL term had {course.weight:.0%} of "
            f"its weight {settings.beta:g}.",
            "It was broken off during the warm-up of the KL term, so what was trained so far is not the ELBO.",
            "Go on with the training: sfumato train --resume RUN.",
        )
    elif course.weight < 1:
        yield Finding(
            "KL weight below beta",
            "problem",
            f"Training ended at step {course.step:,}, where the KL term had {course.weight:.0%} of its weight "
            f"{settings.beta:g}.",
            "The warm-up of the KL term was longer than the training, so what was trained is not the ELBO.",
            f"Go on, or train longer: --steps {2 * settings.steps}.",
            ("--steps", str(2 * settings.steps)),
        )
    elif course.best_weight < 1:
        yield Finding(
            "KL weight below beta",
            "warning",
            f"The weights that were kept are those of step {course.best_step or 0:,}, where the KL term had "
            f"{course.best_weight:.0%} of its weight {settings.beta:g}.",
            "The validation loss was never better than during the warm-up.",
            "Train with a lower rate and more patience: --careful.",
            ("--careful",),
        )


def decoder_variance(symptoms: Symptoms) -> Iterator[Finding]:
    """A Gaussian decoder whose learned variance sits at a bound."""
    measured = symptoms.measured
    if measured is None:
        return
    if measured.at_floor > 0:
        yield Finding(
            "saturated decoder variance",
            "problem" if measured.at_floor > 0.01 else "warning",
            f"{measured.at_floor:.1%} of the decoder's variances are at the lowest value they may take, exp(-14).",
            "Some values are predicted exactly: constant or copied columns, or few levels taken for real numbers. A "
            "density grows there without bound, and its nats mean nothing.",
            "Leave out constant columns (sfumato inspect DATA names them), or use a likelihood with masses: "
            "--likelihood logistic.",
        )
    if measured.at_ceiling > 0:
        yield Finding(
            "saturated decoder variance",
            "problem" if measured.at_ceiling > 0.01 else "warning",
            f"{measured.at_ceiling:.1%} of the decoder's variances are at the highest value they may take, exp(14).",
            "The decoder has given up on these values: their errors are enormous.",
            "Look for extreme values: sfumato inspect DATA; train with a lower --lr.",
        )


def fitting(symptoms: Symptoms) -> Iterator[Finding]:
    """Over- and under-fitting."""
    measured, course, settings = symptoms.measured, symptoms.course, symptoms.settings
    if measured is not None and measured.elbo is not None and measured.train_elbo is not None:
        here, there = measured.train_elbo, measured.elbo
        gap, error = here.value - there.value, math.hypot(error_of(here), error_of(there))
        if gap > max(3 * error, OVERFIT * abs(there.value), 1.0) and not any(splits(symptoms)):
            yield Finding(
                "overfitting",
                "warning",
                f"The ELBO is {here.value:,.1f} ± {error_of(here):.1f} nats on training and {there.value:,.1f} ± "
                f"{error_of(there):.1f} on validation examples: {gap:,.1f} nats better on what it has seen.",
                f"The model knows its {settings.train:,} training examples by heart.",
                f"More data; or a smaller model: --latent-dim {max(1, settings.latent_dim // 2)}, another --recipe.",
                ("--latent-dim", str(max(1, settings.latent_dim // 2))),
            )
    if course.evidence is not None and course.baselines:
        name, best = max(course.baselines.items(), key=lambda item: item[1][0])
        gain, error = course.evidence[0] - best[0], math.hypot(course.evidence[1], best[1])
        if gain < 2 * error:
            words = {"independent": "every dimension on its own", "ppca": "probabilistic PCA"}.get(name, name)
            yield Finding(
                "underfitting",
                "problem" if gain < 0 else "warning",
                f"log p(x) is at least {course.evidence[0]:,.1f} ± {course.evidence[1]:.1f} nats; a model of {words} "
                f"has {best[0]:,.1f} ± {best[1]:.1f}.",
                "It was trained too short, its networks are too small, or its rate does not fit.",
                f"Train longer, --steps {4 * settings.steps}, or with another --recipe or --lr.",
                ("--steps", str(4 * settings.steps)),
            )
    yield from _too_short(course, settings)


def _too_short(course: Course, settings: Settings) -> Iterator[Finding]:
    """The ELBO still rose at the end."""
    lines = course.elbo
    patient = course.state == "finished" and course.step < settings.steps  # it ended because nothing was gained
    if course.state == "running" or patient or len(lines) < 2 * RECENT:
        return
    (_, fresh), (last, after) = lines[0], lines[-1]
    total = after - fresh
    parts = [(lines[-RECENT], STILL_RISING), (next(line for line in lines if 2 * line[0] >= last), STILL_RISING)]
    for (first, before), share in parts:  # a rate that falls to 0 makes the end flat: then the second half tells
        gain = after - before
        if gain > max(share * total, LEAST_GAIN) and last > first:
            yield Finding(
                "trained too short",
                "note",
                f"The validation ELBO still rose by {gain:,.2f} nats in the last {last - first:,} of {last:,} steps, "
                f"{gain / total:.1%} of all that was gained.",
                "The training ended before the model had learned what it can.",
                f"Train longer: --steps {2 * settings.steps}.",
                ("--steps", str(2 * settings.steps)),
            )
            return


RULES: tuple[Rule, ...] = (
    broken_numbers,
    learning_rate,
    splits,
    grey_bernoulli,
    collapse,
    noise,
    wide,
    scales,
    unreached_weight,
    decoder_variance,
    prior_mismatch,
    fitting,
    ignored_labels,
    latent_size,
)
