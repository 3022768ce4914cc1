"""From data and a few options to everything a training needs, each choice with its reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sfumato.core.errors import UserError, did_you_mean
from sfumato.core.interfaces import Objective
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.core.schedules import WarmUpCosine
from sfumato.core.spec import NonNegative, Size, checked, from_spec, to_spec
from sfumato.data import (
    Dataset,
    Decision,
    Inspection,
    Preprocessing,
    Standardise,
    build_preprocessing,
    decide,
    decided,
    inspect_dataset,
)
from sfumato.models import Model
from sfumato.objectives import ELBO
from sfumato.recipes.ladder import LADDERS, build_ladder, checked_levels, is_convolutional, usual_levels
from sfumato.recipes.likelihood import build_likelihood, encoder_input
from sfumato.recipes.networks import RECIPES, reading
from sfumato.recipes.papers import PAPERS, Paper, Setting, elbo
from sfumato.recipes.starting import start_parts
from sfumato.recipes.vae import Condition
from sfumato.training import TrainingConfig
from sfumato.training.budget import steps_in
from sfumato.training.engine import Choice

WEIGHTS = 0x77656967  # "weig": keeps these random numbers apart from others with the same seed
ADVERSARY = 0x61647672  # "advr", the networks of an objective
DEFAULT_SECONDS = 240.0
MOST_EPOCHS = 300
EVALUATIONS = 25
PATIENCE = 8
GRID_CHANNELS = 4  # of a latent grid
RATE = 1e-3


@dataclass(frozen=True)
class Options:
    """What a user may ask for; None is "decide for me".

    Args:
        recipe: a name of ``RECIPES``, ``LADDERS`` or ``PAPERS``.
        latent_dim: the number of dimensions of z; of a ladder those of one level, see ``build_ladder``.
        levels: of a ladder.
        conditional: whether every class owns a learned mean.
        condition: who sees y besides the prior: prior (nobody), decoder, encoder, both.
        likelihood: one of ``sfumato.data.decisions.LIKELIHOODS``.
        binarise: none, fixed, dynamic.
        beta: the weight of the KL term; 1, or a paper's.
        epochs: passes over the training split.
        steps: optimizer steps.
        seconds: the time that training may take.
        batch_size: examples a step.
        learning_rate: Adam's, at its peak.
        engine: how a step is computed: eager, compiled, auto.
        shard: spread the weights over the processes.
        seed: of the weights, the order and all noise.
        careful: free bits, a longer warm-up, half the rate and more patience, all decided before the first step.
    """

    recipe: str | None = None
    latent_dim: int | None = None
    levels: int | None = None
    conditional: bool | None = None
    condition: Condition = "prior"
    likelihood: str | None = None
    binarise: str | None = None
    beta: float | None = None
    epochs: float | None = None
    steps: int | None = None
    seconds: float | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    engine: Choice = "auto"
    shard: bool = False
    seed: int = 0
    careful: bool = False


@dataclass(frozen=True)
class Run:
    """Everything that is needed to train.

    Args:
        model: with fresh weights, a function of the seed.
        objective: what is minimised.
        preprocessing: fitted.
        config: every number.
        dataset: as it came; ``preprocessing.prepare`` gives what is trained on.
        inspection: the facts about it.
        decisions: what was chosen, and why.
        afterwards: the kind of prior that is fitted when the training is over, of
            :func:`~sfumato.evaluation.fit_prior`; empty for none.
    """

    model: Model
    objective: Objective
    preprocessing: Preprocessing
    config: TrainingConfig
    dataset: Dataset
    inspection: Inspection
    decisions: tuple[Decision, ...]
    afterwards: str = ""


def plan(dataset: Dataset, options: Options) -> Run:
    """Decide what was not asked for.

    Raises:
        UserError: an option that does not exist, or does not fit the data.
    """
    facts, decisions = foresee(dataset, options)
    preprocessing = build_preprocessing(facts, decisions, dataset, options.seed)
    networks = RECIPES.get(decided(decisions, "networks") or decided(decisions, "recipe"), RECIPES["mlp"])
    if networks.places and isinstance(preprocessing, Standardise):
        preprocessing = _signed(facts)
    _, frequencies = _classes(dataset, facts, options)
    paper = _paper(options)
    config, more = _training(dataset, facts, options)
    likelihood = build_likelihood(decisions, dataset, facts)
    features = encoder_input(likelihood)
    if features is not None and options.recipe in LADDERS:
        raise UserError(
            f"a ladder takes numbers of one kind, and no counts; the likelihood is {decided(decisions, 'likelihood')}. "
            "Leave out --recipe ladder."
        )
    setting = Setting(
        likelihood=likelihood,
        latent_dim=decided(decisions, "latent"),
        networks=reading(networks, features),
        frequencies=frequencies,
        condition=options.condition,
        examples=len(dataset.rows("train")),
        steps=config.steps,
        beta=_beta(options, paper),
        careful=options.careful,
    )
    with fixed_noise(options.seed):  # these weights are thrown away, and the caller's random numbers stay as they were
        if options.recipe in LADDERS:
            levels = decided(decisions, "ladder")
            tree = to_spec(build_ladder(setting.likelihood, setting.latent_dim, levels, frequencies))
        else:
            tree = to_spec(paper.model(setting))
    model, objective = fresh_model(tree, options.seed), _objective(paper, setting, options.seed)
    start_parts(model, preprocessing, dataset, options.seed)
    if _budget(options):
        seconds = options.seconds or DEFAULT_SECONDS
        prepared = preprocessing.prepare(dataset)
        train, validation = prepared.split("train"), prepared.split("validation")
        steps = steps_in(seconds, model, objective, train, validation, preprocessing, config)
        steps = min(steps, config.steps) if options.seconds is None else steps
        config = schedule_for(config, steps)
        objective = _objective(paper, replace(setting, steps=steps), options.seed)
    decisions += [_duration(config, options, facts), *more, *_careful(options, objective, config)]
    if options.beta is not None:
        decisions.append(Decision("beta", setting.beta, "asked for", "--beta X", "user"))
    if paper.afterwards:
        because = "fitted when the training is over, to where the z of the data are"
        decisions.append(Decision("prior", paper.afterwards, because, "sfumato fit-prior", "auto"))
    return Run(model, objective, preprocessing, config, dataset, facts, tuple(decisions), paper.afterwards)


def foresee(dataset: Dataset, options: Options) -> tuple[Inspection, list[Decision]]:
    """Return the facts about the data, and what :func:`plan` decides about the model from them; nothing is measured.

    Raises:
        UserError: as :func:`plan`.
    """
    facts = inspect_dataset(dataset)
    decisions = decide(facts, asked_likelihood(options), options.binarise)
    classes, _ = _classes(dataset, facts, options)
    decisions += [*_recipe(facts, options), _latent_dim(facts, options), *_levels(facts, options)]
    decisions += [classes] if classes else []
    return facts, decisions


def asked_likelihood(options: Options) -> str | None:
    """Return the likelihood that was asked for, or the one that the recipe is about."""
    paper = PAPERS.get(options.recipe or "")
    return options.likelihood or (paper.likelihood if paper else None)


def fresh_model(tree: Mapping[str, Any], seed: int) -> Model:
    """Return the model that ``tree`` describes, its weights a function of ``seed``."""
    with fixed_noise(seed_for(WEIGHTS, seed)):
        model: Model = from_spec(tree, "model", "model")
    return model


def fresh_objective(tree: Mapping[str, Any], seed: int) -> Objective:
    """Return the objective that ``tree`` describes; the weights of its networks are a function of ``seed``."""
    with fixed_noise(seed_for(WEIGHTS, ADVERSARY, seed)):
        objective: Objective = from_spec(tree, "objective", "objective")
    return objective


def schedule_for(config: TrainingConfig, steps: int) -> TrainingConfig:
    """Return ``config`` for another number of steps: schedule, evaluations and checkpoints spread over them."""
    every = max(1, math.ceil(steps / EVALUATIONS))
    return replace(
        config,
        steps=steps,
        schedule=WarmUpCosine(steps, warmup=min(500, steps // 20)),
        log_every=max(1, every // 4),
        evaluate_every=every,
        checkpoint_every=every,
    )


def _recipe(facts: Inspection, options: Options) -> list[Decision]:
    """Return the decision about the recipe, and where that is a paper the one about the networks."""
    asked = options.recipe
    if asked in PAPERS:
        networks = replace(_networks(facts), name="networks", change_with="--config FILE")
        return [Decision("recipe", asked, PAPERS[asked].about, "--recipe NAME", "user"), networks]
    if asked is None:
        return [_networks(facts)]
    known = (*RECIPES, *LADDERS, *PAPERS)
    if asked not in known:
        raise UserError(f"there is no recipe '{asked}'. {did_you_mean(asked, known)}")
    if (asked.startswith("conv") or _places(options, facts)) and facts.layout != "images":
        raise UserError(f"recipe {asked} needs images; {facts.source} holds none. Use --recipe mlp.")
    return [Decision("recipe", asked, "asked for", "--recipe NAME", "user")]


def _networks(facts: Inspection) -> Decision:
    if facts.layout != "images":
        return Decision("recipe", "mlp", f"{facts.dimensions} values an example", "--recipe article", "auto")
    size = "x".join(map(str, facts.shape[1:]))
    if facts.dimensions <= 1024:
        return Decision("recipe", "mlp", f"small grey images, {size}", "--recipe conv-small", "auto")
    name = "conv-small" if max(facts.shape[1:]) <= 64 else "conv-large"
    return Decision("recipe", name, f"images of {facts.shape[0]} channels, {size}", "--recipe mlp", "auto")


def _places(options: Options, facts: Inspection) -> tuple[int, int] | None:
    """Return (height, width) of the recipe's latent grid, (0, 0) where the data are no images, None without a grid."""
    recipe = RECIPES.get(options.recipe or "")
    if recipe is None or recipe.places is None:
        return None
    return recipe.places(facts.shape) if facts.layout == "images" else (0, 0)


