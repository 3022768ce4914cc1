"""Priors and posteriors that are more than weights: what they share, remember and store goes on after a resume."""

import pytest
from training_helpers import DIM, LATENT, At, differences, straight, terminate, trainer

from sfumato.core.numerics import fixed_noise
from sfumato.models import VAE
from sfumato.networks import MLP
from sfumato.objectives import ELBO
from sfumato.posteriors import DiagonalGaussian, FlowPosterior, VectorQuantiser
from sfumato.priors import Exemplar, Flow, StandardNormal, VampPrior


def parts(kind):
    diagonal = DiagonalGaussian(*(MLP((DIM,), (LATENT,), hidden=(8,)) for _ in range(2)))
    if kind == "vamp":
        return VampPrior(LATENT, (DIM,), 5), diagonal
    if kind in ("exemplar", "nearest"):
        return Exemplar(LATENT, (DIM,), 30, subset=10, nearest=2 * (kind == "nearest")), diagonal
    if kind == "flow":
        return Flow(LATENT, transforms=2, hidden=(8,)), FlowPosterior(diagonal, "iaf", 2, hidden=(8,))
    return StandardNormal(LATENT), VectorQuantiser(MLP((DIM,), (LATENT,), hidden=(8,)), codes=6, quantisers=2)


def with_parts(kind):
    def change(model, objective, train, validation, preprocessing):
        with fixed_noise(3):
            prior, posterior = parts(kind)
            model = VAE(prior, posterior, model.decoder, model.likelihood)
            if kind in ("exemplar", "nearest"):
                prior.start_from(preprocessing(train.x[:30]))
        return model, ELBO(beta=0) if kind == "quantiser" else objective, train, validation, preprocessing

    return change


@pytest.mark.parametrize("kind", ["vamp", "exemplar", "nearest", "flow", "quantiser"])
def test_a_stop_changes_nothing(kind, tmp_path):
    how = {"kind": "iwae", "change": with_parts(kind), "steps": 20}
    whole = straight(tmp_path / "whole", **how)
    stopped = trainer(tmp_path / "run", listener=At(11, terminate), **how).fit()
    assert (stopped.step, stopped.finished) == (11, False)
    assert differences(tmp_path / "run", whole, **how) == []
