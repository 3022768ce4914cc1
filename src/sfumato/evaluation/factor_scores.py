r"""The four disentanglement scores of a model, on data whose factors are known and can be set.

The representation is the posterior mean. The data are a grid: every combination of the factors' values once, as in
:class:`~sfumato.data.dsprites.DSprites`. Each image is encoded at most once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.core.numerics import seed_for
from sfumato.data import Preprocessing
from sfumato.data.content import Array
from sfumato.evaluation.disentanglement import (
    BINS,
    DCI,
    DEAD,
    EXAMPLES,
    STREAM,
    TEST_EXAMPLES,
    TEST_VOTES,
    VOTE_EXAMPLES,
    VOTES,
    FactorVAEScore,
    MeanOverFactors,
    Trees,
    dci,
    draw_factors,
    factor_vae_score,
    mig,
    sap,
)
from sfumato.evaluation.measuring import measuring
from sfumato.evaluation.passes import EXAMPLES as TOGETHER
from sfumato.evaluation.passes import Tell
from sfumato.models import Model

FORMAT_VERSION = 1


@runtime_checkable
class Grid(Protocol):
    """Data with every combination of their factors' values once."""

    @property
    def name(self) -> str:
        """What to call the data."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the factors."""
        ...

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many values every factor has."""
        ...

    def __len__(self) -> int: ...

    def images(self, indices: Array) -> Array:
        """Return the examples with the numbers ``indices``, (n, *shape)."""
        ...

    def index_of(self, factors: Array) -> Array:
        """Return the numbers (n,) of the examples with the factor classes ``factors``, int64 (n, k)."""
        ...


@dataclass(frozen=True, eq=False)
class Disentanglement:
    """Four scores and everything they were measured with.

    Args:
        data: the name of the data.
        factors: the names of the factors, those with a single value left out.
        sizes: how many values each has.
        codes: d, the latent dimensions.
        mig: mutual information gap.
        dci: disentanglement, completeness, informativeness.
        factor_vae: the FactorVAE score.
        sap: separated attribute predictability.
        settings: the numbers of examples, bins and votes.
        seed: of all draws.
    """

    data: str
    factors: tuple[str, ...]
    sizes: tuple[int, ...]
    codes: int
    mig: MeanOverFactors
    dci: DCI
    factor_vae: FactorVAEScore
    sap: MeanOverFactors
    settings: Mapping[str, int | float | str]
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain json."""
        return {
            "format_version": FORMAT_VERSION,
            "data": self.data,
            "factors": dict(zip(self.factors, self.sizes, strict=True)),
            "codes": self.codes,
            "representation": "posterior mean",
            "mig": self.mig.to_dict(),
            "dci": self.dci.to_dict(),
            "factor_vae": self.factor_vae.to_dict(),
            "sap": self.sap.to_dict(),
            "settings": dict(self.settings),
            "seed": self.seed,
            "versions": {name: version(name) for name in ("sfumato", "torch", "scikit-learn")},
        }


def disentanglement(
    model: Model,
    preprocessing: Preprocessing,
    grid: Grid,
    *,
    examples: int = EXAMPLES,
    test_examples: int = TEST_EXAMPLES,
    bins: int = BINS,
    votes: int = VOTES,
    test_votes: int = TEST_VOTES,
    vote_examples: int = VOTE_EXAMPLES,
    trees: Trees = "boosted",
    seed: int = 0,
    tell: Tell | None = None,
) -> Disentanglement:
    """Measure how disentangled the posterior means of ``model`` are; by default with disentanglement_lib's settings.

    Args:
        model: in any mode, which it has again afterwards. Encoders that look at labels get none.
        preprocessing: raw data to the model's input; where it draws, its mean is encoded.
        grid: the data.
        examples: drawn for MIG, to train DCI and SAP, and for the variances of the FactorVAE score.
        test_examples: drawn to score DCI and SAP.
        bins: of MIG.
        votes: of the FactorVAE score, to take the majority from.
        test_votes: to score it on.
        vote_examples: examples behind a vote.
        trees: of DCI: "boosted" as in disentanglement_lib, or "forest", with far fewer trees.
        seed: of all draws.
        tell: called as tell(part, done, of) as the work goes on.

    Raises:
        UserError: fewer than 2 latent dimensions, images of another shape, or no scikit-learn.
    """
    smallest = min(examples, test_examples, votes, test_votes, vote_examples, bins)
    if smallest < 2:
        raise UserError(f"every number of examples, votes and bins should be at least 2; got {smallest}. Take more.")
    chosen = [number for number, size in enumerate(grid.sizes) if size > 1]
    sizes = tuple(grid.sizes[number] for number in chosen)
    with measuring(model) as device:
        preprocessing.to(device)
        encoded = _Encoded(model, preprocessing, grid, chosen, device)
        generator = torch.Generator().manual_seed(seed_for(STREAM, seed, 0))
        factors, test_factors = (draw_factors(sizes, count, generator) for count in (examples, test_examples))
        codes, test_codes = encoded(factors), encoded(test_factors)
        gap = mig(codes, factors, bins=bins)
        separated = sap(codes, factors, test_codes, test_factors)
        by_trees = dci(codes, factors, test_codes, test_factors, trees=trees, seed=seed)
        counts = {"votes": votes, "test_votes": test_votes, "vote_examples": vote_examples, "examples": examples}
        by_votes = factor_vae_score(encoded, sizes, **counts, seed=seed, tell=tell)
    return Disentanglement(
        data=grid.name,
        factors=tuple(grid.names[number] for number in chosen),
        sizes=sizes,
        codes=codes.shape[1],
        mig=gap,
        dci=by_trees,
        factor_vae=by_votes,
        sap=separated,
        settings={**counts, "test_examples": test_examples, "bins": bins, "dead_below": DEAD, "trees": trees},
        seed=seed,
    )


class _Encoded:
    """Factor classes to posterior means; every example of the grid is drawn and encoded at most once."""

    def __init__(
        self, model: Model, preprocessing: Preprocessing, grid: Grid, chosen: list[int], device: torch.device
    ) -> None:
        self.model, self.preprocessing, self.grid, self.chosen = model, preprocessing, grid, chosen
        self.device = device
        self.known = torch.zeros(len(grid), dtype=torch.bool)
        self.codes = torch.zeros(len(grid), model.latent_dim, dtype=torch.float64)

    def __call__(self, factors: Int64[Tensor, "n k"]) -> Float[Tensor, "n d"]:
        """Return the codes of the examples with these factors; those that do not vary are 0."""
        full = torch.zeros(len(factors), len(self.grid.sizes), dtype=torch.int64)
        full[:, self.chosen] = factors
        numbers = torch.from_numpy(self.grid.index_of(full.numpy()))
        wanted = torch.zeros_like(self.known)
        wanted[numbers] = True
        for part in torch.split((wanted & ~self.known).nonzero().squeeze(-1), TOGETHER):
            raw = torch.from_numpy(self.grid.images(part.numpy())).to(self.device)
            posterior = self.model.posterior(self.preprocessing.expected(raw), None)
            self.codes[part] = posterior.mean.flatten(1).double().cpu()
        self.known |= wanted
        return self.codes[numbers]
