"""The configuration file of ``train --config``: the tree of a run, in json or yaml, from a file that is not trusted.

A ``run.json`` and the ``config.json`` of a model folder are such files. What the file decides cannot be decided by an
option at the same time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml

from sfumato.core import strict_json
from sfumato.core.errors import UserError
from sfumato.core.paths import check_exists
from sfumato.data.files import check_regular
from sfumato.io.store import explained
from sfumato.recipes import Options

_OPTIONS = {
    "model": ("recipe", "latent_dim", "levels", "conditional", "condition", "likelihood"),
    "objective": ("beta", "careful"),
    "training": ("epochs", "steps", "seconds", "batch_size", "learning_rate", "engine", "shard", "careful"),
    "preprocessing": ("binarise",),
}
_NAMES = {"seconds": "time", "batch_size": "batch", "learning_rate": "lr"}
_LIKELIHOODS = {
    "Bernoulli": "bernoulli",
    "Gaussian": "gaussian",
    "DiscretizedLogistic": "logistic",
    "Categorical": "categorical",
    "Poisson": "poisson",
    "NegativeBinomial": "negative-binomial",
    "ContinuousBernoulli": "continuous-bernoulli",
    "Laplace": "laplace",
    "StudentT": "student-t",
    "Ordinal": "ordinal",
    "MixtureOfLogistics": "mixture-of-logistics",
    "Mixed": "mixed",
}


def read_config(path: str | Path) -> dict[str, Any]:
    """Return the tree of a configuration file.

    Raises:
        UserError: no such file, too long, too deep, a key twice, an alias, not json or yaml, not a table.
    """
    path = check_exists(str(path), ())
    if path.is_dir():
        raise UserError(f"{path} is a folder; expected a configuration file, .json or .yaml.")
    check_regular(path)
    with explained(path, "read"), path.open("rb") as file:
        data = file.read(strict_json.MAX_BYTES + 1)
    parse = strict_json.parse if path.suffix.lower() == ".json" else parse_yaml
    tree = parse(data, path.name)
    if not isinstance(tree, dict):
        raise UserError(f"{path.name} should be a table with the parts {', '.join(_OPTIONS)}. Start from a run.json.")
    return _unpacked(tree)


def parse_yaml(data: bytes, source: str) -> Any:
    """Parse ``data`` as yaml of plain values, as strictly as json."""
    if len(data) > strict_json.MAX_BYTES:
        raise UserError(f"{source} should be yaml of at most {strict_json.MAX_BYTES:,} bytes; it is longer.")
    try:
        tree = yaml.load(data.decode("utf-8"), _Strict)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"{source} is not valid yaml ({text[:160]}). Fix it, or write json.") from None
    strict_json.check_depth(tree, source)
    return tree


def combined(options: Options, config: Mapping[str, Any]) -> Options:
    """Return ``options`` with what follows from the configuration, so that the two agree.

    Raises:
        UserError: an option and the configuration decide the same thing.
    """
    if not config:
        return options
    default = Options()
    given = [field.name for field in fields(Options) if getattr(options, field.name) != getattr(default, field.name)]
    for part, names in _OPTIONS.items():
        for name in names:
            if name in given and part in config:
                flag = "--" + _NAMES.get(name, name).replace("_", "-")
                raise UserError(f"{flag} and the part '{part}' of the configuration decide the same. Leave out one.")
    training, model = _table(config, "training"), _table(config, "model")
    changes: dict[str, Any] = {}
    if isinstance(training.get("steps"), int):
        changes["steps"] = training["steps"]
    named = _table(model, "likelihood").get("class")
    if named in _LIKELIHOODS:
        changes["likelihood"] = _LIKELIHOODS[str(named)]
    mode = _table(config, "preprocessing").get("mode")
    if mode in ("fixed", "dynamic"):
        changes["binarise"] = mode
    return replace(options, **changes)


def seed_of(config: Mapping[str, Any]) -> int:
    """Return the seed that the configuration names, 0 without one."""
    seed = _table(config, "training").get("seed", config.get("seed", 0))
    return seed if isinstance(seed, int) and seed >= 0 else 0


def _table(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = tree.get(key)
    return value if isinstance(value, Mapping) else {}


def _unpacked(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of a model folder's ``config.json`` as those of a run; anything else as it is."""
    model = tree.get("model")
    if not isinstance(model, dict) or model.get("class") != "PackagedModel":
        return tree
    return {key: model[key] for key in ("model", "preprocessing") if key in model}


class _Strict(yaml.SafeLoader):
    """Plain values only: no aliases (they can grow without bound), no key twice, no dates, 1e-3 a number."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if not isinstance(key, str) or keys.count(key) > 1:
                raise yaml.YAMLError(f"the key '{key}' is there twice, or not a text")
        return super().construct_mapping(node, deep)


def _number(loader: _Strict, node: Any) -> float:
    text = loader.construct_scalar(node)
    value = float(text)
    if not -1e308 <= value <= 1e308:
        raise yaml.YAMLError(f"{text} is not a number to compute with")
    return value


_Strict.yaml_implicit_resolvers = {
    letter: [(tag, rule) for tag, rule in rules if "timestamp" not in tag and "merge" not in tag]
    for letter, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Strict.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)
_Strict.add_constructor("tag:yaml.org,2002:float", _number)
