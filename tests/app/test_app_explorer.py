"""What the explorer knows of a run: planes, points, likelihoods, a run that still trains, the tour."""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from app_helpers import application, call, image_model, saved, table_model
from PIL import Image
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from sfumato.app import snapshot as snapshots
from sfumato.app import watching
from sfumato.app.packing import pack, unpack
from sfumato.app.snapshot import _reduced, class_plane, principal_plane, take_snapshot
from sfumato.app.watching import Watched, watch
from sfumato.core.errors import UserError
from sfumato.io.run import RunFolder
from sfumato.verbs.opening import open_model


@pytest.fixture(scope="module")
def app(finished: Path) -> Any:
    return application(finished)


def points(app: Any) -> dict[str, Any]:
    arrays, facts = unpack(call(app, "GET", "/explorer/points").body)
    return {**arrays, **facts}


def test_what_is_packed_comes_back() -> None:
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.arange(3, dtype=np.uint8),
        "c": np.int32([[7]]),
    }
    found, facts = unpack(pack(arrays, name="\u03c3 <b>"))
    assert facts == {"name": "\u03c3 <b>"}
    for name, array in arrays.items():
        assert np.array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_the_principal_plane_holds_the_most_variance() -> None:
    means = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32) * [3, 1, 0.2, 2, 0.1]
    plane = principal_plane(means)
    assert np.allclose(plane @ plane.T, np.eye(2), atol=1e-5)
    _, values, _ = np.linalg.svd(means - means.mean(0), full_matrices=False)
    held = np.square((means - means.mean(0)) @ plane.T).sum()
    assert np.isclose(held, np.square(values[:2]).sum(), rtol=1e-4)


def test_the_plane_between_classes_is_fishers() -> None:
    generator = np.random.default_rng(1)
    y = np.arange(400) % 4
    centres = generator.normal(size=(4, 6)) * 2
    means = (centres[y] + generator.normal(size=(400, 6)) * [3, 1, 0.3, 1, 2, 1]).astype(np.float32)
    plane = class_plane(means, y)
    assert np.allclose(plane @ plane.T, np.eye(2), atol=1e-5)
    other = LinearDiscriminantAnalysis(solver="eigen").fit(means, y).scalings_[:, :2]
    basis, _ = np.linalg.qr(other)
    assert np.linalg.svd(plane @ basis)[1].min() > 0.999


def test_with_very_many_dimensions_the_planes_are_the_same() -> None:
    generator = np.random.default_rng(3)
    y = np.arange(200) % 3
    few = (generator.normal(size=(3, 6)) * 3)[y] + generator.normal(size=(200, 6))
    basis, _ = np.linalg.qr(generator.normal(size=(400, 6)))
    means, back = _reduced((few @ basis.T).astype(np.float32))
    for plane, small in ((principal_plane(means) @ back, principal_plane(few.astype(np.float32))),
                         (class_plane(means, y) @ back, class_plane(few.astype(np.float32), y))):  # fmt: skip
        assert np.allclose(plane @ plane.T, np.eye(2), atol=1e-4)
        assert np.linalg.svd(plane @ basis @ small.T)[1].min() > 0.99


@pytest.mark.parametrize("classes", [2, 3])
def test_a_plane_exists_for_few_classes_and_one_dimension(classes: int) -> None:
    generator = np.random.default_rng(2)
    y = np.arange(90) % classes
    for dims in (1, 2, 5):
        plane = class_plane((generator.normal(size=(90, dims)) + y[:, None]).astype(np.float32), y)
        assert plane.shape == (2, dims)
        assert np.isfinite(plane).all()
        assert abs(np.linalg.norm(plane[0]) - 1) < 1e-5


def test_the_map_holds_the_training_examples(app: Any, finished: Path) -> None:
    found = points(app)
    opened = open_model(finished)
    rows = opened.prepared.rows("train")
    assert np.array_equal(found["row"], np.sort(rows))
    x = opened.prepared.x[found["row"]]
    assert np.allclose(found["mean"], opened.model.encode(torch.from_numpy(x)).mean, atol=1e-5)
    assert np.array_equal(found["label"], opened.prepared.y[found["row"]])
    assert found["names"] == ["top", "<b>middle</b>", "=bottom"]
    assert np.all(np.diff(found["kl"][found["order"]]) <= 0)
    assert np.allclose(found["class_means"], opened.model.model.prior.means.detach())
    assert found["of"] == "training examples"


