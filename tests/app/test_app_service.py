"""The api: what it answers is what the model says; what it takes is bounded before it is decoded."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from app_helpers import HOUSE, application, call, image_model, saved, table_model
from exact_models import DIMS, data, linear_vae, log_evidence, log_joint
from PIL import Image

from sfumato.app.bodies import MAX_PIXELS, to_raw
from sfumato.app.guard import House
from sfumato.app.model import Served
from sfumato.data import Binarise, Identity, Integers, Levels, Standardise
from sfumato.models import PackagedModel
from sfumato.report import to_uint8


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, PackagedModel]:
    packaged = table_model(classes=2)
    return application(saved(tmp_path_factory.mktemp("table"), packaged), page=False), packaged


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, PackagedModel]:
    packaged = image_model()
    return application(saved(tmp_path_factory.mktemp("images"), packaged), page=False), packaged


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def arrays_of(body: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(body), allow_pickle=False) as archive:
        return dict(archive)


def picture(shape: tuple[int, ...], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


ROWS = [[0.5, -1.0, 2.0], [0.0, 0.25, -0.5]]


def test_it_encodes_as_the_model_does(table: tuple[Any, PackagedModel]) -> None:
    app, packaged = table
    q = packaged.encode(torch.tensor(ROWS))
    answer = call(app, "POST", "/api/encode", {"x": ROWS})
    assert np.allclose(answer.json["mean"], q.mean)
    assert np.allclose(answer.json["sigma"], q.stddev)
    again = call(app, "POST", "/api/encode?format=npz", npz(x=np.array(ROWS)), "application/x-npz")
    assert np.allclose(arrays_of(again.body)["sigma"], q.stddev)


def test_it_decodes_and_reconstructs_as_the_model_does(table: tuple[Any, PackagedModel]) -> None:
    app, packaged = table
    z = torch.tensor([[0.5, -1.0]])
    assert np.allclose(call(app, "POST", "/api/decode", {"z": z.tolist()}).json["x"], packaged.decode(z))
    expected = packaged.reconstruct(torch.tensor(ROWS))
    assert np.allclose(call(app, "POST", "/api/reconstruct", {"x": ROWS}).json["x"], expected, atol=1e-6)


def test_a_decoder_that_sees_classes_gets_them(tmp_path: Path) -> None:
    packaged = table_model(classes=2, seen=True)
    app = application(saved(tmp_path, packaged), page=False)
    z = torch.tensor([[0.5, -1.0], [0.5, -1.0]])
    expected = packaged.decode(z, torch.tensor([0, 1]))
    assert not np.allclose(expected[0], expected[1])
    for y in ([0, 1], ["class 0", "class 1"], [0.0, 1.0]):
        assert np.allclose(call(app, "POST", "/api/decode", {"z": z.tolist(), "y": y}).json["x"], expected)
    by_archive = call(app, "POST", "/api/decode", npz(z=z.numpy(), y=np.array([0, 1])), "application/x-npz")
    assert np.allclose(by_archive.json["x"], expected)
    one = call(app, "POST", "/api/decode", {"z": z.tolist(), "y": 1})
    assert np.allclose(one.json["x"][0], expected[1])


def test_samples_follow_from_the_seed_the_class_and_the_temperature(table: tuple[Any, PackagedModel]) -> None:
    app, packaged = table
    asked = {"n": 200, "class": "class 1", "seed": 3}
    first, second = (call(app, "POST", "/api/sample", asked).json for _ in range(2))
    assert first == second
    assert set(first["y"]) == {1}
    assert first["x"] != call(app, "POST", "/api/sample", {**asked, "seed": 4}).json["x"]
    cold = call(app, "POST", "/api/sample", {**asked, "temperature": 0}).json["x"]
    mean = packaged.model.prior.means[1:2].detach()  # type: ignore[union-attr, index]
    assert np.allclose(cold, packaged.decode(mean).expand(200, -1), atol=1e-5)
    assert {0, 1} == set(call(app, "POST", "/api/sample", {"n": 50}).json["y"])


def test_the_codes_drawn_are_those_of_the_prior() -> None:
    served = Served(table_model(classes=2))
    z, y = served.draw(4_000, seed=1)
    means = served.packaged.model.prior.means.detach().numpy()  # type: ignore[union-attr]
    around = z - means[y]
    assert abs(around.mean()) < 0.05
    assert abs(around.std() - 1) < 0.03
    warm, _ = served.draw(4_000, 1, 0.5, seed=1)
    assert abs((warm - means[1]).std() - 0.5) < 0.02


def exact(classes: str = "") -> Served:
    packaged = PackagedModel(linear_vae(classes=classes).float(), Standardise((DIMS,)))
    return Served(packaged.eval())


@pytest.mark.parametrize("samples", [1, 3, 64])
def test_the_score_of_an_exact_posterior_is_the_evidence(samples: int) -> None:
    x = data(5)
    value, error = exact().score(x.float().numpy(), samples)
    assert np.allclose(value, log_evidence(x), atol=1e-3)
    assert np.isnan(error).all() if samples == 1 else (error < 1e-3).all()


def test_the_score_of_unlabelled_data_sums_over_the_classes() -> None:
    x = data(5)
    value, _ = exact("encoder").score(x.float().numpy(), 8)
    assert np.allclose(value, log_joint(x).logsumexp(-1), atol=1e-3)


def test_the_standard_error_says_how_far_scores_of_other_seeds_lie() -> None:
    served = Served(PackagedModel(linear_vae(spread=1.3).float(), Standardise((DIMS,))).eval())
    x = data(4).float().numpy()
    found = [served.score(x, 64, seed) for seed in range(60)]
    spread = np.std([value for value, _ in found], axis=0, ddof=1)
    told = np.mean([error for _, error in found], axis=0)
    assert np.all(np.abs(np.log(told / spread)) < 0.5)


def test_scores_are_those_of_raw_data() -> None:
    standardise = Standardise((DIMS,)).fit(3 * data(200).numpy())
    served = Served(PackagedModel(linear_vae().float(), standardise).eval())
    raw = 3 * data(3).float()
    inside = (raw - standardise.mean) / standardise.scale
    expected = log_evidence(inside.double()) - float(standardise.scale.double().log().sum())
    assert np.allclose(served.score(raw.numpy(), 8)[0], expected, atol=1e-3)


def test_it_scores_over_http(table: tuple[Any, PackagedModel]) -> None:
    app, _ = table
    answer = call(app, "POST", "/api/score?samples=16&seed=2", {"x": ROWS}).json
    assert answer["unit"] == "nats"
    assert answer["samples"] == 16
    assert len(answer["log_likelihood"]) == len(answer["standard_error"]) == 2
    archive = call(app, "POST", "/api/score?samples=16&seed=2&format=npz", {"x": ROWS}).body
    assert np.allclose(arrays_of(archive)["log_likelihood"], answer["log_likelihood"])


@pytest.mark.parametrize(
    ("shape", "kind"), [((4, 4), "PNG"), ((9, 12, 3), "JPEG"), ((8, 8), "BMP"), ((4, 4, 4), "PNG")]
)
def test_a_picture_is_an_example(images: tuple[Any, PackagedModel], shape: tuple[int, ...], kind: str) -> None:
    app, _ = images
    answer = call(app, "POST", "/api/reconstruct", picture(shape, kind), f"image/{kind.lower()}")
    assert np.shape(answer.json["x"]) == (1, 1, 4, 4)


def test_an_answer_can_be_a_picture(images: tuple[Any, PackagedModel]) -> None:
    app, _ = images
    answer = call(app, "POST", "/api/sample?format=png", {"n": 5})
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.body)).size > (20, 4)


def test_a_picture_becomes_the_raw_values_that_show_as_it() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 4)).astype(np.uint8)
    for preprocessing in (Levels((1, 4, 4)), Levels((1, 4, 4), levels=256, high=1.0), Binarise((1, 4, 4), "dynamic")):
        assert np.array_equal(to_uint8(to_raw(pixels, preprocessing)[None], preprocessing)[0], pixels)
    few = Integers((1, 4, 4), levels=3)
    values = to_raw(pixels, few)
    assert set(np.unique(values)) <= {0, 1, 2}
    few.check(values[None], "x")
    assert set(np.unique(to_raw(pixels, Identity((1, 4, 4))))) == {0, 1}
    Identity((1, 4, 4)).check(to_raw(pixels, Identity((1, 4, 4)))[None], "x")


def bomb(shape: str, dtype: str = "<f4") -> bytes:
    """Return an archive whose array claims more than it has."""
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    array = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", array)
    return buffer.getvalue()


def squeezed(size: int) -> bytes:
    """Return an archive that unpacks to ``size`` bytes of zeros."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(size))
    return buffer.getvalue()


