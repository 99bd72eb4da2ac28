import io

import pytest

from armap.rewards.seeing import open_image


def test_a_picture_is_opened_in_colour_and_scaled_down_but_never_up():
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed: opening pictures is not tested")
    file = io.BytesIO()
    image.new("RGBA", (40, 20), "red").save(file, "PNG")
    assert (open_image(file.getvalue(), limit_px=10).size, open_image(file.getvalue(), limit_px=10).mode) == (
        (10, 5),
        "RGB",
    )
    assert open_image(file.getvalue(), limit_px=100).size == (40, 20)


@pytest.mark.parametrize(
    ("size", "opened"), [((3000, 10), (512, 3)), ((10, 3000), (3, 512)), ((200, 1), (200, 1)), ((201, 1), (201, 2))]
)
def test_a_picture_that_is_but_a_line_is_widened_to_what_every_processor_takes(size, opened):
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed: opening pictures is not tested")
    image.new("RGB", size, "red").save(file := io.BytesIO(), "PNG")
    found = open_image(file.getvalue(), limit_px=512)
    assert (found.size, found.getpixel((0, 0))) == (opened, (255, 0, 0))
