r"""Weights that are spread over processes, for models that do not fit into one device.

Of every large weight each of N processes keeps a part of the rows, and so of its gradient, its average and the moments
of Adam. A layer gathers its whole weight when its forward or backward pass needs it, and lets it go again; of the
gradient every process gets its own rows of the sum,

    gradient_r = (sum_s sum_{i in P_s} (1 / B) d loss_i)[rows of r],

B examples in the batch, P_s the part of process s. Small weights are whole everywhere, their gradients are added up.

Reference: PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel, Zhao et al., 2023,
https://arxiv.org/abs/2304.11277; here its second form, ``torch.distributed.fsdp.fully_shard``.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from sfumato.core.processes import Lost, Processes, lost
from sfumato.io.tensors import flatten_optimizer, unflatten_optimizer
from sfumato.training.config import TrainingConfig
from sfumato.training.state import TensorTree, TrainingState, cloned

LEAST = 4_096  # numbers in a layer from which on it is spread: a message costs as much as some thousand numbers
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LINKS = ("gloo", "nccl", "connection", "process group")


class Shards:
    """A model whose large layers are spread over processes.

    Args:
        model: whole, on the processor, the same in every process; changed in place.
        processes: the processes.

    ``parameters`` are the plain tensors that this process keeps, in the order of the model's: its own rows, or a whole
    small weight. ``replicated`` are the small ones alone.
    """

    def __init__(self, model: nn.Module, processes: Processes) -> None:
        self.processes, device = processes, processes.device
        mesh = init_device_mesh(device.type, (processes.count,))
        layers = large_layers(model)
        spread = {parameter for layer in layers for parameter in layer.parameters()}
        rest = {parameter for parameter in model.parameters() if parameter not in spread}
        for layer in layers:
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)
        _move(model, rest, device)
        fully_shard(model, mesh=mesh, ignored_params=rest)
        for module in model.modules():
            if isinstance(module, FSDPModule):  # the loss has its 1 / B already
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        self.model = model
        self._sources = list(model.parameters())
        self.parameters: list[Tensor] = [own_rows(source) for source in self._sources]
        self.replicated: list[Tensor] = [source for source in self._sources if not isinstance(source, DTensor)]

    def collect(self) -> Tensor:
        """Move gradients to the plain tensors; return the sum of squares of those that are spread, float64, ()."""
        total = torch.zeros((), dtype=torch.float64, device=self.processes.device)
        for source, own in zip(self._sources, self.parameters, strict=True):
            if isinstance(source, DTensor) and source.grad is not None:
                own.grad, source.grad = own_rows(source.grad), None
                total += own.grad.double().square().sum()
        return total

    @torch.no_grad()
    def whole(self) -> dict[str, Tensor]:
        """Return name -> weight or buffer, whole, in the first process; the others get none. All must call it."""
        return self._kept({name: _whole(value) for name, value in self.model.state_dict().items()})

    @torch.no_grad()
    def whole_of(self, number: int, own: Tensor) -> Tensor:
        """Return what belongs to parameter ``number`` row by row, a moment for instance, whole. All must call it."""
        source = self._sources[number]
        if not isinstance(source, DTensor) or own.shape != self.parameters[number].shape:
            return own
        placed = (own, source.device_mesh, source.placements)
        return _whole(DTensor.from_local(*placed, run_check=False, shape=source.shape, stride=source.stride()))

    @torch.no_grad()
    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`whole` returned, which the first process has. All must call it."""
        for name, value in self.model.state_dict().items():
            given = self.sent(tensors.get(name), value.shape, value.dtype)
            own_rows(value).copy_(self.rows(given) if isinstance(value, DTensor) else given)

    def sent(self, tensor: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return the ``tensor`` of the first process, of this ``shape``; the others give None."""
        if self.processes.first:
            if tensor is None or tensor.shape != shape:
                raise ValueError(f"a tensor should have the shape {tuple(shape)}, and has another, or is missing")
            data = tensor.to(self.processes.device, dtype).contiguous()
        else:
            data = torch.empty(shape, dtype=dtype, device=self.processes.device)
        with lost():
            distributed.broadcast(data, 0)
        return data

    def rows(self, whole: Tensor) -> Tensor:
        """Return the rows of a ``whole`` weight that are this process's."""
        parts = whole.chunk(self.processes.count)
        return parts[self.processes.rank] if self.processes.rank < len(parts) else whole[:0]

    def global_shape(self, number: int) -> tuple[int, ...]:
        """Return the shape of the whole parameter ``number``."""
        return tuple(self._sources[number].shape)

    def common(self) -> dict[str, Tensor]:
        """Return what is whole in every process."""
        return {name: value for name, value in self.model.state_dict().items() if not isinstance(value, DTensor)}

    def _kept(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if not self.processes.first:
            return {}
        return {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}


class SpreadState(TrainingState):
    """The state of a training whose weights are spread. Whole it is in checkpoints, and in the first process's memory.

    Args:
        model: whole, on the processor; copied.
        config: what was decided.
        processes: the processes.
    """

    spread = True

    def __init__(self, model: nn.Module, config: TrainingConfig, processes: Processes) -> None:
        self.processes = processes
        self.current = Shards(copy.deepcopy(model).train(), processes)
        self.average_of = Shards(copy.deepcopy(model).eval(), processes)
        averaged = self.average_of
        super().__init__(self.current.model, config, None, self.current.parameters, averaged.model, averaged.parameters)
        self.replicated = self.current.replicated

    def collect(self) -> Tensor:
        """Take the gradients of a step; return the sum of squares of those that are spread."""
        return self.current.collect()

    def norm(self, squares: Tensor | None) -> Tensor:
        """Return the norm of all gradients together, (); ``squares`` of the spread ones are those of all processes."""
        assert squares is not None
        own = [parameter.grad.double().square().sum() for parameter in self.replicated if parameter.grad is not None]
        return torch.stack([squares.double(), *own]).sum().sqrt()

    def shown(self, model: nn.Module) -> nn.Module:
        """Give ``model``, which is whole, the averaged weights in the first process, and return it."""
        weights = self.average_of.whole()
        if weights:
            model.load_state_dict(weights)
        return model.eval()

    @torch.no_grad()
    def deliver(self, model: nn.Module) -> nn.Module:
        """Give ``model``, which is whole, the best averaged weights in every process, and return it."""
        best = self.best_weights if self.best_step is not None else self.average_of.whole()
        for name, value in model.state_dict().items():
            value.copy_(self.current.sent((best or {}).get(name), value.shape, value.dtype))
        return model.eval()

    def common(self) -> list[dict[str, Tensor]]:
        """Return what must be the same in every process."""
        return [self.current.common(), self.average_of.common()]

    def is_finite(self) -> bool:
        """Whether every weight and every average is finite, in every process."""
        tensors = [*self.parameters, *self._averaged_parameters, *self._buffers]
        bad = sum((~torch.isfinite(tensor)).sum() for tensor in tensors)
        return not int(self.processes.sum(torch.as_tensor(bad, device=self.processes.device).reshape(1)))

    def capture(self) -> tuple[TensorTree, dict[str, Any]]:
        """Return what the base returns, whole, in the first process; the others get no tensors. All must call it."""
        optimizer, settings = flatten_optimizer(self.optimizer.state_dict())
        moments = {name: self.current.whole_of(int(name.partition(".")[0]), own) for name, own in optimizer.items()}
        tensors = {"model": self.current.whole(), "ema": self.average_of.whole()}
        first = self.processes.first
        tensors |= {"optimizer": cloned(moments) if first else {}, "sums": cloned(self.sums) if first else {}}
        return tensors, self.plain(settings)

    def restore(self, tensors: TensorTree, plain: Mapping[str, Any]) -> None:
        """Take over what :meth:`capture` returned, which the first process has. All must call it."""
        heads = self.processes.agree(
            {stem: {name: _head(value) for name, value in tensors[stem].items()} for stem in ("optimizer", "sums")}
            if self.processes.first
            else {}
        )
        self.current.take(tensors.get("model", {}))
        self.average_of.take(tensors.get("ema", {}))
        found: dict[str, dict[str, Tensor]] = {"optimizer": {}, "sums": {}}
        for stem, names in heads.items():
            for name, (shape, dtype) in names.items():
                given = self.current.sent(tensors.get(stem, {}).get(name), torch.Size(shape), getattr(torch, dtype))
                if stem == "optimizer" and self._is_spread(name, shape):
                    given = self.current.rows(given)
                found[stem][name] = given.clone()  # it is changed in place; what the first process has is not
        self.optimizer.load_state_dict(unflatten_optimizer(found["optimizer"], plain["optimizer"]))
        self.sums = {name: found["sums"][name] for name in plain["sums"]}
        self.restore_plain(plain)

    def links(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which a link that breaks inside a layer is the loss of a process."""
        return links()

    def _averaged_weights(self) -> dict[str, Tensor]:
        return self.average_of.whole()

    def _is_spread(self, name: str, shape: list[int]) -> bool:
        """Whether the tensor ``name`` of the optimizer, whole of ``shape``, belongs to a spread weight row by row."""
        number = int(name.partition(".")[0])
        source = self.current.global_shape(number)
        return tuple(shape) == source != tuple(self.parameters[number].shape)


def large_layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers that are worth spreading: affine maps and convolutions that share no weight with another."""
    owners = Counter(parameter for module in model.modules() for parameter in module._parameters.values())
    return [
        module
        for module in model.modules()
        if isinstance(module, LAYERS)
        and sum(parameter.numel() for parameter in module.parameters()) >= LEAST
        and all(owners[parameter] == 1 and parameter.ndim for parameter in module.parameters())
    ]


def own_rows(value: Tensor) -> Tensor:
    """Return the rows of ``value`` that are here, sharing its memory; of what is not spread, itself."""
    return value.to_local().detach() if isinstance(value, DTensor) else value


@contextlib.contextmanager
def links() -> Iterator[None]:
    """Inside, a RuntimeError about the links between processes is the loss of one.

    What is said about views in what a layer returns does not concern us: nothing is changed in place.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
            yield
    except RuntimeError as error:
        if isinstance(error, Lost) or not any(word in str(error).lower() for word in _LINKS):
            raise
        with lost():
            raise


def _whole(value: Tensor) -> Tensor:
    if not isinstance(value, DTensor):
        return value
    with lost():
        return value.full_tensor()


def _head(value: Tensor) -> tuple[list[int], str]:
    return list(value.shape), str(value.dtype).removeprefix("torch.")


def _move(model: nn.Module, parameters: set[nn.Parameter], device: torch.device) -> None:
    """Move the parts of ``model`` that are not spread."""
    for parameter in parameters:
        parameter.data = parameter.data.to(device)
    for module in model.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)
