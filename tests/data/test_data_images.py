"""Folders of images: classes, splits, colours, sizes, orientation, and files that are not what they seem."""

import os

import numpy as np
import pytest
from data_helpers import image_folder, noise, save_image
from PIL import Image

from sfumato.core.errors import UserError
from sfumato.data import load_dataset
from sfumato.data.images import BadImage, decode_file


def first(folder, **options):
    """The only image below ``folder`` (beside two fillers of its size), as (channels, height, width)."""
    return load_dataset(folder, split=(1, 0, 0), **options).x[0]


def test_sub_folders_are_classes_and_values_stay(tmp_path):
    folder = image_folder(tmp_path / "photos", {"circle": 5, "square": 7})
    data = load_dataset(folder)
    assert data.name == "photos"
    assert data.x.shape == (12, 1, 8, 8)
    assert data.x.dtype == np.uint8
    assert data.class_names == ("circle", "square")
    assert data.y.tolist() == [0] * 5 + [1] * 7
    assert data.items[5] == "square/000.png"
    for row, item in enumerate(data.items):
        assert np.array_equal(data.x[row, 0], np.asarray(Image.open(folder / item)))
    again = load_dataset(**data.origin)
    assert again.fingerprint == data.fingerprint
    assert repr(data) == "Dataset(photos: 12 images 1x8x8, 2 classes)"


def test_flat_folders_and_single_sub_folders_have_no_classes(tmp_path):
    assert load_dataset(image_folder(tmp_path / "flat", {"": 4})).y is None
    assert load_dataset(image_folder(tmp_path / "one", {"img": 4})).y is None
    mixed = load_dataset(image_folder(tmp_path / "mixed", {"": 2, "a": 3, "b": 3}))
    assert sorted(mixed.y.tolist()) == [-1, -1, 0, 0, 0, 1, 1, 1]
    deep = load_dataset(image_folder(tmp_path / "deep", {"a/x": 2, "a/y": 2, "b": 2}))
    assert deep.class_names == ("a", "b")


def test_split_folders_are_respected_and_validation_comes_from_train(tmp_path):
    folder = image_folder(tmp_path / "d", {"train/a": 20, "train/b": 20, "test/a": 3, "test/b": 4})
    data = load_dataset(folder)
    assert data.class_names == ("a", "b")
    assert [data.items[row].split("/")[0] for row in data.splits["test"]] == ["test"] * 7
    assert len(data.splits["validation"]) == 4
    assert len(data.splits["train"]) == 36
    assert {data.items[row].split("/")[0] for row in data.splits["validation"]} == {"train"}
    assert data.given_splits
    whole = load_dataset(image_folder(tmp_path / "e", {"train": 5, "val": 3, "test": 2}))
    assert [len(whole.splits[name]) for name in ("train", "validation", "test")] == [5, 3, 2]
    assert whole.y is None
    transport = load_dataset(image_folder(tmp_path / "f", {"train": 3, "plane": 3}))
    assert transport.class_names == ("plane", "train")


def test_modes_grey_stays_grey_and_mixed_becomes_colour(tmp_path):
    grey, colour = noise(8, 8), noise(8, 8, 3, seed=1)
    for number in range(3):
        save_image(tmp_path / "grey" / f"{number}.png", grey + number)
    assert first(tmp_path / "grey").shape == (1, 8, 8)
    save_image(tmp_path / "grey" / "9.png", colour)
    mixed = load_dataset(tmp_path / "grey", split=(1, 0, 0)).x
    assert mixed.shape == (4, 3, 8, 8)
    assert np.array_equal(mixed[0], np.stack([grey] * 3))
    assert np.array_equal(mixed[3], colour.transpose(2, 0, 1))


def test_transparency_lies_on_white(tmp_path):
    rgba = np.zeros((8, 8, 4), dtype=np.uint8)
    rgba[..., 0] = 200
    rgba[:4, :, 3] = 255
    save_image(tmp_path / "0.png", rgba)
    x = first(tmp_path)
    assert x[:, 0, 0].tolist() == [200, 0, 0]
    assert x[:, 7, 7].tolist() == [255, 255, 255]
    la = np.stack([np.full((8, 8), 100), np.full((8, 8), 0)], axis=-1).astype(np.uint8)
    save_image(tmp_path / "grey" / "0.png", la)
    assert first(tmp_path / "grey").tolist() == [[[255] * 8] * 8]


def test_sixteen_bits_palettes_and_one_bit_become_eight(tmp_path):
    wide = np.array([[0, 128, 129, 257 * 7, 65535]], dtype=np.uint16).repeat(2, 0)
    save_image(tmp_path / "w" / "0.png", wide)
    assert first(tmp_path / "w")[0, 0].tolist() == [0, 0, 1, 7, 255]
    save_image(tmp_path / "b" / "0.png", np.eye(8) > 0)
    assert np.array_equal(first(tmp_path / "b")[0], np.eye(8, dtype=np.uint8) * 255)
    save_image(tmp_path / "p" / "0.gif", noise(8, 8))
    assert np.array_equal(first(tmp_path / "p")[0], noise(8, 8))
    save_image(tmp_path / "q" / "0.png", np.full((8, 8, 3), [255, 0, 0], dtype=np.uint8), mode="P")
    assert first(tmp_path / "q")[:, 0, 0].tolist() == [255, 0, 0]


def test_exif_orientation_turns_the_image_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    array = np.zeros((8, 16), dtype=np.uint8)
    array[:, :8] = 255  # left half white: upright, the top half
    save_image(tmp_path / "0.png", array, exif=exif)
    x = first(tmp_path)
    assert x.shape == (1, 16, 8)
    assert x[0, :8].min() == 255
    assert x[0, 8:].max() == 0


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "gif", "tiff"])
def test_every_format_of_the_list_is_read(tmp_path, ending):
    save_image(tmp_path / f"0.{ending}", np.full((8, 8), 128, dtype=np.uint8))
    assert abs(int(first(tmp_path)[0, 4, 4]) - 128) <= 2


