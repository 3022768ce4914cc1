"""Lets torchvision be imported beside torch's CPU build; disent and lightning import it.

Its compiled operators are made for torch's CUDA builds. Without them the import fails, because it describes some that
are not there; declared here, they can be described, and are never called.
"""

import torch

OPERATORS = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
for name in ("nms", "qnms"):
    OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
