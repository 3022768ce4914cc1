"""Linear-Gaussian models, whose evidence, posterior and gap are known, and probabilistic PCA.

    python benchmarks/linear_gaussian.py

    z ~ N(0, I),  x | z ~ N(W z + b, v I):   p(x) = N(b, W W^T + v I),   p(z | x) = N(M^-1 W^T (x - b), v M^-1)

with M = W^T W + v I. A diagonal posterior is exact where W has orthogonal columns. The
maximum of the likelihood is known too: Probabilistic Principal Component Analysis, Tipping and Bishop, 1999; that a
linear VAE reaches it: Don't Blame the ELBO!, Lucas et al., 2019, https://arxiv.org/abs/1911.02469.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from certificate import certificate, write_result
from sfumato.core.numerics import fixed_noise
from sfumato.core.schedules import WarmUpCosine
from sfumato.likelihoods import Gaussian
from sfumato.models import VAE
from sfumato.networks import MLP
from sfumato.objectives import ELBO
from sfumato.posteriors import DiagonalGaussian
from sfumato.posteriors.diagonal_gaussian import LOG_VARIANCE_BOUNDS
from sfumato.priors import StandardNormal

DATA, LATENT = 5, 2


def loadings(data: int = DATA, latent: int = LATENT) -> Tensor:
    """Return W (data, latent) with orthogonal columns of different lengths, float64."""
    generator = torch.Generator().manual_seed(3)
    square, _ = torch.linalg.qr(torch.randn(data, data, generator=generator, dtype=torch.float64))
    return square[:, :latent] * torch.linspace(1.5, 0.5, latent, dtype=torch.float64)


def affine(inputs: int, outputs: tuple[int, ...], weight: Tensor, bias: Tensor) -> MLP:
    """Return the network x -> weight x + bias."""
    network = MLP((inputs,), outputs, hidden=())
    network.double()
    with torch.no_grad():
        network.layers[-1].weight.copy_(weight)
        network.layers[-1].bias.copy_(bias)
    return network


def before_bound(log_variance: Tensor) -> Tensor:
    """Return what the posterior's soft bound turns into exactly ``log_variance``."""
    low, high = LOG_VARIANCE_BOUNDS
    upper = low + (log_variance - low).expm1().log()
    return high - (high - upper).expm1().log()


def linear_vae(weight: Tensor, bias: Tensor, variance: float) -> VAE:
    """Return the VAE of this model in float64, whose posterior is the exact one."""
    data, latent = weight.shape
    m = (weight.T @ weight).diagonal() + variance
    back = weight.T / m[:, None]
    model = VAE(
        StandardNormal(latent),
        DiagonalGaussian(
            mean=affine(data, (latent,), back, -back @ bias),
            log_variance=affine(data, (latent,), torch.zeros(latent, data), before_bound((variance / m).log())),
        ),
        affine(latent, (1, data), weight, bias),
        Gaussian((data,), variance="fixed", scale=math.sqrt(variance)),
    )
    model.double().eval()
    model.likelihood.log_variance.fill_(math.log(variance))  # the constructor's is rounded to float32
    return model


def evidence(weight: Tensor, bias: Tensor, variance: float) -> MultivariateNormal:
    """Return p(x)."""
    eye = torch.eye(len(bias), dtype=torch.float64)
    return MultivariateNormal(bias, weight @ weight.T + variance * eye)


def probabilistic_pca(x: Tensor, latent: int) -> float:
    """Return the mean log-likelihood of ``x`` (n, data) at its maximum over W, b and v, nats per example."""
    data = x.shape[1]
    values = torch.linalg.eigvalsh(torch.cov(x.double().T, correction=0)).flip(0)
    noise = float(values[latent:].mean())
    log_det = float(values[:latent].log().sum()) + (data - latent) * math.log(noise)
    return -0.5 * (data * math.log(2 * math.pi) + log_det + data)


def trained_linear_vae(seed: int, rows: int, steps: int, data: int, latent: int) -> dict[str, float]:
    """Train a linear VAE on its own kind of data; return nats per example on that data.

    ``pca`` is the best that any such model can do, ``evidence`` the exact log p(x) of the trained decoder, ``elbo`` the
    bound with the trained encoder.
    """
    with fixed_noise(seed):
        x = evidence(loadings(data, latent), torch.linspace(-1, 1, data, dtype=torch.float64), 0.2).sample((rows,))
        x = x.float()
        networks = [MLP((data,), (latent,), hidden=()) for _ in range(2)]
        decoder = MLP((latent,), (1, data), hidden=())
        model = VAE(StandardNormal(latent), DiagonalGaussian(*networks), decoder, Gaussian((data,), variance="shared"))
        objective, schedule = ELBO(), WarmUpCosine(steps)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = 0.02 * schedule(step)
            optimizer.zero_grad()
            objective(model(x), step).losses["model"].mean().backward()
            optimizer.step()
        with torch.no_grad():
            # Near the exact posterior log p(x, z) - log q(z | x) hardly varies with z: no noise to average away.
            bound = float(ELBO(kl="sampled")(model(x, None, 10), steps).values["elbo"].double().mean())
            layer, variance = decoder.layers[-1], float(model.likelihood.log_variance.exp())
            exact = evidence(layer.weight.double(), layer.bias.double(), variance).log_prob(x.double())
    return {"pca": probabilistic_pca(x, latent), "evidence": float(exact.mean()), "elbo": bound}


def error_at_the_exact_posterior(seed: int, rows: int) -> float:
    """Return the largest |ELBO - log p(x)| over ``rows`` examples, one draw each, float64."""
    weight, bias = loadings(), torch.linspace(-1, 1, DATA, dtype=torch.float64)
    with fixed_noise(seed), torch.no_grad():
        exact = evidence(weight, bias, 0.3)
        x = exact.sample((rows,))
        bound = ELBO(kl="sampled")(linear_vae(weight, bias, 0.3)(x), 0).values["elbo"]
    return float((bound - exact.log_prob(x)).abs().max())


def summary(values: list[float]) -> dict[str, float | int]:
    """Return mean, standard error and n."""
    tensor = torch.tensor(values, dtype=torch.float64)
    return {"mean": float(tensor.mean()), "standard_error": float(tensor.std() / len(values) ** 0.5), "n": len(values)}


def main() -> None:
    torch.set_num_threads(1)  # tensors too small to share
    seeds, setting = range(5), {"rows": 5000, "steps": 1500, "data": 10, "latent": 3}
    runs = [trained_linear_vae(seed, **setting) for seed in seeds]
    result = certificate(recipe="linear VAE on linear-Gaussian data, Adam, full batch", seeds=list(seeds))
    result |= {
        "setting": setting,
        "unit": "nats per example",
        "gap_elbo_to_pca": summary([run["pca"] - run["elbo"] for run in runs]),
        "gap_evidence_to_pca": summary([run["pca"] - run["evidence"] for run in runs]),
        "largest_error_at_exact_posterior": max(error_at_the_exact_posterior(seed, 1000) for seed in seeds),
        "runs": runs,
    }
    print(write_result("linear_gaussian", result).read_text())


if __name__ == "__main__":
    main()
