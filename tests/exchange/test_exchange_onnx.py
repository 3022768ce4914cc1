"""ONNX graphs give what torch gives, in the user's units, for any batch."""

from __future__ import annotations

import json
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import sfumato
from sfumato.core.errors import SfumatoError, UserError
from sfumato.core.numerics import soft_bound
from sfumato.data import Binarise, Integers, Levels, Standardise
from sfumato.io.onnx import difference, run_onnx, to_onnx
from sfumato.likelihoods import Bernoulli, Categorical, DiscretizedLogistic, Gaussian
from sfumato.models import VAE, PackagedModel
from sfumato.models.hierarchical import PRIOR_BOUNDS, RESIDUAL_BOUNDS
from sfumato.networks import MLP
from sfumato.posteriors import Dirac
from sfumato.priors import ClassConditional, StandardNormal
from sfumato.recipes import RECIPES, build_vae
from sfumato.recipes.ladder import build_ladder
from sfumato.report import to_uint8
from sfumato.verbs import to_onnx as verb
from sfumato.verbs.to_onnx import Graph, check, decoder_to_image, graphs

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
    "article": lambda: packaged("article", Categorical(SHAPE, 5), Integers(SHAPE, 5), 3),
    "grid": lambda: packaged("autoencoder-kl", Gaussian(SHAPE, "optimal"), Standardise(SHAPE, 127.5, 127.5)),
    "table": table,
}


PARTS = {"gated": ("encoder",), "article": ("decoder",)}


@pytest.fixture(scope="module")
def exported(conditional: Path) -> tuple[Graph, ...]:
    """The graphs of the conditional run: convolutions, and a class that encoder and decoder see."""
    return graphs(sfumato.load(conditional))


@pytest.mark.parametrize("name", [*MODELS, "conv"])
def test_graphs_agree_with_torch(name: str, conditional: Path, exported: tuple[Graph, ...]) -> None:
    model = sfumato.load(conditional) if name == "conv" else MODELS[name]()
    parts = PARTS.get(name, ("encoder", "decoder"))
    made = exported if name == "conv" else graphs(model, parts)
    found = {graph.name: graph for graph in made}
    assert set(parts) <= set(found)
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


@pytest.mark.parametrize("classes", [0, 2])
def test_all_levels_of_a_ladder_lie_in_one_row(classes: int) -> None:
    """The moments are those of q(z_1 | x), and of each q(z_l | x, z_<l) at the means above; a sample is drawn level by
    level from the priors."""
    torch.manual_seed(1)
    model = build_ladder(Gaussian((4,), "predicted"), 8, 2, (0.5,) * classes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    whole = PackagedModel(model, Standardise((4,)).fit(np.random.default_rng(0).normal(3, 2, (50, 4)))).eval()
    found = {graph.name: graph for graph in graphs(whole, ("encoder", "sampler") if classes else ("decoder",))}
    x = np.random.default_rng(1).normal(3, 2, (5, 4)).astype(np.float32)
    y = np.arange(5) % max(1, classes)
    assert max(check(tuple(found.values()), whole, x, y).values()) < 1e-5
    noise = np.random.default_rng(2).standard_normal((5, 12)).astype(np.float32)
    with torch.no_grad():
        features = model.bottom_up(whole.preprocessing(torch.from_numpy(x)))
        top = model._top_posterior(features[0])
        mean, log_variance = [top.mean], [2 * top.stddev.log()]
        prior = model.top(torch.from_numpy(y) if classes else None)
        first = torch.from_numpy(noise[:, :4]) + (prior.gaussian().mean if classes else 0)
        rows = [first]
        for z, kept in ((top.mean, None), (first, rows)):
            state = model.top_down.begin(z)
            m, s = model.top_down.prior(1, state).reshape(5, 2, 8).unbind(1)
            s = soft_bound(s, *PRIOR_BOUNDS)
            if kept is not None:
                kept.append(m + (s / 2).exp() * torch.from_numpy(noise[:, 4:]))
                continue
            d, e = model.top_down.posterior(1, state, features[1]).reshape(5, 2, 8).unbind(1)
            mean.append(m + (s / 2).exp() * d)
            log_variance.append(s + soft_bound(e, *RESIDUAL_BOUNDS))
        z = torch.cat(rows, 1)
    if not classes:
        out = run_onnx(found["decoder"].data, {"z": z.numpy()})["x"]
        np.testing.assert_allclose(out, whole.decode(z), rtol=1e-4, atol=1e-4)
        return
    made = run_onnx(found["sampler"].data, {"noise": noise, "label": y})["x"]
    np.testing.assert_allclose(made, whole.decode(z), rtol=1e-4, atol=1e-4)
    moments = run_onnx(found["encoder"].data, {"x": x})
    np.testing.assert_allclose(moments["mean"], torch.cat(mean, 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moments["log_variance"], torch.cat(log_variance, 1), rtol=1e-4, atol=1e-5)
    properties = {entry.key: entry.value for entry in onnx.load_from_string(found["encoder"].data).metadata_props}
    assert json.loads(properties["level_shapes"]) == [[4], [8]]


def test_a_ladder_of_convolutions_has_graphs() -> None:
    model = PackagedModel(build_ladder(DiscretizedLogistic((1, 16, 16)), 2, 2), Levels((1, 16, 16))).eval()
    found = graphs(model, ("encoder",))
    x = np.random.default_rng(1).integers(0, 256, (3, 1, 16, 16)).astype(np.uint8)
    assert max(check(found, model, x, np.zeros(3, np.int64)).values()) < 1e-4


def test_the_sampler_follows_the_prior_of_the_class(conditional: Path, exported: tuple[Graph, ...]) -> None:
    """With no noise it gives the mean of the class, with noise what the prior's mean and deviation make of it."""
    model, y = sfumato.load(conditional), np.array([2, 0, 1])
    prior = model.model.prior(torch.from_numpy(y)).gaussian()
    for noise in (np.zeros((3, 3), np.float32), np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)):
        out = run_onnx(exported[2].data, {"noise": noise, "label": y})["x"]
        z = prior.mean.detach() + prior.stddev.detach() * torch.from_numpy(noise)
        with torch.no_grad():
            exact = model.preprocessing.unrounded(model.model.expectation(model.model.decode(z, torch.from_numpy(y))))
        np.testing.assert_allclose(out, exact.movedim(1, -1), rtol=1e-4, atol=1e-3)


def test_the_decoder_to_8_bit_images() -> None:
    standardise = Standardise(SHAPE).fit(np.random.default_rng(0).normal(5, 3, (50, *SHAPE)))
    for model in (
        packaged("mlp", DiscretizedLogistic(SHAPE), Levels(SHAPE), 3, "both"),
        packaged("mlp", Gaussian(SHAPE, "shared"), standardise),  # black is not 0
    ):
        z, y = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32), np.array([0, 1, 2, 0, 1])
        label = {"label": y} if model.model.num_classes else {}
        out = run_onnx(decoder_to_image(model), {"z": z, **label})["image"]
        assert out.dtype == np.uint8
        assert out.shape == (5, 8, 4, 2)
        exact = to_uint8(np.moveaxis(model.decode(z, y if label else None), 1, -1), model.preprocessing)
        assert np.abs(out - exact.astype(int)).max() <= 1
        assert (out == exact).mean() > 0.99
        assert exact.min() < exact.max()
    with pytest.raises(UserError, match="makes no images"):
        decoder_to_image(table())