def test_thumbnails_lie_in_the_order_of_the_points(app: Any, finished: Path) -> None:
    atlas = np.asarray(Image.open(io.BytesIO(call(app, "GET", "/explorer/atlas.png").body)))
    found, opened = points(app), open_model(finished)
    columns = int(np.ceil(np.sqrt(len(found["row"]))))
    for i in (0, 5, len(found["row"]) - 1):
        cell = atlas[8 * (i // columns) :][:8, 8 * (i % columns) :][:, :8]
        assert np.array_equal(cell, opened.prepared.x[found["row"][i], 0])


def test_it_decodes_what_the_page_sends(app: Any, finished: Path) -> None:
    z = np.random.default_rng(0).normal(size=(3, 4)).astype("<f4")
    answer = call(app, "POST", "/explorer/decode", z.tobytes(), "application/octet-stream")
    expected = open_model(finished).model.decode(z)
    assert np.array_equal(np.frombuffer(answer.body, np.uint8).reshape(3, 1, 8, 8), expected)


@pytest.mark.parametrize("body", [b"", b"abc", bytes(12), np.full(4, np.nan, "<f4").tobytes(), bytes(16 * 1_025)])
def test_it_refuses_what_is_no_z(app: Any, body: bytes) -> None:
    answer = call(app, "POST", "/explorer/decode", body, "application/octet-stream")
    assert answer.status == 422


def test_it_samples_what_it_says(app: Any) -> None:
    asked = {"n": 4, "class": "top", "temperature": 0.5, "seed": 1}
    arrays, _ = unpack(call(app, "POST", "/explorer/sample", asked).body)
    again = call(app, "POST", "/explorer/decode", arrays["z"].astype("<f4").tobytes(), "application/octet-stream")
    assert np.array_equal(np.frombuffer(again.body, np.uint8), arrays["pixels"].reshape(-1))
    assert set(arrays["y"]) == {0}


def test_a_picture_gets_its_posterior_and_its_likelihood(app: Any, finished: Path) -> None:
    opened = open_model(finished)
    x = opened.prepared.x[:1]
    buffer = io.BytesIO()
    Image.fromarray(x[0, 0]).save(buffer, "PNG")
    arrays, facts = unpack(call(app, "POST", "/explorer/image", buffer.getvalue(), "image/png").body)
    q = opened.model.encode(torch.from_numpy(x))
    assert np.array_equal(arrays["pixels"], x)
    assert np.allclose(arrays["mean"], q.mean, atol=1e-5)
    assert np.allclose(arrays["sigma"], q.stddev, atol=1e-5)
    api = call(app, "POST", "/api/score", {"x": x.tolist()}).json
    assert np.isclose(facts["log_likelihood"], api["log_likelihood"][0])
    arrays, facts = unpack(call(app, "GET", "/explorer/example?i=2").body)
    assert facts["log_likelihood"] is None
    assert call(app, "GET", "/explorer/example?i=9999").status == 422


def test_the_training_examples_are_scored_beside_the_decoding(app: Any) -> None:
    found: Any = {"ready": False}
    for _ in range(200):
        found = call(app, "GET", "/explorer/likely").json
        if found["ready"]:
            break
        time.sleep(0.05)
    assert found["ready"]
    assert len(found["values"]) == len(points(app)["row"])
    assert np.isfinite(found["values"]).all()


def test_the_tour_says_what_is_so_on_this_model(app: Any) -> None:
    stops = call(app, "GET", "/explorer/tour").json["stops"]
    assert [stop["name"] for stop in stops] == ["cloud", "noise", "aggregate", "parts", "classes", "prior", "training"]
    for stop in stops:
        assert stop["quotes"]
        assert stop["here"]
        assert not [fact for fact in stop["here"] if "nan" in fact]
    found = points(app)
    assert f"KL {found['kl'].sum():.1f} nats" in stops[3]["here"][0]


def test_the_tour_of_a_model_that_lacks_something_says_so(tmp_path: Path) -> None:
    app = application(saved(tmp_path, table_model()))
    stops = {stop["name"]: stop for stop in call(app, "GET", "/explorer/tour").json["stops"]}
    assert "train with --conditional" in stops["classes"]["here"][0]
    assert "data of this model are not here" in stops["aggregate"]["here"][0]
    assert "no log" in stops["training"]["here"][0]


def test_a_model_alone_shows_its_own_samples(tmp_path: Path) -> None:
    app = application(saved(tmp_path, image_model()))
    found = points(app)
    assert found["of"] == "samples of the model"
    assert "row" not in found
    assert found["mean"].shape == (200, 3)
    assert call(app, "GET", "/explorer/state").json["kind"] == "model"
    assert call(app, "GET", "/explorer/likely").json == {"values": [], "ready": True}


def test_a_run_whose_data_are_gone_shows_samples(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    decided = json.loads((run / "run.json").read_text())
    decided["data"]["origin"]["source"] = str(tmp_path / "gone.npz")
    (run / "run.json").write_text(json.dumps(decided))
    assert points(application(run))["of"] == "samples of the model"


def test_data_of_other_shapes_are_drawn_as_numbers(tmp_path: Path) -> None:
    app = application(saved(tmp_path, table_model()))
    assert call(app, "GET", "/explorer/atlas.png").status == 404
    answer = call(app, "POST", "/explorer/decode", bytes(8), "application/octet-stream")
    assert len(answer.body) == 12
    assert call(app, "POST", "/explorer/image", b"x", "image/png").status == 415


def unfinished(finished: Path, run: Path) -> Path:
    """Copy a run as it was before its end."""
    shutil.copytree(finished, run)
    shutil.rmtree(run / "model")
    (run / "evaluation.json").unlink()
    return run


def test_a_run_that_trains_shows_its_newest_weights(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfumato.app.watching.LOOK_EVERY", 0.0)
    run = unfinished(finished, tmp_path / "run")
    steps = sorted((run / "checkpoints").iterdir())
    assert len(steps) >= 2
    later = tmp_path / steps[-1].name
    steps[-1].rename(later)
    app = application(run)
    state = call(app, "GET", "/explorer/state").json
    assert (state["version"], state["finished"]) == (1, False)
    first = points(app)["mean"]
    assert call(app, "GET", "/explorer/state").json["version"] == 1
    later.rename(steps[-1])
    assert call(app, "GET", "/explorer/state").json["version"] == 2
    assert not np.allclose(points(app)["mean"], first)
    (steps[-1] / "model.safetensors").write_bytes(b"cut")
    steps[-1].rename(steps[-1].with_name("step-00009999"))
    assert call(app, "GET", "/explorer/state").json["version"] == 2, "a checkpoint that cannot be read changes nothing"


def test_while_new_weights_are_read_others_get_the_old_ones(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LOOK_EVERY", 0.0)
    watched = watch(shutil.copytree(finished, tmp_path / "run"), 20)
    first = watched.look()
    begun, go_on = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Any:
        begun.set()
        assert go_on.wait(20)
        return take_snapshot(*arguments)

    monkeypatch.setattr(watching, "take_snapshot", slow)
    os.utime(tmp_path / "run" / "model")
    reader = threading.Thread(target=watched.look)
    reader.start()
    assert begun.wait(20)
    assert watched.look() is first
    go_on.set()
    reader.join(20)
    now = watched.look()
    assert now is not None
    assert now.version == 2


def test_what_fails_while_examples_are_scored_is_not_asked_for_for_ever(
    finished: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watched = watch(finished, 20)
    snapshot = watched.look()
    assert snapshot is not None
    monkeypatch.setattr(snapshot.served, "score", lambda *arguments: 1 / 0)
    for _ in range(200):
        values, ready = watched.likely()
        if ready:
            break
        time.sleep(0.02)
    assert ready
    assert not len(values)
    assert "cannot be scored" in caplog.text


def test_what_is_made_once_is_made_once(finished: Path) -> None:
    snapshot, made = watch(finished, 20).look(), []
    assert snapshot is not None

    def make(given: Any) -> bytes:
        made.append(given)
        time.sleep(0.05)
        return b"answer"

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: snapshot.once("it", make), range(4))) == {b"answer"}
    assert made == [snapshot]


@pytest.mark.parametrize("path", ["/explorer/points", "/explorer/likely", "/explorer/tour", "/api/model"])
def test_nothing_works_in_the_thread_that_listens(app: Any, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    newest = Watched.newest

    def spy(self: Watched) -> Any:
        threads.append(threading.current_thread())
        return newest(self)

    monkeypatch.setattr(Watched, "newest", spy)
    assert call(app, "GET", path).status == 200
    assert threads
    assert threading.main_thread() not in threads


def test_of_very_many_points_the_thumbnails_are_smaller(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = watch(finished, 50).look()
    assert snapshot is not None
    assert snapshot.total == len(snapshot.x) == 48
    monkeypatch.setattr(snapshots, "ATLAS", 48 * 4 * 4)
    picture = snapshot.atlas()
    assert picture is not None
    assert picture.size == (7 * 4, 7 * 4)
    cell = np.asarray(picture)[4:8, 8:12]
    means = snapshot.x[9, 0].reshape(4, 2, 4, 2).mean((1, 3))
    assert np.array_equal(cell, means.round())


def test_a_run_without_a_checkpoint_waits(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfumato.app.watching.LOOK_EVERY", 0.0)
    run = unfinished(finished, tmp_path / "run")
    (run / "checkpoints").rename(tmp_path / "kept")
    app = application(run)
    assert call(app, "GET", "/explorer/state").json["version"] == 0
    assert call(app, "GET", "/explorer/points").status == 409
    lines = call(app, "GET", "/explorer/metrics?from=0").json
    assert lines["count"] == len(lines["lines"]) > 1
    assert call(app, "GET", f"/explorer/metrics?from={lines['count'] - 1}").json["lines"] == lines["lines"][-1:]
    RunFolder(run).metrics.append({"step": 99, "split": "train", "loss": 1.0})
    assert call(app, "GET", "/explorer/metrics?from=0").json["count"] == lines["count"] + 1
    (tmp_path / "kept").rename(run / "checkpoints")
    assert call(app, "GET", "/explorer/state").json["version"] == 1


def test_a_damaged_run_is_a_sentence_without_a_path(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "model" / "model.safetensors").write_bytes(b"cut")
    (run / "metrics.jsonl").write_text("{\n{}\n")
    for path in ("points", "metrics?from=0"):
        answer = call(application(run), "GET", f"/explorer/{path}")
        assert answer.status == 409
        assert tmp_path.name not in answer.error
    assert call(application(run), "GET", "/explorer/state").status == 409


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        watch(tmp_path / "nowhere")
    with pytest.raises(UserError, match="2 to 250,000"):
        watch(saved(tmp_path, table_model()), 1)
    assert Watched(saved(tmp_path / "b", table_model())).name == "model"
