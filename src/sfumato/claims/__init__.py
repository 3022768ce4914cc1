"""The article's statements, each as a measured experiment: stated, decided by a criterion, drawn.

A claim's criterion is written before anything is measured, and nothing is tuned until it holds: the verdict may be
"holds", "holds with a condition" or "does not hold".
"""

from sfumato.claims.catalogue import CLAIMS
from sfumato.claims.claim import FULL, QUICK, Claim, Effect, Result, Seeds, Setting, Words
from sfumato.claims.pages import write_pages
from sfumato.claims.runner import run_claims
from sfumato.claims.statements import STATEMENTS, Statement
from sfumato.claims.statistics import Interval, mean_interval, paired

__all__ = [
    "CLAIMS",
    "FULL",
    "QUICK",
    "STATEMENTS",
    "Claim",
    "Effect",
    "Interval",
    "Result",
    "Seeds",
    "Setting",
    "Statement",
    "Words",
    "mean_interval",
    "paired",
    "run_claims",
    "write_pages",
]
