import itertools
import math

import numpy as np
import pytest
from scipy import ndimage

from sfumato.core.errors import UserError
from sfumato.data import dsprites as module
from sfumato.data import load_dataset
from sfumato.data.dsprites import MINI, SHAPES, DSprites

SPRITES = DSprites()


def picture(*factors: int) -> np.ndarray:
    return SPRITES.images(SPRITES.index_of(np.array([factors])))[0, 0]


def test_the_grid_is_that_of_the_original():
    """Issue 3: 737,280 images; color 1, shape 3, scale 6, orientation 40, x 32, y 32, the last one fastest."""
    assert len(SPRITES) == math.prod(SPRITES.sizes) == 737_280
    numbers = np.array([0, 1, 32, 1024, 40_960, 245_760, 737_279])
    expected = [[0] * 6, [0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0]]
    expected += [[0, 1, 0, 0, 0, 0], [0, 2, 5, 39, 31, 31]]
    assert SPRITES.factors(numbers).tolist() == expected
    all_numbers = np.arange(len(SPRITES))
    np.testing.assert_array_equal(SPRITES.index_of(SPRITES.factors(all_numbers)), all_numbers)


def test_values_of_the_factors():
    step = 2 * math.pi / 39
    found = SPRITES.values(SPRITES.index_of(np.array([[0, 0, 0, 0, 0, 0], [0, 2, 5, 39, 31, 31], [0, 1, 2, 1, 1, 2]])))
    expected = [[1, 1, 0.5, 0, 0, 0], [1, 3, 1, 2 * math.pi, 1, 1], [1, 2, 0.7, step, 1 / 31, 2 / 31]]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_an_image_is_a_pure_function_of_its_number():
    numbers = np.array([5, 700_000, 5, 123_456])
    together = SPRITES.images(numbers)
    assert together.shape == (4, 1, 64, 64)
    assert together.dtype == np.uint8
    assert set(np.unique(together)) == {0, 1}
    np.testing.assert_array_equal(together[0], together[2])
    for row, number in enumerate(numbers):
        np.testing.assert_array_equal(SPRITES.images(np.array([number]))[0], together[row])
    many = np.arange(0, 737_280, 150)  # more than one block
    assert len(many) > 4_700
    np.testing.assert_array_equal(SPRITES.images(many)[4_000:4_700], SPRITES.images(many[4_000:4_700]))


def test_areas_are_those_of_the_formulas():
    """Square (2 * 10.35)^2, ellipse pi * 12.5 * 6.5, heart by quadrature; each times scale^2, at every orientation."""
    a, b = np.meshgrid(np.linspace(-1.5, 1.5, 2_001), np.linspace(-1.5, 1.5, 2_001))
    heart = ((a**2 + b**2 - 1) ** 3 <= a**2 * b**3).mean() * 9 * 8.2**2
    for shape, area in enumerate((20.7**2, math.pi * 12.5 * 6.5, heart)):
        for number, scale in enumerate(np.linspace(0.5, 1, 6)):
            found = [picture(0, shape, number, turn, 3, 4).sum() for turn in range(39)]
            assert np.mean(found) == pytest.approx(area * scale**2, rel=0.02)


def test_positions_move_by_a_pixel_right_and_down_and_nothing_leaves_the_frame():
    corner = picture(0, 2, 5, 7, 0, 0)
    for x, y in itertools.product((0, 1, 13, 31), repeat=2):
        moved = picture(0, 2, 5, 7, x, y)
        np.testing.assert_array_equal(moved, np.roll(corner, (y, x), (0, 1)))
    everything = SPRITES.images(np.array([*range(0, 737_280, 1024), *range(1023, 737_280, 1024)])).max((0, 1))
    assert not everything[[0, -1]].any()
    assert not everything[:, [0, -1]].any()
    everything = [picture(0, shape, 3, 0, 15, 15) for shape in range(3)]
    centres = [ndimage.center_of_mass(one) for one in everything]
    np.testing.assert_allclose(centres, 31.0, atol=1.0)


def test_orientation_turns_clockwise_on_the_screen_and_the_heart_stands_upright_at_0():
    moment = []
    for turn in (0, 5):
        down, right = np.nonzero(picture(0, 1, 5, turn, 15, 15))
        moment.append(0.5 * math.atan2(2 * np.cov(right, down)[0, 1], right.var() - down.var()))
    assert moment[0] == pytest.approx(0, abs=0.02)
    assert moment[1] == pytest.approx(5 * 2 * math.pi / 39, abs=0.05)
    heart = picture(0, 2, 5, 0, 15, 15)
    rows = np.flatnonzero(heart.any(1))
    assert heart[rows[0] + 3].sum() > 3 * heart[rows[-1] - 1].sum()


def test_every_sprite_is_different_but_for_the_full_turn_which_the_original_repeats_too():
    numbers = SPRITES.index_of(np.array([(0, *rest, 15, 15) for rest in itertools.product(*map(range, (3, 6, 40)))]))
    images = SPRITES.images(numbers).reshape(3, 6, 40, -1)
    np.testing.assert_array_equal(images[:, :, 0], images[:, :, 39])
    assert len(np.unique(images[:, :, :39].reshape(702, -1), axis=0)) == 702


def test_no_pixel_lies_on_an_edge_where_rounding_would_decide():
    """The smallest change of a formula's value that flips a pixel is far above the rounding of a cosine."""
    numbers = np.arange(0, 737_280, 1024)
    reference = SPRITES.images(numbers)
    offset = module._OFF_GRID
    try:
        for nudge in (1e-9, -1e-9):
            module._OFF_GRID = (offset[0] + nudge, offset[1] - nudge)
            module._sprites.cache_clear()
            np.testing.assert_array_equal(SPRITES.images(numbers), reference)
    finally:
        module._OFF_GRID = offset
        module._sprites.cache_clear()


def test_the_built_in_small_set_is_data_like_any_other():
    data = load_dataset("dsprites-mini")
    assert data.x.shape == (MINI, 1, 64, 64)
    assert data.class_names == SHAPES
    chosen = SPRITES.some(MINI)
    assert len(np.unique(chosen)) == MINI
    np.testing.assert_array_equal(data.y, SPRITES.factors(chosen)[:, 1])
    rows = np.array([0, 17, MINI - 1])
    np.testing.assert_array_equal(data.x[rows], SPRITES.images(chosen[rows]))
    # Fixed for good: the same pictures on every machine and in every release.
    assert chosen[:3].tolist() == [5, 50, 77]


@pytest.mark.parametrize("numbers", [[-1], [737_280], [0.5], [[1]]])
def test_numbers_that_are_no_image_are_refused(numbers):
    with pytest.raises(UserError, match="dSprites"):
        SPRITES.factors(np.array(numbers))


@pytest.mark.parametrize("factors", [[[0, 3, 0, 0, 0, 0]], [[0, 0, -1, 0, 0, 0]], [[0, 0, 0]], [[0.0] * 6], [0] * 6])
def test_factors_that_there_are_not_are_refused(factors):
    with pytest.raises(UserError, match="Count classes from 0"):
        SPRITES.index_of(np.array(factors))


@pytest.mark.parametrize("count", [0, 737_281])
def test_as_many_as_there_are_can_be_chosen(count):
    with pytest.raises(UserError, match="Choose from 1"):
        SPRITES.some(count)
