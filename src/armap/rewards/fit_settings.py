"""How a transformer reward model is fitted; apart from the fit itself, so that reading settings needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from armap.types import Record
from armap.weights import EMBEDDED

CHECKPOINT_FOLDER = "checkpoints"
"""Where in a run folder the checkpoints of a fit lie."""
PAPER_BACKBONE = "Efficient-Large-Model/VILA1.5-3b"
"""Repository on the Hugging Face Hub. Source: ARMAP, reward model."""

_EMBEDDED: Mapping[str, Any] = {
    "layers": 12,
    "max_tokens": 512,
    "learning_rate": 1e-3,
    "lora_rank": 16,
    "lora_alpha": 32,
}
"""What the embedded backbone starts from. Twelve of its thirty layers learned to compare an outcome with an instruction
from some 200 pairs; eight did not."""

_PAPER: Mapping[str, Any] = {
    "backbone": PAPER_BACKBONE,
    "layers": None,
    "lora_rank": 64,
    "lora_alpha": 16,
    "schedule": "constant",
    "max_grad_norm": 0.3,
    "centering": 1e-3,
    "patience": None,
}
"""What the benchmarks of the paper share. It names no rule by which it stops, so here training goes on to the end, and
as always the weights of the lowest held-out loss are kept. Source: ARMAP, table 14; its released scripts for schedule,
gradients and centring."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper-webshop": {
        **_PAPER,
        "epochs": 3,
        "pairs_per_step": 4,
        "learning_rate": 2e-5,
        "warmup_share": 0.1,
        "max_tokens": 8192,
        "evaluate_every_steps": 100,
    },
    "paper-scienceworld": {
        **_PAPER,
        "epochs": 10,
        "pairs_per_step": 128,
        "learning_rate": 1e-5,
        "warmup_share": 0.2,
        "max_tokens": 4096,
        "evaluate_every_steps": 20,
    },
    "paper-game24": {
        **_PAPER,
        "epochs": 10,
        "pairs_per_step": 64,
        "learning_rate": 1e-5,
        "warmup_share": 0.25,
        "max_tokens": 4000,
        "evaluate_every_steps": 100,
    },
}
"""The paper's settings by benchmark. Pairs per step are its devices times their batch times the steps over which
gradients add up. Source: ARMAP, table 14; its released scripts for the longest trajectories."""


class FitSettings(Record):
    """How a transformer reward model is fitted.

    What is not said suits a backbone of some billions of parameters; of the embedded one, which is far smaller, fewer
    layers are kept, shorter trajectories read, and LoRA is smaller and faster.
    """

    backbone: str = EMBEDDED
    """The language model, encoder or vision-language model it grows from, as `armap.weights.locate` accepts it."""
    layers: int | None = Field(default=None, gt=0)
    """Layers of the backbone that are kept, from the bottom; None keeps all. Embedded backbone: 12."""
    max_tokens: int = Field(default=4096, gt=0)
    """Longest trajectory, in tokens. Of a longer one observations are shortened, the earlier ones first and the final
    one last; the instruction and the actions are whole, but if these alone are longer, earlier steps are left out.
    Embedded backbone: 512."""
    pooling: Literal["last", "mean"] = "last"
    """Where the score is read. `mean`, the mean of the scores at all tokens, is an ablation."""
    epochs: int = Field(default=1, gt=0)
    """Passes over the training pairs."""
    pairs_per_step: int = Field(default=4, gt=0)
    """Pairs per optimiser step, of all processes together."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak of AdamW's learning rate. Embedded backbone: 1e-3. Source: TRL's RewardConfig; the paper has 1e-5 to 2e-5,
    for thousands of pairs."""
    warmup_share: float = Field(default=0.1, ge=0, le=1)
    """Share of the steps over which the rate rises to its peak."""
    schedule: Literal["falling", "constant"] = "falling"
    """What the rate does after that: it falls to a tenth of the peak, or stays."""
    lora_rank: int = Field(default=64, ge=0)
    """Rank of LoRA on every linear layer of what reads text; 0 trains all of its weights but the embeddings. Embedded
    backbone: 16. Source: ARMAP, table 14."""
    lora_alpha: float = Field(default=16.0, gt=0)
    """LoRA's scale times its rank. Embedded backbone: 32. Source: ARMAP, table 14."""
    train_vision: bool = False
    """Whether what sees pictures is trained too, all of its weights. Frozen, it looks at each picture once; the paper's
    is frozen."""
    centering: float = Field(default=1e-3, ge=0)
    """Weight of the pull of each pair's scores towards zero; 0 turns it off. Source: ARMAP's released code."""
    margin: float = Field(default=0.0, ge=0)
    """By how much the loss wants a chosen trajectory above its rejected one, beside what a pair itself asks for."""
    target: Literal["pairwise", "classification"] = "pairwise"
    """`classification` is an ablation: each trajectory is scored for itself, without margin and centring."""
    pass_tokens: int = Field(default=4096, gt=0)
    """Most tokens that go through the network at once; a step takes as many passes as it needs. Memory grows with it,
    results do not."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Longest gradient."""
    evaluate_every_steps: int = Field(default=10, gt=0)
    """Steps between evaluations on the held-out pairs, at each of which a checkpoint is written."""
    patience: int | None = Field(default=3, gt=0)
    """Evaluations in a row without a lower held-out loss after which training stops; None goes on to the end."""

    @model_validator(mode="before")
    @classmethod
    def _suit_the_embedded_backbone(cls, said: dict[str, Any]) -> dict[str, Any]:
        return {**_EMBEDDED, **said} if said.get("backbone", EMBEDDED) == EMBEDDED else said
