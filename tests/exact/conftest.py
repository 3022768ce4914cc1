"""The benchmark of linear-Gaussian models and the exact tests share their models."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
