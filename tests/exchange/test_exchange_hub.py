"""Model folders to the Hub and from it, against a stand-in; nothing leaves this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
import yaml
from hub_stand_in import Hub, standing_in
from huggingface_hub import ModelCard

import sfumato
from sfumato.core import strict_json
from sfumato.core.errors import SfumatoError, UserError
from sfumato.estimators import VAETransformer
from sfumato.io import store
from sfumato.io.hub import parse_address
from sfumato.io.store import DamagedError
from sfumato.verbs.card import model_card, text
from sfumato.verbs.opening import open_model

NAME = "ada/photos"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own uploads


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The stand-in, and a home for huggingface_hub that nobody shares."""
    with standing_in() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("HF_TOKEN", server.token)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        yield server


def test_a_model_goes_there_and_comes_back(hub: Hub, conditional: Path, command, tmp_path: Path) -> None:
    code, shown, talk = command("export", conditional, "--to", "hub", NAME, "--private")
    assert code == 0, talk
    assert f"{hub.address}/{NAME}/commit/" in shown
    assert "sfumato.load('hf://ada/photos')" in talk
    files = hub.repositories[NAME]
    assert set(files) == {"config.json", "model.safetensors", "manifest.json", "README.md"}
    assert hub.private[NAME]
    for name in ("config.json", "model.safetensors", "manifest.json"):
        assert files[name] == (conditional / "model" / name).read_bytes()
    first, here = sfumato.load(f"hf://{NAME}"), sfumato.load(conditional)
    second = sfumato.load(f"hf://{NAME}@{hub.oid(NAME)}")
    for other in (first, second):
        assert all(
            torch.equal(a, b) for a, b in zip(other.state_dict().values(), here.state_dict().values(), strict=True)
        )
        assert torch.equal(other.sample(3, "top", generator=0), here.sample(3, "top", generator=0))
    assert command("sample", f"hf://{NAME}", "-n", "2", "-o", tmp_path / "s.png")[0] == 0
    assert not {path for _, path, _, _ in hub.requests if "README" in path and "resolve" in path}, "no code, no card"
    # the token went with the requests and nowhere else
    kept = [*files.values(), *(sent for _, _, _, sent in hub.requests)]
    kept += [path.read_bytes() for path in [*conditional.rglob("*"), *tmp_path.rglob("*")] if path.is_file()]
    assert not [data for data in kept if hub.token.encode() in data]
    assert hub.token not in shown + talk


def test_nothing_is_sent_unless_asked(hub: Hub, conditional: Path, command) -> None:
    assert command("info", conditional)[0] == 0
    assert command("cite", conditional)[0] == 0
    assert command("export", conditional, NAME)[0] == 2
    assert command("export", conditional, "--to", "hub")[0] == 2
    assert not hub.requests


def test_the_card_says_what_was_measured(hub: Hub, conditional: Path) -> None:
    opened = open_model(conditional)
    source = model_card(opened, NAME)
    card = ModelCard(source)
    head = yaml.safe_load(source.split("---")[1])
    assert head["library_name"] == "sfumato"
    assert head["pipeline_tag"] == "unconditional-image-generation"
    results = {entry.metric_type: entry for entry in card.data.eval_results}
    evaluation = opened.folder.read_evaluation()
    bits = evaluation["values"]["bits_per_dim"]
    assert results["bits_per_dim"].metric_value == bits["value"]
    assert f"n = {bits['n']}" in results["bits_per_dim"].metric_name
    assert results["bits_per_dim"].dataset_split == "test"
    assert f"| {bits['n']:,} |" in card.text
    assert " ± " in card.text
    assert "K = 100" in card.text
    settings = card.text.split("## Settings")[1].split("## ")[0].splitlines()
    rows = [line for line in settings if line.startswith("| ") and "because" not in line]
    kinds = ["asked for" in row for row in rows]
    assert kinds == sorted(kinds, reverse=True), "what was asked for comes first"
    assert any(kinds)
    assert not all(kinds)
    for words in ("48 train", "3 classes", "torch ", "@misc{kingma2014auto", 'sfumato.load("hf://ada/photos")'):
        assert words in card.text
    assert "<b>" not in card.text
    assert "mid\\|dle" in card.text


def test_what_is_pinned_is_what_was_there_then(hub: Hub, conditional: Path, tmp_path: Path) -> None:
    sfumato.export(conditional, "hub", NAME)
    with np.load(conditional.parent / "tiny.npz") as data:
        other = VAETransformer(2, max_iter=1, random_state=0).fit(data["x"].reshape(60, -1).astype(float))
    sfumato.export(other.save(tmp_path / "other"), "hub", NAME)
    first, second = hub.commits[NAME]
    assert sfumato.load(f"hf://{NAME}@{first}").class_names == ("top", "mid|dle", "<b>")
    assert sfumato.load(f"hf://{NAME}").class_names == ()
    assert sfumato.load(f"hf://{NAME}@{second}").class_names == ()


def deep(files: dict[str, bytes]) -> dict[str, bytes]:
    return {"config.json": b'{"model":' * 50_000 + b"1" + b"}" * 50_000}


def elsewhere(files: dict[str, bytes]) -> dict[str, bytes]:
    manifest = json.loads(files["manifest.json"])
    manifest["files"]["../../outside"] = manifest["files"].pop("config.json")
    return {"manifest.json": signed(manifest)}


