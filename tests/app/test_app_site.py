"""The site without a server: the same images as torch decodes, from a disk, with nothing asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from app_helpers import bars, image_model, saved, table_model
from browser_helpers import with_browser
from PIL import Image
from playwright.sync_api import Browser

from sfumato.app.bodies import shown, to_raw
from sfumato.app.site import one_script, write_site
from sfumato.core.errors import UserError
from sfumato.data import Binarise, Integers, Preprocessing, Standardise
from sfumato.likelihoods import Bernoulli, Categorical, Gaussian
from sfumato.models import VAE, PackagedModel
from sfumato.networks import MLP, ConvDecoder, ConvEncoder, WithLabel
from sfumato.posteriors import DiagonalGaussian, Dirac
from sfumato.priors import ClassConditional, StandardNormal
from sfumato.verbs.opening import open_model

SHAPE = (1, 7, 9)


def shaken(module: torch.nn.Module) -> Any:
    """Return the module with no weight at zero: the last convolution of a block starts there."""
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return module


def convolutional() -> PackagedModel:
    trunk = ConvEncoder(SHAPE, (6,), (3, 4))
    posterior = DiagonalGaussian(MLP((6,), (3,), ()), MLP((6,), (3,), ()), trunk)
    model = VAE(StandardNormal(3), posterior, ConvDecoder((3,), (1, *SHAPE), (3, 4), 2), Bernoulli(SHAPE))
    return PackagedModel(shaken(model), Binarise(SHAPE, "dynamic")).eval()


def labelled(activation: str, gated: bool) -> PackagedModel:
    shape = (3, 4, 4)
    encoders = [WithLabel(MLP((7, 4, 4), (2,), (5,), gated, activation), 4) for _ in range(2)]  # type: ignore[arg-type]
    decoder = WithLabel(MLP((6,), (1, *shape), (9, 8), gated, activation), 4)  # type: ignore[arg-type]
    model = VAE(ClassConditional(4, 2, learn_variance=True), DiagonalGaussian(*encoders), decoder, Gaussian(shape))
    raw = np.random.default_rng(0).normal(100, 30, (50, *shape))
    return PackagedModel(shaken(model), Standardise(shape).fit(raw), ("a", "b", "c", "d")).eval()


def levels() -> PackagedModel:
    posterior = DiagonalGaussian(MLP(SHAPE, (2,), (5,)), MLP(SHAPE, (2,), (5,)))
    model = VAE(StandardNormal(2), posterior, MLP((2,), (5, *SHAPE), (6,)), Categorical(SHAPE, 5))
    preprocessing: Preprocessing = Integers(SHAPE, levels=5)
    return PackagedModel(shaken(model), preprocessing).eval()


MODELS = {
    "convolutions": convolutional,
    "gates and labels": lambda: labelled("relu", True),
    "gelu": lambda: labelled("gelu", False),
    "elu": lambda: labelled("elu", False),
    "levels": levels,
    "logistic": image_model,
    "table": lambda: table_model(2, True),
}


def opened(browser: Browser, page_file: Path) -> tuple[Any, list[str]]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else wrong.append(request.url),
    )
    page.goto(page_file.as_uri())
    page.wait_for_selector("html[data-ready]", state="attached", timeout=20_000)
    return page, wrong


@with_browser
@pytest.mark.parametrize("name", MODELS)
def test_the_browser_decodes_as_torch_does(browser: Browser, tmp_path: Path, name: str) -> None:
    torch.manual_seed(3)
    packaged = MODELS[name]()
    page, wrong = opened(browser, write_site(saved(tmp_path, packaged), tmp_path / "site", points=40))
    classes = packaged.model.num_classes
    for y in [-1, *range(classes)][: 1 + 2 * packaged.model.labels_reach_networks]:
        z = np.random.default_rng(1).normal(size=(3, packaged.model.latent_dim)).astype(np.float32)
        script = """async ([z, y]) => { const { world } = window.sfumato;
            const buffer = await world.backend.decode(Float32Array.from(z), y);
            return [...(world.model.shape.length === 3 ? new Uint8Array(buffer) : new Float32Array(buffer))]; }"""
        found = np.array(page.evaluate(script, [z.flatten().tolist(), y]))
        label = np.full(3, y) if packaged.model.labels_reach_networks else None
        expected = shown(packaged.decode(z, label), packaged.preprocessing).reshape(-1)
        if len(packaged.preprocessing.shape) == 3:
            off = 255 / 4 if name == "levels" else 1  # torch rounds to levels first
            assert np.abs(found - expected.astype(float)).max() <= off
            assert np.abs(found - expected.astype(float)).mean() < off / 2
            assert np.ptp(expected) > 5
        else:
            assert np.allclose(found, expected, atol=1e-4)
    seen = page.evaluate("""async () => { const { world } = window.sfumato, { pixels, mean, sigma } =
        await world.backend.example(3); return [pixels, mean, sigma].map((v) => [...v]); }""")
    shape = packaged.preprocessing.shape
    x = np.array(seen[0], np.float32 if len(shape) < 3 else np.uint8).reshape(shape)
    x = x if len(shape) < 3 else to_raw(x, packaged.preprocessing)
    label = np.full(1, page.evaluate("() => window.sfumato.world.model.label[3]"))
    q = packaged.encode(x[None], label if packaged.model.labels_reach_networks else None)
    assert np.allclose(seen[1], q.mean[0], atol=2e-3)
    assert np.allclose(seen[2], q.stddev[0], atol=2e-3)
    page.locator("#map").click(position={"x": 70, "y": 70})
    page.keyboard.press("Enter")
    page.wait_for_selector("#original-figure:not([hidden])")
    assert page.locator("#notice").is_hidden()
    page.context.close()
    assert not wrong


@with_browser
def test_a_run_opens_from_a_disk(browser: Browser, tmp_path: Path, finished: Path) -> None:
    folder = write_site(finished, tmp_path / "site").parent
    page, wrong = opened(browser, folder / "index.html")
    page.locator("#map").click(position={"x": 80, "y": 90})
    picture = tmp_path / "mine.png"
    x = bars()[0][5]
    Image.fromarray(x).save(picture)
    page.locator("#tab-image").click()
    page.locator("#file").set_input_files(picture)
    page.wait_for_selector("#panel-image #go-there")
    page.wait_for_timeout(300)
    q = open_model(finished).model.encode(torch.from_numpy(x[None, None]))
    assert np.allclose(page.evaluate("() => [...window.sfumato.state.z]"), q.mean[0], atol=1e-3)
    sigma = page.evaluate("async () => [...(await window.sfumato.world.backend.example(0)).sigma]")
    assert np.isfinite(sigma).all()
    for tab in ("sample", "path", "curves", "tour"):
        page.locator(f"#tab-{tab}").click()
        page.wait_for_timeout(200)
    page.locator("#tour-next").click()
    page.wait_for_timeout(200)
    shares = page.evaluate("""async () => { const { y } = await window.sfumato.world.backend.sample(900, null, 1, 3);
        return [0, 1, 2].map((c) => y.filter((v) => v === c).length / 900); }""")
    assert np.allclose(shares, 1 / 3, atol=0.06)
    page.context.close()
    assert not wrong


def test_a_model_that_the_page_cannot_run_is_refused(tmp_path: Path) -> None:
    vae = VAE(StandardNormal(2), Dirac(MLP((3,), (2,))), MLP((2,), (1, 3)), Gaussian((3,), "fixed"))
    folder = saved(tmp_path, PackagedModel(vae, Standardise((3,))).eval())
    with pytest.raises(UserError, match="got Dirac"):
        write_site(folder, tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_what_is_there_is_not_replaced(tmp_path: Path) -> None:
    folder = saved(tmp_path, image_model())
    write_site(folder, tmp_path / "site", points=10)
    with pytest.raises(UserError, match="exists"):
        write_site(folder, tmp_path / "site", points=10)
    write_site(folder, tmp_path / "site", points=10, replace=True)


def test_the_one_script_holds_every_module_and_no_import() -> None:
    script = one_script()
    static = Path(__file__).parents[2] / "src/sfumato/app/static"
    for item in static.glob("*.js"):
        assert f'modules["{item.name}"] = ' in script
    assert "\nimport " not in script
    assert "\nexport " not in script
    assert "return { takeColours, colour, " in script
    assert ", drawExample," in script


def test_markup_in_names_cannot_leave_the_script(tmp_path: Path) -> None:
    folder = write_site(saved(tmp_path, image_model()), tmp_path / "site", points=10).parent
    assert "<" not in (folder / "data.js").read_text()