def _signed(facts: Inspection) -> Standardise:
    """Return the map from the range of the values to [-1, 1]: what ``AutoencoderKL`` takes and gives."""
    low, high = (facts.low, facts.high) if facts.kind == "real" else (0.0, facts.top)
    return Standardise(facts.shape, (low + high) / 2, (high - low) / 2 if high > low else 1.0)


def _latent_dim(facts: Inspection, options: Options) -> Decision:
    grid = _places(options, facts)
    if options.latent_dim is not None:
        dim = checked(options.latent_dim, Size, "--latent-dim")
        if grid is not None and dim % math.prod(grid):
            near = max(1, round(dim / math.prod(grid))) * math.prod(grid)
            raise UserError(
                f"recipe {options.recipe} has a grid of {grid[0]}x{grid[1]} latent vectors, so --latent-dim must be a "
                f"multiple of {math.prod(grid)}; got {dim}. Use --latent-dim {near}."
            )
        return Decision("latent", dim, "asked for", "--latent-dim N", "user")
    if grid is not None:
        dim = GRID_CHANNELS * math.prod(grid)
        because = f"{GRID_CHANNELS} channels on a grid of {grid[0]}x{grid[1]}"
        return Decision("latent", dim, because, f"--latent-dim {2 * dim}", "auto")
    dim = 2 ** math.ceil(math.log2(max(2, facts.pca_95)))
    dim = max(1, min(dim, 32, facts.dimensions))
    components = "principal component holds" if facts.pca_95 == 1 else "principal components hold"
    because = f"{facts.pca_95} {components} 95 % of the variance"
    return Decision("latent", dim, because, "--latent-dim N", "auto")


