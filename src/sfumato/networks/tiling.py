r"""Images larger than memory allows, through the autoencoder a tile at a time.

Tiles overlap. Where they do, results are averaged with weights that rise linearly from the edge of each tile,

    out(p) = sum_t w_t(p) out_t(p) / sum_t w_t(p),

so no tile ends abruptly. The result is not that of the whole image: normalisation and attention see one tile. How far
the two are apart is what :func:`seam_error` says.

Reference: Mixture of Diffusers for scene composition, Barbero Jimenez, 2023, https://arxiv.org/abs/2302.02412.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.networks.autoencoder_kl import KLDecoder, KLEncoder


@dataclass(frozen=True)
class SeamError:
    """How far a tiled result is from the one of the whole image.

    Args:
        largest: the largest absolute difference.
        rms: the root mean squared difference over all places.
        rms_overlap: the same over the places that more than one tile covers; NaN where there are none.
        deviation: the standard deviation of the whole result, to compare with.
    """

    largest: float
    rms: float
    rms_overlap: float
    deviation: float


def tiled_encode(
    encoder: KLEncoder, x: Float[Tensor, "batch channels height width"], *, tile: int = 256, overlap: float = 0.25
) -> Float[Tensor, "batch moments h w"]:
    """Return the moments of an image of any size, (batch, 2 c, height / f, width / f), encoded in tiles.

    Args:
        encoder: of whatever size.
        x: preprocessed; height and width multiples of f.
        tile: the side of a tile in pixels, a multiple of f.
        overlap: the share of a tile that it has in common with the next one, from 0 to 1/2.
    """
    factor = encoder.factor
    if any(side % factor for side in x.shape[-2:]):
        raise UserError(
            f"the encoder needs sides that are multiples of {factor}; got {x.shape[-2]}x{x.shape[-1]}. Cut the image."
        )
    return _tiled(encoder.compute, x, _whole(tile, factor), overlap, 1, factor)


def tiled_decode(
    decoder: KLDecoder, grid: Float[Tensor, "batch c h w"], *, tile: int = 256, overlap: float = 0.25
) -> Float[Tensor, "batch channels height width"]:
    """Return the image of a latent grid of any size, (batch, numbers per value * channels, f h, f w), decoded in tiles.

    Args:
        decoder: of whatever size.
        grid: latent vectors.
        tile: the side of a tile in pixels of the image, a multiple of f.
        overlap: the share of a tile that it has in common with the next one, from 0 to 1/2.
    """
    return _tiled(decoder.picture, grid, _whole(tile, decoder.factor) // decoder.factor, overlap, decoder.factor, 1)


def seam_error(
    whole: Float[Tensor, "batch channels height width"],
    tiled: Float[Tensor, "batch channels height width"],
    *,
    tile: int,
    overlap: float = 0.25,
) -> SeamError:
    """Compare a tiled result with the one of the whole image.

    Args:
        whole: computed at once.
        tiled: computed in tiles.
        tile: the side of a tile in the places of these tensors.
        overlap: the share that tiles have in common.
    """
    difference = (tiled - whole).double()
    covered = [
        sum((_window(start, side, length, shared) > 0).long() for start in starts)
        for length in whole.shape[-2:]
        for side, shared, starts in [_cut(length, tile, overlap, 1)]
    ]
    counts = torch.as_tensor(covered[0]).unsqueeze(1) * torch.as_tensor(covered[1])
    several = difference[..., counts > 1]
    return SeamError(
        largest=float(difference.abs().max()),
        rms=float(difference.square().mean().sqrt()),
        rms_overlap=float(several.square().mean().sqrt()) if several.numel() else float("nan"),
        deviation=float(whole.double().std()),
    )


def _tiled(compute: Callable[[Tensor], Tensor], x: Tensor, tile: int, overlap: float, up: int, down: int) -> Tensor:
    """Apply ``compute``, which makes sides ``up`` times longer and ``down`` times shorter, to tiles and blend them."""
    if not 0 <= overlap <= 0.5:
        raise UserError(f"the overlap must be a share from 0 to 0.5; got {overlap:g}. Use 0.25.")
    height, width = x.shape[-2:]
    cuts = [_cut(length, tile, overlap, down) for length in (height, width)]
    total: Tensor | None = None
    weights = torch.zeros(height * up // down, width * up // down, dtype=x.dtype, device=x.device)
    (tall, shared_y, tops), (wide, shared_x, lefts) = cuts
    for top in tops:
        for left in lefts:
            out = compute(x[..., top : top + tall, left : left + wide])
            total = out.new_zeros(*out.shape[:-2], *weights.shape) if total is None else total
            a, b = top * up // down, left * up // down
            rows = slice(a, a + out.shape[-2])
            columns = slice(b, b + out.shape[-1])
            vertical = _window(a, out.shape[-2], weights.shape[0], shared_y * up // down)[rows]
            level = _window(b, out.shape[-1], weights.shape[1], shared_x * up // down)[columns]
            weight = vertical.to(x).unsqueeze(1) * level.to(x)
            total[..., rows, columns] += out * weight
            weights[rows, columns] += weight
    assert total is not None
    return total / weights


def _cut(length: int, tile: int, overlap: float, unit: int) -> tuple[int, int, list[int]]:
    """Return the side of the tiles of a line, what neighbours share at least, and where they start; all in ``unit``."""
    if length <= tile:
        return length, 0, [0]
    shared = round(tile * overlap / unit) * unit
    last = length - tile
    starts = list(range(0, last, max(unit, tile - shared)))
    return tile, shared, [*starts, last]


def _window(start: int, side: int, length: int, shared: int) -> Tensor:
    """Return the weight of a tile at every place of a line: 1 inside, falling to its edges, 0 outside."""
    place = torch.arange(length, dtype=torch.float64)
    inside = ((place >= start) & (place < start + side)).double()
    if not shared:
        return inside
    before = (place - start + 1) / (shared + 1) if start > 0 else torch.ones(length, dtype=torch.float64)
    after = (start + side - place) / (shared + 1) if start + side < length else before.new_ones(length)
    return inside * before.clamp(0, 1) * after.clamp(0, 1)


def _whole(tile: int, factor: int) -> int:
    if tile < factor or tile % factor:
        raise UserError(
            f"the side of a tile must be a multiple of {factor}; got {tile}. "
            f"Use {max(1, round(tile / factor)) * factor}."
        )
    return tile