def wide_picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (MAX_PIXELS // 1000 + 1, 1000)).save(buffer, "PNG")
    return buffer.getvalue()


NPZ = "application/x-npz"
BAD: list[tuple[str, Any, str | None, int, str]] = [
    ("no json", b"{", None, 400, "valid json"),
    ("not utf-8", b"\xff\xfe", None, 400, "valid json"),
    ("nan", b'{"x": [[NaN, 1, 2]]}', None, 400, "valid json"),
    ("infinite", b'{"x": [[1e999, 1, 2]]}', None, 400, "valid json"),
    ("a key twice", b'{"x": [[1, 1, 2]], "x": [[1, 1, 2]]}', None, 400, "twice"),
    ("deep", b'{"x": ' + b"[" * 60 + b"]" * 60 + b"}", None, 400, "levels"),
    ("a list", [[1, 2, 3]], None, 422, "json object"),
    ("another key", {"x": ROWS, "z": 1}, None, 422, "the key 'z'"),
    ("no key", {}, None, 422, "'x' in the body; it is missing"),
    ("ragged", {"x": [[1, 2], [1, 2, 3]]}, None, 422, "equal length"),
    ("texts", {"x": [["a", "b", "c"]]}, None, 422, "list of numbers"),
    ("truths", {"x": [[True, False, 2]]}, None, 422, "list of numbers"),
    ("huge whole number", b'{"x": [[' + b"9" * 400 + b", 1, 1]]}", None, 422, "list of numbers"),
    ("too large for float32", {"x": [[1e300, 1, 1]]}, None, 422, "finite"),
    ("none", {"x": []}, None, 422, "list of numbers"),
    ("another shape", {"x": [[1, 2]]}, None, 422, "shape (n, 3); got (1, 2)"),
    ("too many", {"x": [[1, 2, 3]] * 1_025}, None, 422, "1 to 1,024"),
    ("no such class", {"x": ROWS, "y": "class 9"}, None, 422, "no class"),
    ("classes of another count", {"x": ROWS, "y": [0]}, None, 422, "one class for each of 2"),
    ("a class that is a list", {"x": ROWS, "y": [[0], [1]]}, None, 422, "names or whole numbers"),
    ("another type", b"x,y\n1,2", "text/csv", 415, "Content-Type"),
    ("no type", b"[]", None, 415, "Content-Type"),
    ("no archive", b"not a zip", NPZ, 422, "npz archive"),
    ("an archive that is cut", npz(x=np.array(ROWS))[:100], NPZ, 422, "npz archive"),
    ("no x", npz(a=np.array(ROWS)), NPZ, 422, "named x"),
    ("many arrays", npz(x=np.array(ROWS), **{f"a{k}": np.zeros(1) for k in range(9)}), NPZ, 422, "8 arrays"),
    ("a claim of 32 GiB", bomb("(2147483648, 3)"), NPZ, 422, "header says"),
    ("a negative shape", bomb("(-1, 3)"), NPZ, 422, "header says"),
    ("a bomb of zeros", squeezed(65_000_000), NPZ, 413, "64,000,000"),
    ("objects", bomb("(1, 3)", "|O"), NPZ, 422, "plain numbers"),
    ("a record", bomb("(1, 3)", "|V8"), NPZ, 422, "plain numbers"),
    ("texts in an archive", npz(x=np.array([["a", "b", "c"]])), NPZ, 422, "plain numbers"),
    ("nan in an archive", npz(x=np.array([[np.nan, 1, 2]])), NPZ, 422, "finite"),
    ("no array", npz(x=np.float64(3.0)), NPZ, 422, "shape"),
    ("a picture for a table", picture((4, 4)), "image/png", 415, "Content-Type"),
]


@pytest.mark.parametrize("bad", BAD, ids=[item[0] for item in BAD])
def test_what_cannot_be_used_gets_one_sentence(table: tuple[Any, PackagedModel], bad: tuple[Any, ...]) -> None:
    name, body, kind, status, words = bad
    if isinstance(body, bytes) and kind is None and name != "no type":
        kind = "application/json"
    answer = call(table[0], "POST", "/api/encode", body, kind)
    assert answer.status == status, answer.body
    assert words in answer.error
    assert "/" not in answer.error.replace("application/", "").replace("image/", "")
    assert len(answer.error) < 300


PICTURES: list[tuple[str, bytes, str]] = [
    ("damaged", picture((40, 40))[:300], "cannot be read"),
    ("none", b"hello", "cannot be read"),
    ("too many pixels", wide_picture(), "16,000,000"),
]


@pytest.mark.parametrize("bad", PICTURES, ids=[item[0] for item in PICTURES])
def test_pictures_are_bounded_before_they_are_decoded(
    images: tuple[Any, PackagedModel], bad: tuple[str, bytes, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    load = Image.Image.load
    monkeypatch.setattr(Image.Image, "load", lambda self: (loaded.append(self.size), load(self))[1])
    answer = call(images[0], "POST", "/api/encode", bad[1], "image/png")
    assert (answer.status, bad[2] in answer.error) == (422, True), answer.body
    assert not [size for size in loaded if size[0] * size[1] > MAX_PIXELS]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/encode?format=png", {"x": ROWS}),
        ("/api/encode?format=xml", {"x": ROWS}),
        ("/api/encode?format=json&format=npz", {"x": ROWS}),
        ("/api/encode?other=1", {"x": ROWS}),
        ("/api/decode?format=png", {"z": [[0, 0]]}),
        ("/api/decode", {"z": [[0, 0, 0]]}),
        ("/api/sample", {"n": 0}),
        ("/api/sample", {"n": 1_025}),
        ("/api/sample", {"n": True}),
        ("/api/sample", {"n": "3"}),
        ("/api/sample", {"n": 1.5}),
        ("/api/sample", {"temperature": -1}),
        ("/api/sample", {"temperature": 101}),
        ("/api/sample", {"seed": -1}),
        ("/api/sample", {"draw": 1}),
        ("/api/sample", {"class": "no such"}),
        ("/api/sample", {"class": "\u00b2"}),
        ("/api/sample", {"class": "9" * 5_000}),
        ("/api/score?samples=0", {"x": ROWS}),
        ("/api/score?samples=257", {"x": ROWS}),
        ("/api/score?samples=1_0", {"x": ROWS}),
        ("/api/score", {"x": [[0, 0, 0]] * 65}),
    ],
)
def test_what_is_asked_for_is_bounded(table: tuple[Any, PackagedModel], path: str, body: Any) -> None:
    answer = call(table[0], "POST", path, body)
    assert answer.status == 422, answer.body
    assert answer.error.count(".") >= 1


def test_whole_numbers_may_be_written_as_json_writes_them(table: tuple[Any, PackagedModel]) -> None:
    assert call(table[0], "POST", "/api/sample", b'{"n": 2.0}', "application/json").status == 200


def test_the_document_says_what_the_model_is(images: tuple[Any, PackagedModel]) -> None:
    app, packaged = images
    document = call(app, "GET", "/openapi.json").json
    x = document["paths"]["/api/encode"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"][
        "x"
    ]
    assert x["items"]["items"]["items"]["items"] == {"type": "integer", "minimum": 0, "maximum": 255}
    assert [x["items"]["minItems"], x["items"]["items"]["minItems"], x["items"]["items"]["items"]["minItems"]] == [
        1,
        4,
        4,
    ]
    assert list(packaged.class_names) in [
        option.get("enum")
        for option in document["paths"]["/api/sample"]["post"]["requestBody"]["content"]["application/json"]["schema"][
            "properties"
        ]["class"]["anyOf"]
    ]
    assert "security" not in document
    facts = call(app, "GET", "/api/model").json
    assert facts["classes"] == list(packaged.class_names)
    assert facts["latent_dim"] == 3


def test_with_a_token_the_document_asks_for_it(tmp_path: Path) -> None:
    app = application(saved(tmp_path, table_model()), page=False, house=House(HOUSE.port, token="t" * 20))
    document = call(app, "GET", "/openapi.json", headers={"authorization": f"Bearer {'t' * 20}"}).json
    assert document["security"] == [{"token": []}]
    assert json.dumps(document)
