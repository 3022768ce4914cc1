"""One thing that is wrong, or worth knowing."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sfumato.evaluation.estimate import Estimate

Severity = Literal["problem", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("problem", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """A diagnosis.

    Args:
        name: of the disease, such as "posterior collapse".
        severity: ``problem``, do not use the model as it is; ``warning``, better is possible; ``note``.
        symptom: one sentence with the measured numbers and their units.
        why: what causes it.
        do: what to do about it, with the exact option.
        options: the option and its value that a new training should have, such as ("--beta", "1"); empty for none.
    """

    name: str
    severity: Severity
    symptom: str
    why: str
    do: str
    options: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for json."""
        return {**asdict(self), "options": list(self.options)}


def error_of(estimate: Estimate) -> float:
    """Return the standard error, 0 where a single example has none."""
    return estimate.standard_error if math.isfinite(estimate.standard_error) else 0.0
