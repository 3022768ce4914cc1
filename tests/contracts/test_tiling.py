"""Tiles of large images: how they are cut and blended, and how far the result is from the one of the whole image."""

from __future__ import annotations

import math

import pytest
import torch
from contract import numbers, stirred
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.core.errors import UserError
from sfumato.networks import KLDecoder, KLEncoder
from sfumato.networks.tiling import _cut, _tiled, seam_error, tiled_decode, tiled_encode

WIDTHS = {"widths": (4, 8), "groups": 2}


@settings(max_examples=60)
@given(
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    tile=st.integers(1, 12),
    overlap=st.floats(0, 0.5),
    unit=st.sampled_from([1, 2, 3]),
)
def test_what_looks_at_one_place_is_the_same_in_tiles(
    height: int, width: int, tile: int, overlap: float, unit: int
) -> None:
    """Every place is covered, weights add up to one, and nothing is moved: up, down and at one size."""
    x = numbers(1, 2, height * unit, width * unit)
    torch.testing.assert_close(_tiled(lambda part: 2 * part, x, tile * unit, overlap, 1, 1), 2 * x)

    def pooled(part: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(part, unit)

    torch.testing.assert_close(_tiled(pooled, x, tile * unit, overlap, 1, unit), pooled(x))

    def grown(part: torch.Tensor) -> torch.Tensor:
        return part.repeat_interleave(unit, -1).repeat_interleave(unit, -2)

    torch.testing.assert_close(_tiled(grown, x, tile * unit, overlap, unit, 1), grown(x))


def test_tiles_are_no_larger_than_asked_for_and_share_what_was_asked_for() -> None:
    side, shared, starts = _cut(100, 32, 0.25, 2)
    assert (side, shared, starts) == (32, 8, [0, 24, 48, 68])
    assert _cut(32, 32, 0.25, 2) == (32, 0, [0])


def test_the_seams_of_blended_tiles_are_smaller_than_those_of_tiles_put_side_by_side() -> None:
    encoder = stirred(KLEncoder((1, 16, 16), (2, 64), middle_attention=False, **WIDTHS)).eval()
    decoder = stirred(KLDecoder((64,), (1, 1, 16, 16), middle_attention=False, **WIDTHS)).eval()
    x = torch.nn.functional.avg_pool2d(numbers(1, 1, 64, 48, dtype=torch.float32), 5, 1, 2)
    with torch.no_grad():
        whole = encoder.compute(x)
        blended = tiled_encode(encoder, x, tile=32, overlap=0.5)
        cut = tiled_encode(encoder, x, tile=32, overlap=0.0)
        errors = [seam_error(whole, part, tile=16, overlap=share) for part, share in ((blended, 0.5), (cut, 0.0))]
        assert blended.shape == whole.shape == (1, 2, 32, 24)
        assert 0 < errors[0].rms < errors[1].rms
        assert errors[0].largest < errors[1].largest
        assert math.isnan(errors[1].rms_overlap) or errors[1].rms_overlap > 0
        assert errors[0].rms < 0.5 * errors[0].deviation
        grid = whole[:, :1]
        picture = decoder.picture(grid)
        tiled = tiled_decode(decoder, grid, tile=32, overlap=0.5)
        assert tiled.shape == picture.shape == (1, 1, 64, 48)
        error = seam_error(picture, tiled, tile=32, overlap=0.5)
        assert 0 < error.rms < 0.5 * error.deviation
        alone = seam_error(picture, tiled_decode(decoder, grid, tile=64), tile=64)
        assert alone.largest == 0
        assert math.isnan(alone.rms_overlap)


def test_wrong_sides_are_refused_with_the_cure() -> None:
    encoder = KLEncoder((1, 16, 16), (2, 64), **WIDTHS)
    with pytest.raises(UserError, match=r"multiples of 2; got 7x8"):
        tiled_encode(encoder, torch.zeros(1, 1, 7, 8))
    with pytest.raises(UserError, match=r"multiple of 2; got 5\. Use 4"):
        tiled_encode(encoder, torch.zeros(1, 1, 8, 8), tile=5)
    with pytest.raises(UserError, match=r"from 0 to 0\.5"):
        tiled_encode(encoder, torch.zeros(1, 1, 8, 8), tile=4, overlap=0.7)
