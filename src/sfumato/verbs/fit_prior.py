"""``sfumato fit-prior``: another prior for a trained run, in a run beside it, and what that did to the ELBO."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.core.errors import UserError, did_you_mean
from sfumato.core.interfaces import Prior
from sfumato.core.spec import Count, Size, checked, to_spec
from sfumato.data.content import SPLITS
from sfumato.evaluation import Estimate, compare_priors, fitting
from sfumato.io.run import RunFolder
from sfumato.io.tensors import digest
from sfumato.models import VAE, PackagedModel
from sfumato.verbs.opening import open_run
from sfumato.verbs.state import refuse_existing
from sfumato.verbs.train import finish_untrained, versions

SPLIT = "validation"
SAMPLES = 10


@dataclass(frozen=True)
class FittedPrior:
    """What :func:`fit_prior` did.

    Args:
        path: the new run.
        model: its model.
        prior: the kind of prior.
        examples: that it was fitted to, the training split.
        split: that the values are of.
        values: see :func:`~sfumato.evaluation.compare_priors`.
        absent: name -> why it is not among the values.
        evaluation: of the new run, on the test split.
    """

    path: Path
    model: PackagedModel
    prior: str
    examples: int
    split: str
    values: Mapping[str, Estimate]
    absent: Mapping[str, str]
    evaluation: Mapping[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the model as plain json."""
        return {
            "path": str(self.path),
            "prior": self.prior,
            "examples": self.examples,
            "split": self.split,
            "values": {name: estimate.to_dict() for name, estimate in self.values.items()},
            "absent": dict(self.absent),
            "evaluation": self.evaluation,
        }


def fit_prior(
    source: str | Path,
    prior: Prior | str | None = None,
    *,
    draws: int = fitting.DRAWS,
    steps: int = fitting.STEPS,
    samples: int = SAMPLES,
    split: str = SPLIT,
    seed: int = 0,
    out: str | Path | None = None,
    tell: Callable[[str, int, int], None] | None = None,
) -> FittedPrior:
    """Fit another prior to where the posteriors of a trained run are, and write the model with it as a run beside.

    The networks stay as they were. On the held-out split, and on the same draws of z, the ELBO is measured with the
    prior of before and with the new one; what a choice among priors is made by should not be the test split.

    Args:
        source: the folder of a run.
        prior: a kind: gaussian-mixture, class-mixture, coupling, autoregressive, spline, second-stage, codes; see
            :func:`sfumato.evaluation.fit_prior`. Or a prior to start from. None: codes for a quantiser, class-mixture
            where there are classes, else gaussian-mixture.
        draws: z of q(z | x) for each training example.
        steps: of Adam, for priors that have no algorithm of their own.
        samples: draws of z for the ELBO of each example.
        split: of the ELBO: train, validation or test.
        seed: of all noise.
        out: the new run, by default ``source`` with the kind behind its name.
        tell: called as tell(part, done, of) as the work goes on.

    Raises:
        UserError: not a run of a VAE, a prior for other latents, something is at ``out``; nothing was written.
    """
    given = {"draws": draws, "steps": steps, "samples": samples}
    draws, steps, samples = (checked(value, Size, f"--{name}") for name, value in given.items())
    seed = checked(seed, Count, "--seed")
    if split not in SPLITS:
        raise UserError(f"--split should be train, validation or test; got '{split}'. {did_you_mean(split, SPLITS)}")
    opened = open_run(source)
    before, decided = opened.model, opened.decided
    assert opened.folder is not None
    assert decided is not None
    kind = fitting.usual_kind(before.model) if prior is None else prior
    name = kind if isinstance(kind, str) else type(kind).__name__
    path = opened.folder.path if opened.folder.path.name else opened.folder.path.resolve()
    folder = RunFolder(path.with_name(f"{path.name}-{name}") if out is None else Path(out).expanduser())
    refuse_existing(folder)
    dataset = opened.dataset
    after = fitting.fit_prior(before, dataset, kind, draws=draws, steps=steps, seed=seed, tell=tell)
    assert isinstance(before.model, VAE)
    assert isinstance(after.model, VAE)
    held = opened.prepared.split(split)
    how: dict[str, Any] = {"samples": samples, "seed": seed, "tell": tell}
    values = compare_priors(before.model, after.model, held, before.preprocessing, **how)
    absent = {}
    if "elbo_before" not in values:
        absent["elbo_before"] = f"{type(before.model.posterior).__name__} is a point mass, without a density q(z | x)"
    origin = {"from": str(opened.path.resolve()), "sha256": digest(before.state_dict())}
    tree = {
        **{key: value for key, value in decided.items() if key not in ("afterwards", "start")},
        "name": folder.path.name,
        "model": to_spec(after.model),
        "fitted_prior": {**origin, "prior": name, "draws": draws, "steps": steps, "seed": seed},
        "versions": versions(),
    }
    done = finish_untrained(folder, tree, after, dataset, tell, opened.step)
    examples = len(dataset.rows("train"))
    return FittedPrior(folder.path, after, name, examples, split, values, absent, done.evaluation)
