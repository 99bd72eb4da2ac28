"""VILA 1.5 as a network: a SigLIP tower, a projector that joins patches four by four, and a Llama with a reward head.

It is put together from transformers' parts and computes what the official code computes at VILA's commit d7d54bc, the
one that ARMAP names; each `Source:` below is a file of it.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoTokenizer, LlavaConfig
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.models.llava.modeling_llava import LlavaPreTrainedModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from armap.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_TOKEN_ID = 0
"""Stands for parts of pictures in token ids. Its embedding is never used. Source: llava/model/llava_arch.py."""


class VilaForSequenceClassification(GenericForSequenceClassification, LlavaPreTrainedModel):  # type: ignore[misc]
    """transformers' Llava with VILA's projector and a head with a bias.

    Args:
        config: a Llava configuration with VILA's `mm_projector_type`.
    """

    _keep_in_fp32_modules_strict = frozenset({"score"})

    def __init__(self, config: LlavaConfig) -> None:
        config.num_labels = 1
        super().__init__(config)
        self.model.multi_modal_projector = VilaProjector(config)
        self.score = nn.Linear(config.text_config.hidden_size, 1)


class VilaProjector(nn.Module):
    """Turns what the tower sees into embeddings for the language model.

    Its parameters have the names of the published files. Source: llava/model/multimodal_projector/base_projector.py.

    Args:
        config: a Llava configuration with VILA's `mm_projector_type`.
    """

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__()
        seen, read = config.vision_config.hidden_size, config.text_config.hidden_size
        kind = str(config.mm_projector_type)
        self.layers: nn.Module
        if kind == "linear":
            self.layers = nn.Linear(seen, read)
        elif kind == "mlp_downsample":
            self.layers = nn.Sequential(
                SpaceToDepth(), nn.LayerNorm(4 * seen), nn.Linear(4 * seen, read), nn.GELU(), nn.Linear(read, read)
            )
        else:
            more = [layer for _ in range(_depth(kind) - 1) for layer in (nn.GELU(), nn.Linear(read, read))]
            self.layers = nn.Sequential(nn.Linear(seen, read), *more)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return `[N, T, D]` embeddings of `[N, P, E]` features."""
        embeddings: torch.Tensor = self.layers(features)
        return embeddings


class SpaceToDepth(nn.Module):
    """Joins every two by two patches into one, a grid of an odd side padded with zeros on the right and below.

    Within one the order is upper left, upper right, lower left, lower right; they follow each other column by column,
    top down. Source: `DownSampleBlock` in llava/model/multimodal_projector/base_projector.py.
    """

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return `[N, H * H, 4 * E]` of `[N, S * S, E]` features, row by row, with H half of S, rounded up."""
        side = math.isqrt(features.shape[1])
        odd = side % 2
        half = (side + odd) // 2
        grid = features.reshape(len(features), side, side, -1)
        blocks = functional.pad(grid, (0, 0, 0, odd, 0, odd)).reshape(len(features), half, 2, half, 2, -1)
        return blocks.permute(0, 3, 1, 2, 4, 5).reshape(len(features), half * half, -1)


class VilaProcessor:
    """VILA's tokenizer and what prepares pictures for its tower, as one.

    Args:
        tokenizer: a transformers tokenizer.
        image_processor: transformers' image processor of the tower.
        config: of the network.

    Attributes:
        tokenizer: the tokenizer.
        image_processor: the image processor.
    """

    image_token = "<image>"  # noqa: S105 - no password
    image_token_id = IMAGE_TOKEN_ID
    chat_template = None

    def __init__(self, tokenizer: Any, image_processor: Any, config: LlavaConfig) -> None:  # noqa: ANN401
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        # VILA's conversations are not written by a template, and there is nothing around its pictures.
        self.tokenizer.chat_template = None
        self._aspect_ratio: str | None = config.image_aspect_ratio
        self._ids = [IMAGE_TOKEN_ID] * _image_tokens(config)

    @classmethod
    def from_checkpoint(cls, folder: Path, config: LlavaConfig) -> Self:
        """Read the parts of a published checkpoint."""
        lacking = [name for name in ("sentencepiece", "google.protobuf") if importlib.util.find_spec(name) is None]
        if lacking and not (folder / "llm" / "tokenizer.json").is_file():
            raise ConfigError("VILA's tokenizer needs more to be read; type: pip install sentencepiece protobuf")
        if not (folder / "llm" / "tokenizer.json").is_file():
            _check_sentencepiece(folder / "llm" / "tokenizer.model")
        # Source: llava/model/language_model/builder.py, for `legacy`.
        tokenizer = AutoTokenizer.from_pretrained(folder / "llm", legacy=False)
        return cls(tokenizer, SiglipImageProcessorPil.from_pretrained(folder / "vision_tower"), config)

    @classmethod
    def from_saved(cls, folder: Path, config: LlavaConfig) -> Self:
        """Read what `save_pretrained` has written."""
        return cls(AutoTokenizer.from_pretrained(folder), SiglipImageProcessorPil.from_pretrained(folder), config)

    def __call__(self, *, images: list[list[Image]], **_: object) -> dict[str, torch.Tensor]:
        """Return `input_ids` `[1, T]` and `pixel_values` `[1, 3, H, W]` of one picture.

        Pictures are always alone, as `seeing.prepare_image` gives them, so the text with them says nothing.
        """
        ((image,),) = images
        pixels = self.image_processor(self._shaped(image), return_tensors="pt").pixel_values
        return {"input_ids": torch.tensor([self._ids]), "pixel_values": pixels}

    def save_pretrained(self, folder: Path) -> None:
        """Write both as transformers does."""
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)

    def _shaped(self, image: Image) -> Image:
        """Return a picture as VILA's `image_aspect_ratio` wants it. Source: llava/mm_utils.py, `process_image`."""
        from PIL import Image as pil

        if self._aspect_ratio == "resize":
            size = self.image_processor.size
            return image.resize((size["height"], size["width"]))
        if self._aspect_ratio != "pad" or image.width == image.height:
            return image
        side = max(image.size)
        ground = tuple(int(255 * mean) for mean in self.image_processor.image_mean)
        square = pil.new(image.mode, (side, side), ground)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return square


def _check_sentencepiece(file: Path) -> None:
    """Refuse what is no SentencePiece model, of which transformers would say that other packages are needed."""
    from sentencepiece import SentencePieceProcessor

    try:
        SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError) as error:
        raise ConfigError(f"{file} is no SentencePiece model; copy the checkpoint again.") from error


def _depth(kind: str) -> int:
    """Return how many linear layers a projector of VILA's kind `mlp<N>x_gelu` has."""
    number = kind.removeprefix("mlp").removesuffix("x_gelu")
    if kind != f"mlp{number}x_gelu" or not number.isdecimal() or number == "0":
        raise ConfigError(f"VILA's projector {kind} is not known; it must be linear, mlp_downsample or mlp<N>x_gelu.")
    return int(number)


def _image_tokens(config: LlavaConfig) -> int:
    """Return how many tokens a picture has."""
    side: int = config.vision_config.image_size // config.vision_config.patch_size
    if config.mm_projector_type == "mlp_downsample":
        return ((side + 1) // 2) ** 2
    return side**2 - 1 if config.vision_feature_select_strategy == "default" else side**2