def code(files: dict[str, bytes]) -> dict[str, bytes]:
    config = json.loads(files["config.json"])
    config["model"] = {"class": "os.system", "command": "touch /tmp/no"}
    return {"config.json": json.dumps(config).encode()}


def pickled(files: dict[str, bytes]) -> dict[str, bytes]:
    return {"model.safetensors": b"\x80\x04\x95" + b"." * 200}


def large(files: dict[str, bytes]) -> dict[str, bytes]:
    return {"config.json": files["config.json"] + b" " * 1_000_000}


def signed(manifest: dict[str, Any]) -> bytes:
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return strict_json.dump(rest | {"sha256": store._digest(rest)})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (deep, "is not valid json|nests deeper"),
        (elsewhere, r"manifest\.json is damaged"),
        (code, "there is no packaged named 'os.system'"),
        (pickled, "is a pickle"),
        (large, r"config\.json of ada/hostile is 1,00\d,\d+ bytes long"),
    ],
)
def test_files_of_a_stranger_are_refused_in_one_sentence_and_write_nothing(
    hub: Hub, conditional: Path, tmp_path: Path, change: Callable[..., dict[str, bytes]], sentence: str
) -> None:
    """The manifest is the stranger's own, so it agrees with what was changed."""
    sfumato.export(conditional, "hub", NAME)
    files = {key: value for key, value in hub.repositories[NAME].items() if key != "README.md"}
    hub.repositories["ada/signed"] = files | {"manifest.json": signed(json.loads(files["manifest.json"]))}
    sfumato.load("hf://ada/signed")
    changed = files | change(files)
    if change is not elsewhere:
        changed = store.with_manifest({key: changed[key] for key in ("config.json", "model.safetensors")})
    hub.repositories["ada/hostile"] = changed | {"evil.py": b"raise SystemExit"}
    before = {path for path in tmp_path.parent.rglob("*") if "cache" not in path.parts}
    with pytest.raises(UserError, match=sentence) as caught:
        sfumato.load("hf://ada/hostile")
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)
    assert {path for path in tmp_path.parent.rglob("*") if "cache" not in path.parts} == before
    assert not [path for _, path, _, _ in hub.requests if path.endswith(".py")], "what is not asked for is not fetched"


def test_names_from_data_are_text() -> None:
    assert text("<script>|`x`\n[a](b)") == "&lt;script&gt;\\|\\`x\\` \\[a\\](b)"


def test_a_model_folder_alone_has_a_card_too(hub: Hub, conditional: Path, tmp_path: Path) -> None:
    shutil.copytree(conditional / "model", tmp_path / "alone")
    sfumato.export(tmp_path / "alone", "hub", NAME)
    assert b"Not evaluated." in hub.repositories[NAME]["README.md"]
    assert sfumato.load(f"hf://{NAME}").model.num_classes == 3


def test_what_a_stranger_may_send_is_refused(hub: Hub, conditional: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sfumato.export(conditional, "hub", NAME)
    good = dict(hub.repositories[NAME])
    with pytest.raises(UserError, match="there is no model ada/other on the Hub"):
        sfumato.load("hf://ada/other")
    with pytest.raises(UserError, match="no such revision"):
        sfumato.load(f"hf://{NAME}@v7")
    hub.sizes["model.safetensors"] = 2**40
    with pytest.raises(UserError, match="at most 8,589,934,592 bytes are fetched"):
        sfumato.load(f"hf://{NAME}")
    hub.sizes = {"config.json": 2_000_000}
    with pytest.raises(UserError, match=r"config\.json of ada/photos is 2,000,000 bytes long"):
        sfumato.load(f"hf://{NAME}")
    hub.sizes = {}
    weights = bytearray(good["model.safetensors"])
    weights[-1] ^= 1
    hub.repositories["ada/changed"] = {**good, "model.safetensors": bytes(weights)}
    with pytest.raises(DamagedError, match="has changed since it was written"):
        sfumato.load("hf://ada/changed")
    hub.repositories["ada/pickle"] = {"pytorch_model.bin": b"\x80\x04", "config.json": b"{}"}
    with pytest.raises(UserError, match="holds no model of sfumato"):
        sfumato.load("hf://ada/pickle")
    assert not [path for _, path, _, _ in hub.requests if path.endswith(".bin")]


def test_without_a_login_or_a_network_it_is_one_sentence(
    hub: Hub, conditional: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sfumato.export(conditional, "hub", NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match="Log in with: hf auth login"):
        sfumato.export(conditional, "hub", NAME)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SfumatoError, match="not in the cache"):
        sfumato.load(f"hf://{NAME}")


def test_what_was_fetched_once_is_there_offline(hub: Hub, conditional: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sfumato.export(conditional, "hub", NAME)
    here = sfumato.load(f"hf://{NAME}")
    asked = len(hub.requests)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    again = sfumato.load(f"hf://{NAME}")
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), here.state_dict().values(), strict=True))
    assert len(hub.requests) == asked


def test_a_process_of_its_own_finds_the_endpoint_in_the_environment(
    hub: Hub, conditional: Path, tmp_path: Path
) -> None:
    sfumato.export(conditional, "hub", NAME)
    environment = {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(tmp_path / "home"),
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    code = f"import sfumato; print(sfumato.load('hf://{NAME}'))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "latent 3" in done.stdout


@pytest.mark.parametrize("address", ["hf://ada", "hf://", "hf://../x", "hf://ada/a..b", "hf://ada/x@--y", "hf://a/b/c"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(UserError, match="should be hf://OWNER/NAME"):
        parse_address(address)