def test_a_prior_that_is_no_normal_has_no_sampler_and_a_point_mass_no_variance() -> None:
    prior = ClassConditional(2, 3)
    prior.forward = lambda y=None: torch.distributions.Laplace(torch.zeros(3), torch.ones(3))
    model = VAE(prior, Dirac(MLP((4,), (3,))), MLP((3,), (1, 4)), Bernoulli((4,)))
    found = graphs(PackagedModel(model, Binarise((4,), "dynamic", high=1.0)), ("encoder", "sampler"))
    assert [graph.name for graph in found] == ["encoder"]
    assert found[0].gives == "mean (batch, 3)"


def test_outputs_of_another_shape_are_no_small_difference() -> None:
    with pytest.raises(SfumatoError, match="came back as"):
        difference({"x": torch.zeros(2, 3)}, {"x": np.zeros((3, 2))})
    assert difference({"x": torch.zeros(1, 2)}, {"x": np.array([[0.0, np.nan]])}) == np.inf
    assert difference({"x": torch.tensor([[0.0, 8.0]])}, {"x": np.array([[2.0, 8.0]])}) == 0.25


@pytest.mark.parametrize("part", ["encoder", "decoder", "sampler"])
def test_a_bias_that_is_shifted_in_a_graph_fails_the_command(
    conditional: Path, exported: tuple[Graph, ...], command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def shifted(graph: Graph) -> Graph:
        proto = onnx.load_from_string(graph.data)
        bias = next(entry for entry in reversed(proto.graph.initializer) if entry.name.endswith("bias"))
        moved = onnx.numpy_helper.to_array(bias) + np.float32(0.02)
        bias.CopyFrom(onnx.numpy_helper.from_array(moved, bias.name))
        return replace(graph, data=proto.SerializeToString())

    wrong = tuple(shifted(graph) if graph.name == part else graph for graph in exported)
    monkeypatch.setattr(verb, "graphs", lambda model: wrong)
    out = tmp_path / "graphs"
    code, shown, talk = command("export", conditional, "--to", "onnx", "--check", "-o", out)
    assert code == 1
    assert f"{part}.onnx differs from torch by" in talk
    assert not shown
    assert not out.exists(), "what does not agree is not written"


def test_export_of_a_run(
    conditional: Path, exported: tuple[Graph, ...], command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "graphs", lambda model: exported)  # the same run's, made once
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
