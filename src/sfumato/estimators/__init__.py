"""Estimators for scikit-learn, over the same recipes, trainer, evaluation and model folder as everything else.

Rows are examples, columns real numbers in the user's own units; scores are nats of these units. What ``random_state``
does is what scikit-learn says; torch's own random state is never touched.
"""

from importlib.util import find_spec

if find_spec("sklearn") is None:
    raise ImportError("sfumato.estimators needs scikit-learn, which is not installed: pip install 'sfumato[sklearn]'")

from sfumato.estimators.classifier import VAEClassifier
from sfumato.estimators.density import VAEDensity
from sfumato.estimators.imputer import VAEImputer
from sfumato.estimators.outliers import VAEOutlierDetector
from sfumato.estimators.transformer import VAETransformer

__all__ = ["VAEClassifier", "VAEDensity", "VAEImputer", "VAEOutlierDetector", "VAETransformer"]
