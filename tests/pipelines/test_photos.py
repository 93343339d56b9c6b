"""What users hand in: folders with broken files, arrays of every kind, masks, too many pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from manyview.errors import UserError
from manyview.images.fit import longest
from manyview.images.inputs import MOST_VIEWS, Picture, Take, as_picture, gather, read_ahead, read_masks


def fit(size):
    return longest(size, long_side=56, multiple=14)


def write(path, size=(60, 80), value=100):
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)
    return path


def test_a_broken_file_in_a_folder_is_left_out_with_its_reason(tmp_path):
    write(tmp_path / "a10.png")
    write(tmp_path / "a2.png")
    (tmp_path / "a3.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"a3\.png"):
        photos, skipped = gather(tmp_path, fit, Take(), strict=False)
    assert [photo.name for photo in photos] == ["a2.png", "a10.png"]  # natural order
    assert len(skipped) == 1
    assert "0 bytes" in skipped[0]


def test_a_broken_file_stops_when_cameras_are_given_or_it_was_named(tmp_path):
    write(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"b\.png"):
        gather(tmp_path, fit, Take(), strict=True)
    with pytest.raises(UserError, match=r"b\.png"):
        gather([tmp_path / "a.png", tmp_path / "b.png"], fit, Take(), strict=False)


def test_nothing_readable_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no images"):
        gather(tmp_path, fit, Take(), strict=False)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="left out"), pytest.raises(UserError, match="no picture could be read"):
        gather(tmp_path, fit, Take(), strict=False)
    with pytest.raises(UserError, match="no such file"):
        gather(tmp_path / "nowhere", fit, Take(), strict=False)
    with pytest.raises(UserError, match="it is empty"):
        gather([], fit, Take(), strict=False)
    with pytest.raises(UserError, match="images are a int"):
        gather(3, fit, Take(), strict=False)


def test_order_of_given_paths_is_kept_and_names_are_made_unique(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "p1.png")
    paths = [tmp_path / "y/p1.png", tmp_path / "x/p1.png"]
    photos, _ = gather(paths, fit, Take(), strict=False)
    assert [photo.picture.path for photo in photos] == [str(path) for path in paths]
    assert len({photo.name for photo in photos}) == 2


def test_arrays_of_every_kind_are_the_same_picture():
    picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    kinds = [
        picture,
        picture.astype(np.float32) / 255,
        torch.from_numpy(picture),
        torch.from_numpy(picture).permute(2, 0, 1) / 255,
        picture.transpose(2, 0, 1),
    ]
    for kind in kinds:
        assert np.array_equal(as_picture(kind, "image"), picture)
    grey = as_picture(picture[..., 0], "image")
    assert grey.shape == (6, 8, 3)


def test_pil_images_are_seen_as_files_are():
    picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(picture)
    assert np.array_equal(as_picture(image, "image"), picture)
    image.putalpha(Image.new("L", image.size, 0))
    assert (as_picture(image, "image") == 255).all()
    turned = Image.fromarray(picture)
    turned.getexif()[0x0112] = 3
    assert np.array_equal(as_picture(turned, "image"), picture[::-1, ::-1])
    with pytest.raises(UserError, match="image 3: floating-point"):
        as_picture(Image.new("F", (4, 4)), "image 3")


def test_a_video_that_breaks_off_gives_its_frames_and_then_says_so(tmp_path):
    def frames():
        for index in range(3):
            yield Picture(f"f{index}", "", frame=index, pixels=np.zeros((28, 56, 3), np.uint8))
        raise UserError("frame 3 cannot be decoded")

    *photos, last = read_ahead(frames(), fit, ahead=1)
    assert [photo.name for photo in photos] == ["f0", "f1", "f2"]
    assert isinstance(last, UserError)

    def nothing():
        raise UserError("no frame can be decoded")
        yield

    with pytest.raises(UserError, match="no frame can"):
        list(read_ahead(nothing(), fit))


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\)"),
        (np.full((4, 4, 3), 255.0), r"outside \[0, 1\]"),
        (np.full((4, 4, 3), np.nan), r"outside \[0, 1\]"),
        (np.zeros((4, 4, 3), np.int32), "type int32"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(item, says):
    with pytest.raises(UserError, match=says):
        as_picture(item, "image 3")


def test_a_whole_stack_works_and_one_picture_alone_is_not_taken_for_one():
    stack = np.zeros((2, 28, 56, 3), np.uint8)
    assert len(gather(stack, fit, Take(), strict=False)[0]) == 2
    with pytest.raises(UserError, match="give a list"):
        gather(stack[0], fit, Take(), strict=False)


def test_more_than_a_thousand_are_refused_before_any_is_read():
    pictures = [np.zeros((28, 56, 3), np.uint8)] * (MOST_VIEWS + 1)
    with pytest.raises(UserError, match=r"1001 pictures.*--stride"):
        gather(pictures, fit, Take(), strict=False)
    assert len(gather(pictures, fit, Take(stride=2), strict=False)[0]) == 501


def test_frames_per_second_are_for_videos(tmp_path):
    write(tmp_path / "a.png")
    with pytest.raises(UserError, match="--fps is for videos"):
        gather(tmp_path, fit, Take(fps=2), strict=False)


def test_masks_from_a_folder_find_their_photos(tmp_path):
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b"):
        write(tmp_path / f"photos/{name}.jpg")
    mask = np.zeros((60, 80), np.uint8)
    mask[:, 40:] = 255
    Image.fromarray(mask).save(tmp_path / "masks/b.png")
    photos, _ = gather(tmp_path / "photos", fit, Take(), strict=False)
    (first, second), notes = read_masks(tmp_path / "masks", photos)
    assert notes == ["no mask for a.jpg: all of it is used"]
    assert first is None
    assert second.shape == photos[1].image.shape[:2]
    assert not second[:, :28].any()
    assert second[:, 28:].all()
    with pytest.raises(UserError, match="is named like a photo"):
        read_masks(tmp_path / "masks", photos[:1])
