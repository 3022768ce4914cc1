"""The numbers that a training run is decided by. All of them are plain, recorded and final before the first step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

from sfumato.core.schedules import Constant, Schedule
from sfumato.core.spec import Count, NonNegative, Positive, Range, Size, register

Steps = Annotated[int, Range(1, 10**12)]
Decay = Annotated[float, Range(0.0, 0.999_999)]


@final
@register("training")
@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Args:
        steps: optimizer steps in all.
        batch_size: examples a step, over all processes.
        learning_rate: Adam's, at its peak.
        schedule: the factor on the learning rate at each step.
        weight_decay: decoupled (AdamW), per unit of learning rate.
        clip_norm: the gradient's norm is cut to this after the backward pass; 0: never.
        ema_decay: of the averaged weights that are evaluated and kept; 0: no averaging.
        precision: ``float32``; ``bf16``, autocast in the training step; ``auto``: bf16 where the hardware computes in
            it. Evaluation is in float32 whatever this says.
        engine: how a step is computed: ``eager``, as written; ``compiled``; ``auto``: what was measured to be fastest,
            in trainings that are long enough to measure. They differ by rounding only.
        seed: of the order of the data and of all noise.
        log_every: steps between lines of metrics.
        evaluate_every: steps between evaluations on the validation split.
        checkpoint_every: steps between checkpoints; every evaluation makes one too.
        patience: evaluations without a better one before training stops early; 0: never.
        shard: spread weights, averages and moments over the processes, where there are several (FSDP2).
    """

    spec_kind: ClassVar[str] = "training"

    steps: Steps
    batch_size: Size = 128
    learning_rate: Positive = 1e-3
    schedule: Schedule = Constant()  # noqa: RUF009 - immutable
    weight_decay: NonNegative = 0.0
    clip_norm: NonNegative = 0.0
    ema_decay: Decay = 0.999
    precision: Literal["auto", "float32", "bf16"] = "auto"
    engine: Literal["auto", "eager", "compiled"] = "auto"
    seed: Count = 0
    log_every: Steps = 50
    evaluate_every: Steps = 500
    checkpoint_every: Steps = 500
    patience: Count = 0
    shard: bool = False
