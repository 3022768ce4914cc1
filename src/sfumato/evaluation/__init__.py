"""Evaluation: values with standard errors and units. Means over examples are taken here, weighted by example.

Everything is computed in float32 or better, outside autocast, with the model in evaluation mode and without gradient;
nothing is dropped; ``samples=K`` uses exactly K.
"""

from sfumato.evaluation.aggregate import Aggregate, find_aggregate
from sfumato.evaluation.annealed import Annealing, annealed_bound, sandwich
from sfumato.evaluation.baselines import score_baselines
from sfumato.evaluation.bounds import class_bounds, elbo_terms, evidence_bound, importance_bound
from sfumato.evaluation.checks import calibration, predictive_checks, rate_distortion
from sfumato.evaluation.classes import Accuracy, accuracy, bayes_accuracy, class_posterior
from sfumato.evaluation.classifier import Judge, generation_accuracy, judge_accuracy, train_judge
from sfumato.evaluation.estimate import Estimate, mean_estimate
from sfumato.evaluation.evaluation import Evaluation, evaluate
from sfumato.evaluation.evidence import Evidence, find_evidence, importance_curve
from sfumato.evaluation.features import Extractor, onnx_features
from sfumato.evaluation.fitting import compare_priors, fit_prior, with_fitted_prior
from sfumato.evaluation.gap import Gap, find_gap
from sfumato.evaluation.latents import Latents, find_latents, quick_look
from sfumato.evaluation.thorough import measure_thoroughly
from sfumato.evaluation.units import bits_per_dim, raw_log_density

__all__ = [
    "Accuracy",
    "Aggregate",
    "Annealing",
    "Estimate",
    "Evaluation",
    "Evidence",
    "Extractor",
    "Gap",
    "Judge",
    "Latents",
    "accuracy",
    "annealed_bound",
    "bayes_accuracy",
    "bits_per_dim",
    "calibration",
    "class_bounds",
    "class_posterior",
    "compare_priors",
    "elbo_terms",
    "evaluate",
    "evidence_bound",
    "find_aggregate",
    "find_evidence",
    "find_gap",
    "find_latents",
    "fit_prior",
    "generation_accuracy",
    "importance_bound",
    "importance_curve",
    "judge_accuracy",
    "mean_estimate",
    "measure_thoroughly",
    "onnx_features",
    "predictive_checks",
    "quick_look",
    "rate_distortion",
    "raw_log_density",
    "sandwich",
    "score_baselines",
    "train_judge",
    "with_fitted_prior",
]
