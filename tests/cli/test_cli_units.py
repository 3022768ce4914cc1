"""``sfumato units``: the same gradients, both ways, and the source of every number in words."""

from __future__ import annotations

import json
import math

import pytest
import torch
from cli_helpers import Command
from torch.distributions import Laplace, Normal, kl_divergence
from torch.nn import functional as F

from sfumato.core.gaussians import kl_parts
from sfumato.verbs.conversion import KLS, RECONSTRUCTIONS, Loss, from_theirs, to_theirs
from sfumato.verbs.units import PRESETS, weight_of

BATCH, DIMS, LATENT = 6, 10, 3
WEIGHT = 0.37


class Net(torch.nn.Module):
    """One fixed draw through an encoder and a decoder: the loss is a function of the weights alone."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Linear(DIMS, 2 * LATENT).double()
        self.decoder = torch.nn.Linear(LATENT, DIMS).double()
        self.noise = torch.randn(BATCH, LATENT).double()
        self.x = torch.rand(BATCH, DIMS).double().round()

    def forward(self) -> tuple[torch.Tensor, Normal]:
        mean, log_variance = self.encoder(self.x).chunk(2, -1)
        q = Normal(mean, (0.5 * log_variance).exp())
        return self.decoder(mean + q.scale * self.noise), q

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(self.parameters()))])


def as_they_write_it(net: Net, loss: Loss, weight: float) -> torch.Tensor:
    """Return the loss with torch's own reductions."""
    out, q = net()
    name, _, reduction = loss.reconstruction.partition("-")
    torch_name = {"mean": "mean", "sum": "sum", "total": "sum"}[reduction]
    error = {
        "mse": lambda: F.mse_loss(out, net.x, reduction=torch_name),
        "l1": lambda: F.l1_loss(out, net.x, reduction=torch_name),
        "bce": lambda: F.binary_cross_entropy_with_logits(out, net.x, reduction=torch_name),
        "nll": lambda: {"mean": torch.mean, "sum": torch.sum}[torch_name](-Normal(out, 0.7).log_prob(net.x)),
    }[name]()
    error = error / BATCH if reduction == "sum" else error
    mean, log_variance = q.loc, 2 * q.scale.log()
    kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp())
    kl = {"sum-mean": kl.sum(1).mean(), "mean": kl.mean(), "total": kl.sum()}[loss.kl]
    return loss.reconstruction_weight * error + weight * kl


def as_we_write_it(net: Net, error: str, beta: float, sigma: float | None) -> torch.Tensor:
    """Return -E_q log p(x | z) + beta KL, nats, summed over values and latents, mean over examples."""
    out, q = net()
    if error == "mse":
        log_density = Normal(out, sigma).log_prob(net.x)
    elif error == "l1":
        assert sigma is not None
        log_density = Laplace(out, sigma / math.sqrt(2)).log_prob(net.x)
    elif error == "bce":
        log_density = torch.distributions.Bernoulli(logits=out).log_prob(net.x)
    else:
        log_density = Normal(out, 0.7).log_prob(net.x)
    parts = kl_parts(q, Normal(torch.zeros_like(q.loc), torch.ones_like(q.loc)))
    assert parts is not None
    return (-log_density.sum(1) + beta * (parts[0] + parts[1]).sum(1)).mean()


def sized(reconstruction: str, kl: str, factor: float = 1.0) -> Loss:
    return Loss(reconstruction, kl, factor, dims=DIMS, latent_dim=LATENT, batch=BATCH)


@pytest.mark.parametrize("kl", KLS)
@pytest.mark.parametrize("reconstruction", RECONSTRUCTIONS)
def test_every_reading_has_the_gradients_of_the_original(reconstruction: str, kl: str) -> None:
    loss, net = sized(reconstruction, kl, 2.5), Net()
    theirs = net.gradient(as_they_write_it(net, loss, WEIGHT))
    found = from_theirs(loss, WEIGHT, rmse=0.3 if loss.error in ("mse", "l1") else None)
    assert len(found.readings) == {"mse": 4, "l1": 3}.get(loss.error, 1)
    for reading in found.readings:
        ours = net.gradient(as_we_write_it(net, loss.error, reading.beta, reading.sigma))
        torch.testing.assert_close(ours / ours.norm(), theirs / theirs.norm(), rtol=1e-9, atol=1e-12)
        wrong = net.gradient(as_we_write_it(net, loss.error, 1.1 * reading.beta, reading.sigma))
        assert float((wrong / wrong.norm() - theirs / theirs.norm()).abs().max()) > 1e-6


@pytest.mark.parametrize("kl", KLS)
@pytest.mark.parametrize("reconstruction", RECONSTRUCTIONS)
def test_there_and_back(reconstruction: str, kl: str) -> None:
    loss = sized(reconstruction, kl)
    for reading in from_theirs(loss, WEIGHT).readings:
        assert to_theirs(loss, reading.beta, reading.sigma).weight == pytest.approx(WEIGHT, rel=1e-12)


