"""How a transformer reward model is fitted; apart from the fit itself, so that reading settings needs no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from armap.types import Record
from armap.weights import EMBEDDED


class FitSettings(Record):
    """How a transformer reward model is fitted."""

    backbone: str = EMBEDDED
    """The language model, encoder or vision-language model it grows from, as `armap.weights.locate` accepts it."""
    layers: int | None = Field(default=12, gt=0)
    """Layers of the backbone that are kept, from the bottom; None keeps all. Twelve of the embedded model's thirty
    learned to compare an outcome with an instruction from some 200 pairs; eight did not."""
    max_tokens: int = Field(default=512, gt=0)
    """Longest trajectory, in tokens. Of a longer one observations are shortened, the earlier ones first and the final
    one last; the instruction and the actions are whole."""
    epochs: int = Field(default=1, gt=0)
    """Passes over the training pairs."""
    pairs_per_step: int = Field(default=4, gt=0)
    """Pairs per optimiser step."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak of AdamW's learning rate. 1e-3 suits LoRA on a small backbone; the paper's 1e-5 to 2e-5 a 3B one."""
    warmup_share: float = Field(default=0.1, ge=0, le=1)
    """Share of the steps over which the rate rises to its peak, before it falls to a tenth of it."""
    lora_rank: int = Field(default=16, ge=0)
    """Rank of LoRA on every linear layer; 0 trains all weights but the embeddings. Source: the paper has 64."""
    lora_alpha: float = Field(default=32, gt=0)
    """LoRA's scale times its rank."""
    train_vision: bool = False
    """Whether what sees pictures is trained too, all of its weights. Frozen, it looks at each picture once; the paper's
    is frozen."""
    centering: float = Field(default=1e-3, ge=0)
    """Weight of the pull of each pair's scores towards zero; 0 turns it off. Source: ARMAP's released code."""
    margin: float = Field(default=0.0, ge=0)
    """By how much the loss wants a chosen trajectory above its rejected one."""
    target: Literal["pairwise", "classification"] = "pairwise"
    """`classification` is an ablation: each trajectory is scored for itself, without margin and centring."""
    pass_tokens: int = Field(default=4096, gt=0)
    """Most tokens that go through the network at once; a step takes as many passes as it needs. Memory grows with it,
    results do not."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Longest gradient."""
    evaluate_every_steps: int = Field(default=10, gt=0)
    """Steps between evaluations on the held-out pairs, at each of which a checkpoint is written."""
    patience: int = Field(default=3, gt=0)
    """Evaluations in a row without a lower held-out loss after which training stops."""
