import sys
from pathlib import Path

SPEED = Path(__file__).parents[2] / "benchmarks" / "speed"
sys.path[:0] = [str(SPEED), str(SPEED.parent)]
