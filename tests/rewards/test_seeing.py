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
