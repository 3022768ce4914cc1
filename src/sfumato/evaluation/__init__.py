"""Evaluation: values with standard errors and units. Means over examples are taken here, weighted by example.

Everything is computed in float32 or better, outside autocast, with the model in evaluation mode and without gradient;
nothing is dropped; ``samples=K`` uses exactly K.
"""

from sfumato.evaluation.baselines import score_baselines
from sfumato.evaluation.bounds import class_bounds, elbo_terms, evidence_bound, importance_bound
from sfumato.evaluation.classes import Accuracy, accuracy, bayes_accuracy, class_posterior
from sfumato.evaluation.classifier import Judge, generation_accuracy, judge_accuracy, train_judge
from sfumato.evaluation.estimate import Estimate, mean_estimate
from sfumato.evaluation.evaluation import Evaluation, evaluate
from sfumato.evaluation.latents import Latents, find_latents, quick_look
from sfumato.evaluation.units import bits_per_dim, raw_log_density

__all__ = [
    "Accuracy",
    "Estimate",
    "Evaluation",
    "Judge",
    "Latents",
    "accuracy",
    "bayes_accuracy",
    "bits_per_dim",
    "class_bounds",
    "class_posterior",
    "elbo_terms",
    "evaluate",
    "evidence_bound",
    "find_latents",
    "generation_accuracy",
    "importance_bound",
    "judge_accuracy",
    "mean_estimate",
    "quick_look",
    "raw_log_density",
    "score_baselines",
    "train_judge",
]
