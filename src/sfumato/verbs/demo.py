"""``sfumato demo``: the class-conditional VAE on the images that come with sfumato."""

from __future__ import annotations

from pathlib import Path

from sfumato.recipes import Options

DATA = "fashion-mnist-mini"
OUT = Path("runs") / "demo"
OPTIONS = Options(conditional=True, seconds=150.0)