def test_mixed_sizes_need_size_which_cuts_from_the_centre(tmp_path):
    wide = np.zeros((8, 24), dtype=np.uint8)
    wide[:, 8:16] = 200  # the centre square is plain
    save_image(tmp_path / "d" / "a.png", wide)
    save_image(tmp_path / "d" / "b.png", np.full((16, 16), 50, dtype=np.uint8))
    save_image(tmp_path / "d" / "c.png", np.full((4, 4), 9, dtype=np.uint8))
    with pytest.raises(UserError, match=r"d/ should have one size; a.png is 24x8 and b.png is 16x16.*--size 8\."):
        load_dataset(tmp_path / "d")
    data = load_dataset(tmp_path / "d", size=8)
    assert data.x.shape == (3, 1, 8, 8)
    assert [int(image.min()) for image in data.x] == [200, 50, 9]
    assert [int(image.max()) for image in data.x] == [200, 50, 9]
    assert load_dataset(tmp_path / "d", size=(4, 6)).shape == (1, 4, 6)
    assert load_dataset(**data.origin).fingerprint == data.fingerprint


@pytest.mark.parametrize("size", [0, 5000, (3,), "64", True, 2.5, (8, 8, 8), (8, 0)])
def test_bad_sizes_are_refused(tmp_path, size):
    with pytest.raises(UserError, match="--size"):
        load_dataset(image_folder(tmp_path, {"": 3}), size=size)


def cut(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "gif", "tif"])
def test_a_truncated_image_is_named_and_can_be_left_out(tmp_path, ending):
    folder = image_folder(tmp_path / "d", {"a": 4, "b": 4})
    bad = save_image(folder / "b" / f"0031.{ending}", noise(8, 8))
    cut(bad)
    with pytest.raises(UserError, match=rf"b/0031.{ending} should be an image.*--skip-bad") as caught:
        load_dataset(folder)
    assert str(tmp_path) not in str(caught.value)
    data = load_dataset(folder, skip_bad=True)
    assert len(data) == 8
    assert [name for name, _ in data.left_out] == [f"b/0031.{ending}"]
    assert data.left_out[0][1]


def test_empty_and_disguised_images_are_bad(tmp_path):
    folder = image_folder(tmp_path / "d", {"": 3})
    (folder / "zero.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not an image")
    save_image(tmp_path / "x.ppm", noise(8, 8)).rename(folder / "ppm.png")
    data = load_dataset(folder, skip_bad=True)
    assert sorted(name for name, _ in data.left_out) == ["ppm.png", "text.jpg", "zero.png"]
    with pytest.raises(UserError, match=r"ppm.png should be an image"):
        load_dataset(folder)


def test_all_bad_is_an_error_even_when_skipping(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="none of its 1 can be read"):
        load_dataset(tmp_path, skip_bad=True)


def test_large_images_are_refused_before_they_are_decoded(tmp_path):
    folder = image_folder(tmp_path / "d", {"": 3})
    save_image(folder / "big.png", np.zeros((20, 20), dtype=np.uint8))
    cut(folder / "big.png")  # decoding would say that it is truncated
    with pytest.raises(UserError, match=r"big.png.*20x20 is more than 399 pixels"):
        load_dataset(folder, max_pixels=399)
    header = b"BM" + bytes(8) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
    header += (60000).to_bytes(4, "little") * 2 + b"\x01\x00\x18\x00" + bytes(24)
    (folder / "big.png").unlink()
    (folder / "bomb.bmp").write_bytes(header)
    with pytest.raises(UserError, match=r"bomb.bmp.*more than 16,000,000 pixels"):
        load_dataset(folder)


def test_tiff_of_several_pages_and_float_pixels_are_refused(tmp_path):
    pages = [Image.fromarray(noise(8, 8, seed=seed)) for seed in range(2)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match="several pages"):
        load_dataset(tmp_path)
    Image.fromarray(np.zeros((8, 8), dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"save them as \.npy"):
        load_dataset(tmp_path)


def test_only_regular_files_no_pipes_no_loops(tmp_path):
    folder = image_folder(tmp_path / "d", {"a": 3, "b": 3})
    os.mkfifo(folder / "a" / "pipe.png")
    (folder / "b" / "loop").symlink_to(folder)
    (folder / "b" / "gone.png").symlink_to(folder / "nothing.png")
    (folder / "b" / "linked.png").symlink_to(folder / "a" / "000.png")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("x")
    data = load_dataset(folder)
    assert len(data) == 7
    reasons = dict(data.left_out)
    assert reasons["a/pipe.png"] == "not a regular file"
    assert "lies in" in reasons["b/loop"]
    assert "cannot be opened" in reasons["b/gone.png"]
    assert reasons[".hidden.png"] == "hidden"
    assert reasons["notes.txt"] == "not an image"
    os.mkfifo(tmp_path / "x.npy")
    with pytest.raises(UserError, match=r"x.npy should be a regular file"):
        load_dataset(tmp_path / "x.npy")


def test_the_folder_is_not_written_to(tmp_path):
    folder = image_folder(tmp_path / "d", {"a": 3, "b": 3})
    before = sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))
    load_dataset(folder, size=4)
    assert before == sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


def test_a_file_that_cannot_be_opened_says_why(tmp_path):
    with pytest.raises(BadImage, match=r"^No such file or directory$"):
        decode_file(tmp_path / "gone.png", None, 10**6)
