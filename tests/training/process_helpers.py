"""Several processes that train together, forked from this one; and models whose noise belongs to the example."""

import json
import os
import shutil
import tempfile
import types
import weakref
from datetime import timedelta

import torch
from torch import distributed, nn
from training_helpers import COUNT, DIM, Child, tiny, trainer

from sfumato.core.terms import Level, Terms
from sfumato.data import InMemory
from sfumato.likelihoods import Gaussian
from sfumato.models import VAE
from sfumato.networks import MLP
from sfumato.objectives import ELBO, PriorEnergy
from sfumato.posteriors import Dirac
from sfumato.priors import Exemplar, StandardNormal


class Team:
    """``count`` processes that do ``work(rank)``, whose returned value is json."""

    def __init__(self, count, work):
        self.place = tempfile.mkdtemp(prefix="team-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        weakref.finalize(self, shutil.rmtree, self.place, ignore_errors=True)  # the children leave without it
        self.count = count
        self.children = [Child(lambda rank=rank: self._run(rank, work)) for rank in range(count)]

    def _run(self, rank, work):
        from accelerate import PartialState

        PartialState._reset_state()
        torch.set_num_threads(1)
        place = f"file://{self.place}/meeting"
        distributed.init_process_group(
            "gloo", init_method=place, rank=rank, world_size=self.count, timeout=timedelta(minutes=4)
        )
        found = work(rank)
        with open(f"{self.place}/{rank}.part", "w") as file:
            json.dump(found, file)
        os.rename(file.name, f"{self.place}/{rank}.json")
        distributed.destroy_process_group()

    def codes(self):
        return [child.wait(280) for child in self.children]

    def results(self):
        """Return what each process returned."""
        assert self.codes() == [0] * self.count
        return [self.result(rank) for rank in range(self.count)]

    def result(self, rank):
        with open(f"{self.place}/{rank}.json") as file:
            return json.load(file)


def together(count, work):
    """Return what ``work(rank)`` returns in each of ``count`` processes."""
    return Team(count, work).results()


class Plain(nn.Module):
    """Takes the data as they are."""

    def forward(self, raw):
        return raw


def terms_of_the_example(self, x, y=None, samples=1):
    """Return the terms with a noise that is a function of the example, whichever process computes it."""
    posterior = self.posterior(x, y)
    mean, deviation = posterior.mean, posterior.stddev
    places = torch.arange(1, mean.shape[-1] + 1, dtype=x.dtype)
    noise = torch.sin(1e3 * x.sum(-1, keepdim=True) * places) * 1.4
    noise = torch.stack([noise * (1 - sample / 7) for sample in range(samples)])
    z = mean + deviation * noise
    return Terms(x, y, (Level(z, posterior, self.prior(y)),), self.likelihood(self.decoder(z, y)))


def exact(kind):
    """Return a ``change`` for :func:`trainer`: float64, and noise of the example or none."""

    def change(model, objective, train, validation, preprocessing):
        if kind in ("dirac", "exemplars"):
            with torch.random.fork_rng():
                torch.manual_seed(0)
                prior = StandardNormal(4) if kind == "dirac" else Exemplar(4, (DIM,), 20, nearest=2)
                model = VAE(prior, Dirac(MLP((DIM,), (4,))), MLP((4,), (1, DIM)), Gaussian((DIM,), "shared"))
            objective = ELBO(beta=0.0) if kind == "dirac" else ELBO(beta=0.0) + PriorEnergy()
        model = model.double()
        if kind not in ("dirac", "exemplars"):
            model.terms = types.MethodType(terms_of_the_example, model)
        parts = [InMemory(each.x.double() / each.x.abs().max(), each.y) for each in (train, validation)]
        if kind in ("conditional", "iwae"):
            parts = [InMemory(each.x.round(), each.y) for each in parts]
        if kind == "exemplars":
            model.prior.start_from(parts[0].x[:20])
        return model, objective, *parts, Plain()

    return change


def exact_trainer(kind, folder=None, **arguments):
    """Return a trainer in float64 of one of :data:`KINDS`, or of "dirac" or "exemplars"."""
    basis = "optimal" if kind in ("dirac", "exemplars") else kind
    return trainer(folder, kind=basis, change=exact(kind), **arguments)


def numbers(done):
    """Return name -> list of all weights, averages and moments, and the lines of metrics."""
    tensors, _ = done.state.capture()
    named = {f"{stem}.{name}": value for stem in ("model", "ema", "optimizer") for name, value in tensors[stem].items()}
    return {name: value.double().flatten().tolist() for name, value in named.items()}


def exactly(values):
    """Return a list of numbers in float64, which torch would round to float32 if nobody said."""
    return torch.tensor(values, dtype=torch.float64)


def distance(one, other):
    """Return the largest difference of two of :func:`numbers`."""
    assert one.keys() == other.keys()
    return max(float((exactly(one[name]) - exactly(other[name])).abs().max()) for name in one if one[name])


assert COUNT % 40 == 3, "the last batch has fewer examples than four processes"
assert tiny
