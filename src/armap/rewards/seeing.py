"""What a vision-language model's processor makes of a picture."""

from __future__ import annotations

import io
import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_PX = 512
"""Longest side of a picture if nothing else is said; larger ones are scaled down."""
_SHAPE = 200
"""How many times longer than wide a picture may be. Source: transformers, `smart_resize` of Qwen2-VL, which refuses
longer ones."""


def prepare_image(processor: Any, png: bytes, *, limit_px: int) -> dict[str, Any]:  # noqa: ANN401
    """Return what a vision-language model's processor makes of a picture alone: token ids and what the network sees.

    Args:
        processor: a transformers processor.
        png: bytes of a PNG file.
        limit_px: longest side, in pixels; a larger picture is scaled down.
    """
    prepared = processor(
        text=[_marker(processor)],
        images=[[open_image(png, limit_px=limit_px)]],
        images_kwargs=_tiling(processor.image_processor, limit_px),
        text_kwargs={"add_special_tokens": False},
        return_tensors="pt",
    )
    return dict(prepared)


def open_image(png: bytes, *, limit_px: int) -> Image:
    """Return a picture in colour, its longer side scaled down to the limit where it is longer.

    One that is more than 200 times longer than wide is made as wide as that asks for.

    Args:
        png: bytes of a PNG file.
        limit_px: longest side, in pixels.
    """
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    # In place, never larger, and never changing the shape by more than rounding.
    image.thumbnail((limit_px, limit_px))
    least = math.ceil(max(image.size) / _SHAPE)
    return image if min(image.size) >= least else image.resize((max(image.width, least), max(image.height, least)))


def probe_image() -> bytes:
    """Return a small picture to try a network out on, as the bytes of a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.linear_gradient("L").resize((32, 16)).save(file, "PNG")
    return file.getvalue()


def _marker(processor: Any) -> str:  # noqa: ANN401
    """Return how a picture stands in a text, with the control tokens that the chat template puts around it."""
    token: str = processor.image_token
    template = processor.chat_template or processor.tokenizer.chat_template
    if not template:
        return token
    texts = [{"type": "text", "text": text} for text in ("before", "after")]
    message = {"role": "user", "content": [texts[0], {"type": "image"}, texts[1]]}
    written = processor.tokenizer.apply_chat_template([message], chat_template=template, tokenize=False)
    between = re.search("before(.*)after", written, re.DOTALL)
    return between[1] if between and token in between[1] else token


def _tiling(image_processor: Any, limit_px: int) -> dict[str, Any]:  # noqa: ANN401
    """Return settings for a processor that scales pictures up and cuts them into tiles, so that it heeds the limit."""
    tile = getattr(image_processor, "max_image_size", None)
    if not tile:
        return {}
    across = min(image_processor.size["longest_edge"], max(limit_px, tile["longest_edge"])) // tile["longest_edge"]
    return {"size": {"longest_edge": across * tile["longest_edge"]}, "do_image_splitting": across > 1}
