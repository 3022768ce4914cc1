"""diffusers' AutoencoderKL, there and back: the same numbers, the same bits, and a scale that was measured."""

from __future__ import annotations

import json
import warnings
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import sfumato
from sfumato.core.errors import UserError
from sfumato.data import load_dataset
from sfumato.io.autoencoder_kl import first_stage_of, read_first_stage, write_first_stage
from sfumato.io.store import DamagedError
from sfumato.verbs import from_diffusers, to_diffusers
from sfumato.verbs.opening import open_model
from sfumato.verbs.tiling import reconstruct_large
from sfumato.verbs.to_diffusers import measure_latents, parts_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers import AutoencoderKL

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@st.composite
def configs(draw: st.DrawFn) -> dict[str, object]:
    """Any architecture of AutoencoderKL, small."""
    groups = draw(st.sampled_from([1, 2, 4]))
    widths = tuple(groups * size for size in draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    channels = draw(st.integers(1, 4))
    kinds = st.sampled_from(["", "Attn"])
    latent = draw(st.integers(1, 3))
    numbers = st.lists(st.floats(0.25, 4), min_size=latent, max_size=latent)
    return {
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": widths,
        "down_block_types": tuple(f"{draw(kinds)}DownEncoderBlock2D" for _ in widths),
        "up_block_types": tuple(f"{draw(kinds)}UpDecoderBlock2D" for _ in widths),
        "layers_per_block": draw(st.integers(1, 2)),
        "act_fn": draw(st.sampled_from(["silu", "mish", "gelu", "relu"])),
        "latent_channels": latent,
        "norm_num_groups": groups,
        "sample_size": draw(st.sampled_from([8, 16])),
        "scaling_factor": draw(st.floats(0.1, 2)),
        "shift_factor": draw(st.none() | st.floats(-1, 1)),
        "latents_mean": draw(st.none() | numbers),
        "latents_std": draw(st.none() | numbers),
        "force_upcast": draw(st.booleans()),
        "use_quant_conv": draw(st.booleans()),
        "use_post_quant_conv": draw(st.booleans()),
        "mid_block_add_attention": draw(st.booleans()),
    }


def theirs_of(config: dict[str, object], seed: int) -> AutoencoderKL:
    """Return diffusers' model with weights that are nowhere trivial."""
    torch.manual_seed(seed)
    model = AutoencoderKL(**config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@settings(max_examples=15)
@given(config=configs(), seed=st.integers(0, 99), height=st.integers(1, 2), width=st.integers(1, 3))
def test_any_autoencoder_comes_over_and_goes_back(
    config: dict[str, object], seed: int, height: int, width: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    theirs = theirs_of(config, seed)
    theirs.save_pretrained(folder / "theirs")
    stage, first, last = read_first_stage(folder / "theirs")
    encoder, decoder = stage.networks((height * stage.factor, width * stage.factor))
    encoder.load_state_dict(first)
    decoder.load_state_dict(last)
    x = torch.randn(2, *encoder.in_shape)
    with torch.no_grad():
        wanted = theirs.encode(x).latent_dist
        mean, log_variance = encoder(x).unbind(1)
        torch.testing.assert_close(mean, wanted.mean.flatten(1), **CLOSE)
        torch.testing.assert_close(log_variance.clamp(-30, 20), wanted.logvar.flatten(1), **CLOSE)
        z = torch.randn_like(mean)
        picture = theirs.decode(z.reshape(2, *encoder.grid)).sample
        torch.testing.assert_close(decoder(z)[:, 0], picture, **CLOSE)
    more = {name: getattr(stage, name) for name in ("scaling_factor", "shift_factor", "latents_mean", "latents_std")}
    again_stage = first_stage_of(encoder, decoder, force_upcast=stage.force_upcast, **more)
    write_first_stage(folder / "again", again_stage, encoder.state_dict(), decoder.state_dict())
    again = AutoencoderKL.from_pretrained(folder / "again")
    before, after = theirs.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for name in config.keys() - {"sample_size"}:
        got, want = again.config[name], config[name]
        assert (list(got) if isinstance(got, list | tuple) else got) == (
            list(want) if isinstance(want, list | tuple) else want
        )


def small(folder: Path, **changes: object) -> Path:
    """Write a small AutoencoderKL of diffusers."""
    sizes = {"block_out_channels": (4, 8), "norm_num_groups": 4, "latent_channels": 2, "sample_size": 16}
    types = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    theirs_of({**sizes, **types, **changes}, 0).save_pretrained(folder)
    return folder


def test_a_first_release_with_its_old_names_and_half_precision_comes_over(tmp_path: Path) -> None:
    folder = small(tmp_path / "old")
    wanted = read_first_stage(folder)
    path = folder / "diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, tensor in safetensors.torch.load_file(path).items():
        key = name
        for new, before in names.items():
            key = key.replace(f".{new}.", f".{before}.")
        old[key] = tensor.half()
    path.write_bytes(safetensors.torch.save(old))
    assert any("proj_attn" in name for name in old)
    _, encoder, decoder = read_first_stage(folder)
    for got, want in ((encoder, wanted[1]), (decoder, wanted[2])):
        assert got.keys() == want.keys()
        assert all(torch.equal(got[name], want[name].half().float()) for name in want)


def test_the_autoencoder_of_a_pipeline_is_found(tmp_path: Path) -> None:
    small(tmp_path / "pipe" / "vae")
    (tmp_path / "pipe" / "model_index.json").write_text("{}")
    assert read_first_stage(tmp_path / "pipe")[0].latent_channels == 2


BAD = [
    ({"_class_name": "VQModel"}, "describes 'VQModel'"),
    ({"latent_channels": 0}, "latent_channels must be a whole number from 1"),
    ({"latent_channels": True}, "latent_channels must be"),
    ({"layers_per_block": 10**9}, "layers_per_block must be"),
    ({"down_block_types": ["CrossAttnDownBlock2D"] * 2}, "down_block_types"),
    ({"down_block_types": ["DownEncoderBlock2D"]}, "one entry for each of 2"),
    ({"act_fn": "__import__"}, "act_fn"),
    ({"norm_num_groups": 3}, "multiples of 3"),
    ({"latents_mean": [0.0]}, "one number for each of 2 latent channels"),
    ({"double_z": False}, "no log-variance"),
    ({"magic": 1}, "has the field 'magic'"),
    ({"block_out_channels": [65_536, 65_536], "norm_num_groups": 1}, "should be float32 of shape"),
    ({"use_quant_conv": False}, "does not know"),
]


@pytest.mark.parametrize(
    ("change", "sentence"), BAD, ids=[next(iter(change)) + str(i) for i, (change, _) in enumerate(BAD)]
)
def test_what_a_stranger_may_write_is_refused_before_it_is_built(
    tmp_path: Path, change: dict[str, object], sentence: str
) -> None:
    folder = small(tmp_path / "bad")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=sentence):
        read_first_stage(folder)


def test_pickles_links_and_missing_files_are_refused(tmp_path: Path) -> None:
    folder = small(tmp_path / "vae")
    weights = folder / "diffusion_pytorch_model.safetensors"
    kept = weights.rename(tmp_path / "kept")
    with pytest.raises(DamagedError, match=r"is missing \(there: config\.json\)"):
        read_first_stage(folder)
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match="is a pickle"):
        read_first_stage(folder)
    weights.symlink_to(kept)
    with pytest.raises(DamagedError, match="is a link"):
        read_first_stage(folder)
    weights.unlink()
    weights.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        read_first_stage(folder)
    with pytest.raises(UserError, match="is not a folder"):
        read_first_stage(tmp_path / "nowhere")


def test_export_of_a_run(first_stage: Path, tmp_path: Path, command) -> None:
    """Their encoder and decoder on their pixels give what ours give on ours; the scale is that of the training data."""
    out = tmp_path / "vae"
    code, shown, talk = command("export", first_stage, "--to", "diffusers", "-o", out)
    assert code == 0, talk
    assert "diffusers against sfumato: largest difference" in shown
    assert "scaling_factor" in shown
    assert talk.startswith('next:  python -c "from diffusers import AutoencoderKL')
    theirs, opened = AutoencoderKL.from_pretrained(out).eval(), open_model(first_stage)
    x, _ = opened.examples(None, "train")
    with torch.no_grad():
        moments = theirs.encode(torch.from_numpy(x).float() / 127.5 - 1).latent_dist
        picture = theirs.decode(moments.mean).sample
    ours = opened.model.encode(x)
    torch.testing.assert_close(moments.mean.flatten(1), ours.mean, **CLOSE)
    torch.testing.assert_close(moments.logvar.flatten(1), 2 * ours.stddev.log(), **CLOSE)
    expected = opened.model.model.decode(ours.mean).loc
    torch.testing.assert_close((picture + 1) / 2, expected, **CLOSE)

    square = (moments.mean.square() + moments.var).double()
    mean = moments.mean.double().mean((0, 2, 3))
    channel = (square.mean((0, 2, 3)) - mean.square()).sqrt()
    overall = (square.mean() - moments.mean.double().mean().square()).sqrt()
    config = theirs.config
    assert config.scaling_factor == pytest.approx(1 / float(overall), rel=1e-5)
    assert config.latents_mean == pytest.approx(mean.tolist(), rel=1e-4, abs=1e-6)
    assert config.latents_std == pytest.approx((channel / overall).tolist(), rel=1e-5)
    measured = json.loads((out / "latents.json").read_text())
    assert measured["std"] == pytest.approx(channel.tolist(), rel=1e-5)
    assert measured["n"] == len(x) == 48
    assert measured["split"] == "train"
    # a pipeline of Stable Diffusion XL, and an older one: deviation 1
    z = moments.mean + moments.std * torch.randn(moments.mean.shape, generator=torch.Generator().manual_seed(0))
    shape = (1, -1, 1, 1)
    xl = (z - torch.tensor(config.latents_mean).view(shape)) * config.scaling_factor
    xl = xl / torch.tensor(config.latents_std).view(shape)
    assert float(xl.std()) == pytest.approx(1, abs=0.05)
    assert float((z * config.scaling_factor).std()) == pytest.approx(1, abs=0.05)

    code, _, talk = command("export", first_stage, "--to", "diffusers", "-o", out)
    assert code == 2
    assert "exists" in talk
    for scaling, check in (
        ("factor", lambda c: c["latents_mean"] is None and c["scaling_factor"] == config.scaling_factor),
        (
            "channels",
            lambda c: c["scaling_factor"] == 1 and c["latents_std"] == pytest.approx(channel.tolist(), rel=1e-5),
        ),
    ):
        sfumato.export(first_stage, "diffusers", out=out, scaling=scaling, force=True, check=False)
        assert check(json.loads((out / "config.json").read_text()))


def test_the_error_of_the_scale_is_its_spread_over_data_sets(first_stage: Path) -> None:
    model = sfumato.load(first_stage)
    generator = np.random.default_rng(0)
    factors, errors = [], []
    for _ in range(60):
        x = (generator.integers(0, 255, (30, 1, 1, 1)) * generator.random((30, 1, 8, 8))).astype(np.uint8)
        found = measure_latents(model, x)
        factors.append(found.factor)
        errors.append(found.factor_error)
    assert np.mean(errors) == pytest.approx(np.std(factors), rel=0.3)


def test_of_many_rows_a_random_part_is_measured(
    first_stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files come sorted by class: their first rows say nothing about the others."""
    random = np.random.default_rng(0)
    x = np.zeros((200, 3, 16, 16), np.uint8)
    x[100:] = random.integers(0, 256, (100, 3, 16, 16))
    monkeypatch.setattr(to_diffusers, "MOST", 60)
    assert measure_latents(sfumato.load(first_stage), x[:, :1, :8, :8]).n == 60
    model = from_diffusers.build(*read_first_stage(small(tmp_path / "vae")), (16, 16))
    data = load_dataset(x)
    whole = from_diffusers.fit_variance(model, data)
    monkeypatch.setattr(from_diffusers, "MOST", 40)
    assert from_diffusers.fit_variance(model, data) == pytest.approx(whole, rel=0.1)
    assert from_diffusers.fit_variance(model, data, seed=1) != from_diffusers.fit_variance(model, data)
    rows = to_diffusers.some_rows(200, 40)
    assert len(set(rows)) == 40
    assert (np.diff(rows) > 0).all()


def test_another_architecture_is_refused_with_the_recipe(conditional: Path, tmp_path: Path, command) -> None:
    code, _, talk = command("export", conditional, "--to", "diffusers", "-o", tmp_path / "no")
    assert code == 2
    assert "--recipe autoencoder-kl" in talk
    assert not (tmp_path / "no").exists()


def test_import_without_data_and_back_is_bit_for_bit(tmp_path: Path, command) -> None:
    small(tmp_path / "vae", latents_mean=[0.5, -0.5], latents_std=[2.0, 1.0], scaling_factor=0.7)
    with chdir(tmp_path):
        code, shown, talk = command("import", "vae", "-o", "imported")
        assert code == 0, talk
        assert "not measured" in shown
        assert command("sample", "imported", "-n", "2", "-o", "s.png")[0] == 0
        model = sfumato.load("imported")
        assert model.sample(2, generator=0).shape == (2, 3, 16, 16)
        assert command("export", "imported", "--to", "diffusers", "-o", "back")[0] == 0
        assert "is a model folder" in command("export", "imported", "-o", "imported")[2]
    first, second = (
        safetensors.torch.load_file(tmp_path / name / "diffusion_pytorch_model.safetensors") for name in ("vae", "back")
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("vae", "back"))
    assert {key: value for key, value in after.items() if key in before} == before


def test_import_with_data_is_a_run_that_can_be_evaluated_and_trained_on(tmp_path: Path, command, monkeypatch) -> None:
    from sfumato.verbs import listeners

    monkeypatch.setattr(listeners, "write_report", lambda path, **content: Path(path).write_text("<html>"))
    small(tmp_path / "vae")
    x = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3)).astype(np.uint8)
    np.savez(tmp_path / "images.npz", x=x)
    with chdir(tmp_path):
        code, shown, talk = command("import", "vae", "images.npz", "-o", "runs/imported", "--quiet")
        assert code == 0, talk
        assert "grey values, measured" in shown
        assert "log p(data), at least" in shown
        evaluation = json.loads(Path("runs/imported/evaluation.json").read_bytes())
        assert evaluation["n"] == 4
        again = json.loads(command("evaluate", "runs/imported", "--json", "--quiet")[1])
        assert again["values"] == evaluation["values"]
        opened = open_model("runs/imported")
        train, _ = opened.examples(None, "train")
        with torch.no_grad():
            pixels = torch.from_numpy(train).float() / 127.5 - 1
            error = (opened.model.model.reconstruct(pixels, noise=True, generator=1) - pixels).square().mean()
        assert float(opened.model.model.likelihood.log_variance.exp()) == pytest.approx(float(error), rel=0.05)
        code, _, talk = command(
            "train", "images.npz", "--from", "runs/imported", "--steps", "3", "--out", "runs/tuned", "--quiet"
        )
        assert code == 0, talk
        tuned = open_model("runs/tuned")
        assert tuned.model.preprocessing.fixed
        before, after = opened.model.state_dict(), tuned.model.state_dict()
        moved = max(float((before[name] - after[name]).abs().max()) for name in before if "likelihood" not in name)
        assert 0 < moved < 0.01
        assert command("export", "runs/tuned", "--to", "diffusers")[0] == 0
        assert Path("runs/tuned/export/diffusers/config.json").exists()
        assert "how long" in command("train", "images.npz", "--from", "runs/imported", "--out", "x")[2]
        assert "Leave them out" in command("train", "images.npz", "--from", "vae", "--recipe", "mlp", "--steps", "1")[2]


def test_the_recipe_says_what_its_grid_needs(place: Path, command) -> None:
    dataset = load_dataset(place / "tiny.npz")
    assert dataset.shape == (1, 8, 8)
    with chdir(place):
        code, _, talk = command(
            "train", "tiny.npz", "--recipe", "autoencoder-kl", "--latent-dim", "7", "--steps", "1", "--out", "no"
        )
    assert code == 2
    assert "multiple of 4; got 7. Use --latent-dim 8" in talk
    assert not (place / "no").exists()


def test_parts_of_a_first_stage_that_is_none(conditional: Path) -> None:
    with pytest.raises(UserError, match="decoder is ConvDecoder"):
        parts_of(sfumato.load(conditional))


def test_a_large_image_goes_through_in_tiles_and_says_what_they_cost(
    first_stage: Path, tmp_path: Path, command
) -> None:
    x = np.random.default_rng(0).integers(0, 256, (1, 50, 35)).astype(np.uint8)
    Image.fromarray(x[0]).save(tmp_path / "large.png")
    out = tmp_path / "again.png"
    code, shown, talk = command("reconstruct", first_stage, tmp_path / "large.png", "--tile", "16", "-o", out)
    assert code == 0, talk
    assert "seams    rms" in shown
    with Image.open(out) as picture:
        assert picture.size == (35, 50)
    model = sfumato.load(first_stage)
    made = reconstruct_large(model, x, tile=16)
    assert made.x.shape == x.shape
    assert made.seam is not None
    assert 0 < made.seam.rms <= made.seam.largest
    whole = reconstruct_large(model, x, tile=64)
    assert whole.seam is not None
    assert whole.seam.largest < 1e-3
    assert (np.asarray(Image.open(out)) == made.x[0]).all()
    own = x[:, :8, :8]  # an image of the model's own size is its reconstruction
    assert np.abs(reconstruct_large(model, own, tile=64).x - model.reconstruct(own[None])[0].astype(int)).max() <= 1
    assert reconstruct_large(model, x, tile=16, compare=False).seam is None
    with pytest.raises(UserError, match="takes images of 1 channels"):
        reconstruct_large(model, x.repeat(3, 0))
