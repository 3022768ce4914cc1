"""ONNX graphs give what torch gives, in the user's units, for any batch."""

from __future__ import annotations

import json
from contextlib import chdir
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import sfumato
from sfumato.core.errors import SfumatoError, UserError
from sfumato.data import Binarise, Integers, Levels, Standardise
from sfumato.io.onnx import difference, run_onnx, to_onnx
from sfumato.likelihoods import Bernoulli, Categorical, DiscretizedLogistic, Gaussian
from sfumato.models import VAE, PackagedModel
from sfumato.networks import MLP
from sfumato.posteriors import Dirac
from sfumato.priors import ClassConditional, StandardNormal
from sfumato.recipes import RECIPES, build_vae
from sfumato.verbs.to_onnx import check, decoder_to_image, graphs

SHAPE = (2, 8, 4)


def packaged(recipe: str, likelihood, preprocessing, classes: int = 0, condition: str = "prior") -> PackagedModel:
    """Return a model with fresh weights, none of them zero."""
    latent = 8 if recipe == "autoencoder-kl" else 3
    frequencies = (1 / classes,) * classes if classes else ()
    torch.manual_seed(0)
    model = build_vae(RECIPES[recipe], likelihood, latent, frequencies, condition)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return PackagedModel(model, preprocessing).eval()


def table() -> PackagedModel:
    standardise = Standardise((3,)).fit(np.random.default_rng(0).normal(5, 3, (50, 3)))
    return packaged("mlp", Gaussian((3,), "predicted"), standardise, 2, "decoder")


MODELS = {
    "gated": lambda: packaged("mlp", Bernoulli(SHAPE), Binarise(SHAPE, "dynamic")),
    "conv": lambda: packaged("conv-small", DiscretizedLogistic(SHAPE), Levels(SHAPE), 3, "both"),
    "article": lambda: packaged("article", Categorical(SHAPE, 5), Integers(SHAPE, 5), 3),
    "grid": lambda: packaged("autoencoder-kl", Gaussian(SHAPE, "optimal"), Standardise(SHAPE, 127.5, 127.5)),
    "table": table,
}


PARTS = {"gated": ("encoder",), "conv": ("encoder", "decoder"), "article": ("decoder",), "grid": ("encoder", "decoder")}


@pytest.mark.parametrize("name", MODELS)
def test_graphs_agree_with_torch(name: str) -> None:
    model = MODELS[name]()
    parts = PARTS.get(name, ("encoder", "decoder", "sampler"))
    found = {graph.name: graph for graph in graphs(model, parts)}
    assert set(found) == set(parts)
    shape, images = model.preprocessing.shape, name != "table"
    high = {"article": 5, "table": 9}.get(name, 256)
    generator = np.random.default_rng(1)
    x = generator.integers(0, high, (7, *shape)).astype(np.uint8 if images else np.float32)
    y = generator.integers(0, max(1, model.model.num_classes), 7)
    assert max(check(tuple(found.values()), model, x, y).values()) < 1e-4
    label = {"label": y} if model.model.labels_reach_networks else {}
    seen = y if label else None
    last = np.moveaxis(x, 1, -1) if images else x
    kind = np.float32 if name in ("grid", "table") else np.uint8
    for rows in (slice(0, 1), slice(0, 7)) if "encoder" in found else ():  # any batch
        given = {"x": last[rows].astype(kind)}
        if model.model.posterior.sees_label:
            given["label"] = y[rows]
        out = run_onnx(found["encoder"].data, given)
        q = model.encode(x[rows], None if seen is None else seen[rows])
        np.testing.assert_allclose(out["mean"], q.mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out["log_variance"], 2 * q.stddev.log(), rtol=1e-4, atol=1e-5)
    if "decoder" not in found:
        return
    z = generator.standard_normal((4, model.model.latent_dim)).astype(np.float32)
    given = {"z": z} | ({"label": y[:4]} if model.model.decoder.sees_label else {})
    out = run_onnx(found["decoder"].data, given)["x"]
    exact = model.decode(z, y[:4] if model.model.decoder.sees_label else None)
    exact = np.moveaxis(exact, 1, -1) if images else exact
    largest = 0.5001 if np.issubdtype(exact.dtype, np.integer) else 1e-4 * np.abs(exact).max()
    assert np.abs(out - exact.astype(np.float64)).max() <= largest, "in the user's units, before rounding"