def _levels(facts: Inspection, options: Options) -> list[Decision]:
    """Return the decision about the levels of z, if the recipe is a ladder."""
    if options.recipe not in LADDERS:
        if options.levels is not None:
            raise UserError(
                f"--levels needs a ladder; the recipe is {options.recipe or 'another'}. Add --recipe ladder."
            )
        return []
    if options.condition != "prior":
        raise UserError(
            f"--condition {options.condition} needs another recipe: in a ladder the class reaches the networks through "
            "the top level alone. Leave it out, or leave out --recipe ladder."
        )
    if options.levels is not None:
        return [Decision("ladder", checked_levels(options.levels), "asked for", "--levels N", "user")]
    because = "two for each size of the images" if is_convolutional(facts.shape) else "vectors of z above each other"
    return [Decision("ladder", usual_levels(facts.shape), because, "--levels N", "auto")]


def _classes(dataset: Dataset, facts: Inspection, options: Options) -> tuple[Decision | None, tuple[float, ...]]:
    """Return the decision about classes, if there are any, and p(y) on the training split."""
    there = dataset.num_classes >= 2
    if options.conditional and not there:
        raise UserError(
            f"--conditional needs classes; {facts.source} has none. Use sub-folders, y in the npz, or --label COLUMN."
        )
    if options.condition != "prior" and not (there and options.conditional is not False):
        raise UserError(f"--condition {options.condition} needs a conditional model. Add --conditional and classes.")
    if not there:
        return None, ()
    if options.conditional is False:
        return Decision("classes", "not used", "asked for", "--conditional", "user"), ()
    assert dataset.y is not None
    labels = dataset.y[dataset.rows("train")]
    counts = [int((labels == number).sum()) + 1 for number in range(dataset.num_classes)]
    source = "auto" if options.conditional is None and options.condition == "prior" else "user"
    value = "learned means" if options.condition == "prior" else f"learned means, seen by {options.condition}"
    because = f"{dataset.num_classes} classes: each owns a mean of the prior"
    frequencies = tuple(count / sum(counts) for count in counts)
    return Decision("classes", value, because, "--no-conditional", source), frequencies  # type: ignore[arg-type]


