import multiprocessing
from pathlib import Path

import pytest

from armap.errors import DataError
from armap.images import ImageFolder

# The smallest picture there is: one white pixel.
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c63f80f00010101001bb6ee56"
    "0000000049454e44ae426082"
)


def test_a_picture_is_read_back_as_it_was_and_stored_once(tmp_path: Path):
    folder = ImageFolder(tmp_path / "images")
    first, again = folder.add(PIXEL), folder.add(PIXEL)
    assert first == again
    assert (first.width_px, first.height_px) == (1, 1)
    assert folder.read(first) == PIXEL
    assert len([file for file in folder.path.rglob("*") if file.is_file()]) == 1


@pytest.mark.parametrize("junk", [b"", b"GIF89a", PIXEL[:20]])
def test_what_is_no_picture_is_refused(tmp_path: Path, junk: bytes):
    with pytest.raises(ValueError, match="PNG"):
        ImageFolder(tmp_path).add(junk)


def test_a_picture_that_is_missing_or_spoilt_is_named(tmp_path: Path):
    folder = ImageFolder(tmp_path)
    image = folder.add(PIXEL)
    file = next(tmp_path.rglob("*.png"))
    file.write_bytes(PIXEL + b"x")
    with pytest.raises(DataError, match=f"{file}.*copy it again"):
        folder.read(image)
    file.unlink()
    with pytest.raises(DataError, match=f"{file}.*missing"):
        folder.read(image)


def test_a_part_of_a_picture_is_made_whole_when_it_comes_again(tmp_path: Path):
    folder = ImageFolder(tmp_path)
    image = folder.add(PIXEL)
    next(tmp_path.rglob("*.png")).write_bytes(PIXEL[:9])
    folder.add(PIXEL)
    assert folder.read(image) == PIXEL


def test_processes_may_add_the_same_picture_at_once(tmp_path: Path):
    folder = ImageFolder(tmp_path)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        images = pool.map(folder.add, [PIXEL] * 20)
    assert folder.read(images[0]) == PIXEL
    assert {file.suffix for file in tmp_path.rglob("*") if file.is_file()} == {".png"}