def test_the_sampler_follows_the_prior_of_the_class() -> None:
    """With no noise it gives the mean of the class, with noise what the prior's mean and deviation make of it."""
    model = MODELS["conv"]()
    prior = model.model.prior
    with torch.no_grad():
        prior.means.copy_(torch.tensor([[2.0, 0, 0], [0, -2, 0], [0, 0, 3]]))
    (sampler,) = graphs(model, ("sampler",))
    noise = np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)
    y = np.array([2, 0, 1])
    out = run_onnx(sampler.data, {"noise": noise, "label": y})["x"]
    z = prior.means.detach().numpy()[y] + noise
    exact = model.preprocessing.unrounded(
        model.model.expectation(model.model.decode(torch.from_numpy(z), torch.from_numpy(y)))
    )
    np.testing.assert_allclose(out, exact.movedim(1, -1).detach().numpy(), rtol=1e-4, atol=1e-3)


def test_the_decoder_to_8_bit_images() -> None:
    model = MODELS["conv"]()
    z, y = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32), np.array([0, 1, 2, 0, 1])
    out = run_onnx(decoder_to_image(model), {"z": z, "label": y})["image"]
    assert out.dtype == np.uint8
    assert out.shape == (5, 8, 4, 2)
    exact = np.moveaxis(model.decode(z, y), 1, -1)
    assert np.abs(out.astype(int) - exact).max() <= 1
    assert (out == exact).mean() > 0.99
    with pytest.raises(UserError, match="makes no images"):
        decoder_to_image(table())


def test_a_prior_that_is_no_normal_has_no_sampler_and_a_point_mass_no_variance() -> None:
    prior = ClassConditional(2, 3)
    prior.forward = lambda y=None: torch.distributions.Laplace(torch.zeros(3), torch.ones(3))
    model = VAE(prior, Dirac(MLP((4,), (3,))), MLP((3,), (1, 4)), Bernoulli((4,)))
    found = graphs(PackagedModel(model, Binarise((4,), "dynamic", high=1.0)), ("encoder", "sampler"))
    assert [graph.name for graph in found] == ["encoder"]
    assert found[0].gives == "mean (batch, 3)"


def test_a_graph_that_is_wrong_is_found() -> None:
    model = packaged("mlp", Bernoulli(SHAPE), Binarise(SHAPE, "dynamic"))
    found = graphs(model, ("decoder",))
    with torch.no_grad():
        model.model.decoder.layers[-1].bias.add_(0.01)
    x = np.zeros((2, *SHAPE), np.uint8)
    with pytest.raises(SfumatoError, match=r"decoder\.onnx differs from torch by"):
        check(found, model, x, np.zeros(2, np.int64))
    with pytest.raises(SfumatoError, match="came back as"):
        difference({"x": torch.zeros(2, 3)}, {"x": np.zeros((3, 2))})


def test_export_of_a_run(conditional: Path, command, tmp_path: Path) -> None:
    code, shown, talk = command("export", conditional, "--to", "onnx", "--check", "-o", tmp_path / "graphs")
    assert code == 0, talk
    for words in ("uint8 image (batch, 8, 8, 1)", "mean, log_variance (batch, 3)", "checked on 6 test examples"):
        assert words in shown
    assert "onnxruntime against torch: largest difference" in shown
    names: dict[str, object] = {}
    exec(talk.split('python -c "')[1].rstrip().rstrip('"'), names)  # the next: line
    assert names["s"].get_inputs()[0].name == "x"  # type: ignore[attr-defined]
    encoder = onnx.load(tmp_path / "graphs" / "encoder.onnx")
    onnx.checker.check_model(encoder, full_check=True)
    properties = {entry.key: entry.value for entry in encoder.metadata_props}
    assert json.loads(properties["class_names"]) == ["top", "mid|dle", "<b>"]
    assert json.loads(properties["config"])["class"] == "PackagedModel"
    assert properties["latent_dim"] == "3"
    assert properties["library"] == "sfumato"
    with chdir(tmp_path):
        code, _, talk = command("export", conditional / "model", "--force", "--check")
        assert code == 2
        assert "--check needs real data" in talk
        code, _, talk = command("export", conditional / "model", "-o", "graphs")
        assert code == 2
        assert "exists" in talk


def test_what_onnx_has_not_is_one_sentence() -> None:
    class Strange(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(x).real

    with pytest.raises(SfumatoError, match="cannot be written as ONNX"):
        to_onnx(Strange(), {"x": torch.zeros(2, 3, 3)}, ("y",), {})


def test_targets_that_there_are_not(conditional: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'onnx'"):
        sfumato.export(conditional, "onx")
    assert StandardNormal(2)