def _training(dataset: Dataset, facts: Inspection, options: Options) -> tuple[TrainingConfig, list[Decision]]:
    """Return the configuration for the longest training that is allowed, and the decisions about it."""
    count = len(dataset.rows("train"))
    batch = min(128, max(8, 2 ** round(math.log2(max(8, count / 20)))))
    more = []
    if options.batch_size is not None:
        batch = checked(options.batch_size, Size, "--batch")
        more.append(Decision("batch", batch, "asked for", "--batch N", "user"))
    elif dataset.loader is not None and dataset.loader.batch_size is not None:
        batch = dataset.loader.batch_size
        because = f"the DataLoader's own; its {dataset.loader.sampler} chose the examples, the seed their order"
        more.append(Decision("batch", batch, because, "--batch N", "auto"))
    epochs = checked(options.epochs or MOST_EPOCHS, float, "--epochs")
    if epochs <= 0:
        raise UserError(f"--epochs must be above 0; got {epochs:g}.")
    steps = options.steps or max(1, round(epochs * math.ceil(count / batch)))
    config = TrainingConfig(
        steps=steps,
        batch_size=batch,
        learning_rate=options.learning_rate or (RATE / 2 if options.careful else RATE),
        clip_norm=10 * math.sqrt(facts.dimensions),
        engine=options.engine,
        shard=options.shard,
        seed=options.seed,
        patience=2 * PATIENCE if options.careful else PATIENCE,
    )
    return schedule_for(config, steps), more


def _budget(options: Options) -> bool:
    return options.seconds is not None or (options.epochs is None and options.steps is None)


def _duration(config: TrainingConfig, options: Options, facts: Inspection) -> Decision:
    epochs = config.steps * config.batch_size / facts.splits["train"]
    value = f"{config.steps:,} steps of {config.batch_size}, about {epochs:,.0f} epochs"
    if options.seconds is not None:
        return Decision("steps", value, f"measured: they take about {options.seconds:g} s", "--time 10m", "user")
    if options.epochs is not None or options.steps is not None:
        return Decision("steps", value, "asked for", "--epochs N", "user")
    most = f"at most {DEFAULT_SECONDS / 60:g} min here, at most {MOST_EPOCHS} epochs"
    return Decision("steps", value, most, "--time 10m", "auto")


def _paper(options: Options) -> Paper:
    """Return the paper that was asked for, or the first of them."""
    paper = PAPERS.get(options.recipe or "", PAPERS["vae"])
    if options.careful and paper.objective is not elbo:
        raise UserError(
            f"--careful changes the ELBO, and recipe {options.recipe} has another objective. Leave one of them out."
        )
    return paper


def _objective(paper: Paper, setting: Setting, seed: int) -> Objective:
    with fixed_noise(seed):  # these weights are thrown away
        tree = to_spec(paper.objective(setting))
    return fresh_objective(tree, seed)


def _beta(options: Options, paper: Paper) -> float:
    if options.beta is None:
        return 1.0 if paper.beta is None else paper.beta
    if paper.beta is None:
        raise UserError(f"recipe {options.recipe} has no term that --beta would weigh. Leave it out.")
    beta: float = checked(options.beta, NonNegative, "--beta")
    return beta


def _careful(options: Options, objective: Objective, config: TrainingConfig) -> list[Decision]:
    """Return what ``careful`` decided, and why; all of it is in the configuration, so a resumed run has it too."""
    if not options.careful:
        return []
    assert isinstance(objective, ELBO)
    warm = getattr(objective.schedule, "steps", 0)
    evaluations = math.ceil(warm / config.evaluate_every)
    found = [
        ("free bits", f"{objective.free_bits:g} nats", "a KL below this costs nothing: no reason to give up z"),
        ("warm-up", f"{warm:,} steps of the KL weight", "the decoder learns to use z before z is paid in full"),
        ("patience", config.patience, f"the warm-up alone takes {evaluations} evaluations"),
        ("rollback", "after 3 non-finite steps, at half the rate", "the guard of every training, at most 5 times"),
    ]
    if options.learning_rate is None:
        found.insert(2, ("rate", f"{config.learning_rate:g}", "half of the usual: fewer steps go wrong"))
    return [Decision(name, value, because, "--no-careful", "user") for name, value, because in found]