@pytest.mark.parametrize("reconstruction", ["mse-mean", "mse-sum", "mse-total", "l1-mean", "l1-sum"])
def test_a_value_of_their_loss_is_our_elbo_at_the_variance_that_it_means(reconstruction: str) -> None:
    loss, net = sized(reconstruction, "total" if "total" in reconstruction else "sum-mean", 2.5), Net()
    value = float(as_they_write_it(net, loss, WEIGHT).detach())
    found = from_theirs(loss, WEIGHT, loss=value)
    first = found.readings[0]
    assert first.beta == 1
    assert found.negative_elbo == pytest.approx(
        float(as_we_write_it(net, loss.error, 1.0, first.sigma).detach()), rel=1e-12
    )


def test_the_kl_of_these_tests_is_torchs() -> None:
    net = Net()
    q = net()[1]
    parts = kl_parts(q, Normal(torch.zeros_like(q.loc), torch.ones_like(q.loc)))
    assert parts is not None
    exact = kl_divergence(q, Normal(torch.zeros_like(q.loc), torch.ones_like(q.loc)))
    torch.testing.assert_close(parts[0] + parts[1], exact)


def test_by_hand() -> None:
    """AntixK/PyTorch-VAE: mse_loss(mean) + 0.00025 KL on 3x64x64 images."""
    found = from_theirs(Loss("mse-mean", dims=3 * 64 * 64), 0.00025)
    assert [reading.beta for reading in found.readings] == pytest.approx([1.0, 3.072, 1.536])
    assert [reading.variance for reading in found.readings] == pytest.approx([1.536, 0.5, 1.0])
    pythae = PRESETS["pythae"]
    assert from_theirs(pythae.loss, pythae.weight).readings[0].variance == pytest.approx(0.5)
    assert weight_of("64/128") == 0.5
    for name, preset in PRESETS.items():
        readings = from_theirs(preset.loss, preset.weight).readings
        assert all(math.isfinite(reading.beta) and reading.beta > 0 for reading in readings), name
        assert " at " in preset.source


def test_in_words_and_as_json(command: Command) -> None:
    words = ["units", "--reconstruction", "mse-mean", "--kl", "sum-mean", "--weight", "0.00025", "--dims", "12288"]
    result = command(*words, "--latent-dim", "128", "--batch", "64", "--rmse", "0.1", "--deviation", "0.5")
    assert result.code == 0, result.err
    for word in (
        "beta 1 ",
        "sigma^2 1.536",
        "beta 3.072",
        "sigma^2 0.5",
        "beta 153.6",
        "factor of 12,288",
        "scale=2.479",
    ):
        assert word in result.out
    content = json.loads(command(*words, "--json").out)
    assert content["ours"][0]["variance"] == pytest.approx(1.536)
    assert content["theirs"]["weight"] == 0.00025
    turned = "units --reconstruction mse-mean --beta 1 --sigma 0.1 --dims 12288 --json"
    back = json.loads(command(*turned.split()).out)
    assert back["theirs"]["weight"] == pytest.approx(2 * 0.01 / 12288)


def test_presets(command: Command) -> None:
    listed = command("units")
    assert listed.code == 0
    assert all(name in listed.out for name in PRESETS)
    assert [row["preset"] for row in json.loads(command("units", "--json").out)] == list(PRESETS)
    result = command("units", "--preset", "pytorch-vae")
    assert "AntixK/PyTorch-VAE" in result.out
    assert "1.536" in result.out
    smaller = command("units", "--preset", "pytorch-vae", "--dims", "3072")
    assert "0.384" in smaller.out
    assert "nothing keeps the noise" in command("units", "--reconstruction", "mse-sum", "--weight", "0").out


@pytest.mark.parametrize(
    ("words", "wrong", "right"),
    [
        ("--reconstruction mse-mean --weight 1", "mse-mean", "--dims"),
        ("--reconstruction mse-sum --kl mean --weight 1", "--kl mean", "--latent-dim"),
        ("--reconstruction mse-total --kl sum-mean --weight 1", "mse-total", "--batch"),
        ("--reconstruction mse-men --weight 1", "mse-men", "'mse-mean'"),
        ("--reconstruction mse-sum", "--weight", "--beta"),
        ("--reconstruction mse-sum --weight 1 --beta 1", "--weight", "--beta"),
        ("--reconstruction mse-sum --beta 1", "mse", "--sigma"),
        ("--reconstruction bce-sum --beta 1 --sigma 2", "--sigma", "bce"),
        ("--reconstruction bce-sum --weight 1 --rmse 2", "--rmse", "bce"),
        ("--reconstruction bce-sum --weight 2 --loss 3", "--loss", "not 1"),
        ("--reconstruction mse-sum --weight 1 --sigma 2", "--sigma", "--beta"),
        ("--reconstruction mse-sum --weight -1", "-1", "64/162770"),
        ("--reconstruction mse-sum --weight 1/0", "1/0", "64/162770"),
        ("--preset pythea", "pythea", "'pythae'"),
        ("--preset pythae --kl mean", "--preset", "--kl"),
        ("--weight 1", "--reconstruction", "sfumato units"),
    ],
)
def test_mistakes_are_one_sentence(words: str, wrong: str, right: str, command: Command) -> None:
    result = command("units", *words.split())
    assert result.code == 2
    assert result.out == ""
    assert len(result.err.splitlines()) == 1
    assert result.err.startswith("error: ")
    assert wrong in result.err
    assert right in result.err
