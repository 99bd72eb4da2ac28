"""Who acts in a run, and where: what `armap collect` is told, and every later command goes by."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from armap.errors import ConfigError, DataError
from armap.store import RunFolder
from armap.types import Record
from armap.weights import EMBEDDED

_REPLY_TOKENS = 64
"""Longest reply where no other is asked for: an action, and a line before it."""
SCRIPTED = "scripted"
"""Name of the model that draws among the legal actions at random and needs nothing installed."""


class AgentSettings(Record):
    """Who acts, and where."""

    env: str = "game24"
    """Name of the environment."""
    model: str = EMBEDDED
    """`embedded`, `scripted`, a local model, or the name of a model at `base_url`."""
    base_url: str | None = None
    """Address of an OpenAI-compatible server, if the model is there."""
    prompt_usd_per_million: float = Field(default=0.0, ge=0)
    """Price of a million tokens read."""
    completion_usd_per_million: float = Field(default=0.0, ge=0)
    """Price of a million tokens written."""
    temperature: float = Field(default=1.0, ge=0)
    """How freely actions are drawn."""
    choose: bool = True
    """Let the model choose among the legal actions where they are listed."""
    strict: bool = False
    """Accept nothing but `Action: ...` from a model that writes freely."""
    reply_tokens: int = Field(default=_REPLY_TOKENS, gt=0)
    """Longest reply of a model that writes freely."""
    recall_chars: int = Field(default=200, ge=0)
    """Characters of each observation but the last that the model is shown."""
    data: str | None = None
    """Folder of data of the user's own for the environment."""
    images: bool = False
    """Keep a picture of every observation."""
    evaluation: str
    """Which evaluation tasks; none of them is trained on."""
    seed: int = 0
    """Decides every draw."""

    @property
    def thinking_tokens(self) -> int:
        """How long any reply may be where more was asked for than usual, as a model that reasons needs it; else 0."""
        return self.reply_tokens if self.reply_tokens > _REPLY_TOKENS else 0

    def check(self) -> None:
        """Check what the fields cannot say for themselves.

        Raises:
            ConfigError: the address of the server holds a password, or there is one for a model that has none.
        """
        try:
            password = urlsplit(self.base_url or "").password
        except ValueError:
            # Who opens it says what is wrong with it.
            password = None
        if password:
            raise ConfigError("The server's address is kept in the run folder; put its password into ARMAP_API_KEY.")
        if self.model == SCRIPTED and self.base_url is not None:
            raise ConfigError(f"--model {SCRIPTED} is at no address; leave out --base-url, or name the server's model.")

    def require_prices(self, limit: str) -> None:
        """Refuse a limit on money where nothing is known to cost any.

        Args:
            limit: its option.

        Raises:
            ConfigError: no price is known.
        """
        if not (self.prompt_usd_per_million or self.completion_usd_per_million):
            raise ConfigError(
                f"No price of {self.model} is known, so {limit} could never stop it; collect with --prompt-price and "
                "--completion-price, in dollars per million tokens."
            )


def agent_of(run: RunFolder) -> AgentSettings:
    """Return the agent that collected in `run`.

    Raises:
        ConfigError: nothing was collected there.
        DataError: its settings cannot be read.
    """
    begun = run.manifest.stages.get("collect")
    if begun is None:
        raise ConfigError(f"Nothing was collected in {run.path}; begin with `armap collect --run {run.path}`.")
    try:
        return AgentSettings.model_validate(begun.settings["agent"])
    except (KeyError, ValidationError) as error:
        raise DataError(
            f"{run.path / 'manifest.json'} does not hold the settings of an agent at stages.collect.settings.agent; "
            "restore the file or use another run folder."
        ) from error
