"""sfumato: variational autoencoders on your own data.

>>> import sfumato
>>> data = sfumato.inspect("fashion-mnist-mini")
>>> data
Dataset(fashion-mnist-mini: 12,000 images 1x28x28, 10 classes)

``sfumato.train(data, time="5m")`` trains, evaluates and reports; ``sfumato.load("runs/NAME")`` opens a model.
Everything is imported when it is first asked for, so that ``import sfumato`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.app import explore, serve
    from sfumato.data import load_dataset
    from sfumato.verbs.cite import cite
    from sfumato.verbs.doctor import doctor
    from sfumato.verbs.encode import encode
    from sfumato.verbs.evaluate import evaluate
    from sfumato.verbs.export import export
    from sfumato.verbs.fit_prior import fit_prior
    from sfumato.verbs.from_diffusers import import_first_stage
    from sfumato.verbs.generate import decode, interpolate, reconstruct, sample
    from sfumato.verbs.impute import impute
    from sfumato.verbs.info import info
    from sfumato.verbs.opening import load
    from sfumato.verbs.python import demo, inspect, train, units
    from sfumato.verbs.sweep import sweep
    from sfumato.verbs.train import resume
    from sfumato.verbs.verify_resume import verify_resume

    __version__: str

_PLACES = {
    "cite": "sfumato.verbs.cite",
    "decode": "sfumato.verbs.generate",
    "demo": "sfumato.verbs.python",
    "doctor": "sfumato.verbs.doctor",
    "encode": "sfumato.verbs.encode",
    "evaluate": "sfumato.verbs.evaluate",
    "explore": "sfumato.app",
    "export": "sfumato.verbs.export",
    "fit_prior": "sfumato.verbs.fit_prior",
    "import_first_stage": "sfumato.verbs.from_diffusers",
    "impute": "sfumato.verbs.impute",
    "info": "sfumato.verbs.info",
    "inspect": "sfumato.verbs.python",
    "interpolate": "sfumato.verbs.generate",
    "load": "sfumato.verbs.opening",
    "load_dataset": "sfumato.data",
    "reconstruct": "sfumato.verbs.generate",
    "resume": "sfumato.verbs.train",
    "sample": "sfumato.verbs.generate",
    "serve": "sfumato.app",
    "sweep": "sfumato.verbs.sweep",
    "train": "sfumato.verbs.python",
    "units": "sfumato.verbs.python",
    "verify_resume": "sfumato.verbs.verify_resume",
}

__all__ = [
    "__version__",
    "cite",
    "decode",
    "demo",
    "doctor",
    "encode",
    "evaluate",
    "explore",
    "export",
    "fit_prior",
    "import_first_stage",
    "impute",
    "info",
    "inspect",
    "interpolate",
    "load",
    "load_dataset",
    "reconstruct",
    "resume",
    "sample",
    "serve",
    "sweep",
    "train",
    "units",
    "verify_resume",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # takes as long as everything else that the command's help imports

        return version("sfumato")
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'sfumato' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
