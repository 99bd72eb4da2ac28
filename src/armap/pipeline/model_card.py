"""The card of a reward model: what the Hugging Face Hub shows of its folder."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from pydantic import JsonValue

from armap import __version__
from armap.pipeline.funnel import ablations
from armap.pipeline.intervals import share
from armap.pipeline.kept_out import at_other_tasks
from armap.pipeline.outcomes import judged_rightly
from armap.types import HeldoutScore, Interval, PreferencePair

_PACKAGES = ("torch", "transformers", "peft", "accelerate", "numpy")
_USE = """```python
from pathlib import Path

from armap.reward_models import load_reward_model

model = load_reward_model(Path("this folder"))  # refuses a head that is missing, untrained or of several labels
scores = await model.score(trajectories)
```

`armap serve --reward-model FOLDER` serves it on the routes of vLLM; without `use_activation` a score is as it is, where
vLLM brings it between 0 and 1."""
_TRANSFORMERS = {
    "last": "transformers loads it as a sequence-classification model of one label, whose logit is the score: without "
    "an activation, of a trajectory as `armap.rewards.rendering` writes it out. A model that sees pictures it knows "
    "once `armap.weights.scorer_class` was given its configuration.",
    "mean": "Its score is the mean of what the head says at all tokens, for comparison; transformers, and servers "
    "other than `armap serve`, read something else.",
}

_CHOSE_THE_WEIGHTS = (
    " The same pairs decided which weights of the fit were kept, so these figures are of the most favourable moment."
)


class MadeFrom(NamedTuple):
    """What a reward model was grown from, and how."""

    library: str
    """The library that loads it."""
    base_model: str | None = None
    """Repository on the Hugging Face Hub, where the backbone is from one."""
    licence: str | None = None
    """Licence of the backbone, as the Hub names it; None if it is not known."""
    settings: Mapping[str, JsonValue] = {}
    """How it was fitted."""


def model_card(
    name: str,
    made_from: MadeFrom,
    *,
    training: Sequence[PreferencePair],
    heldout: Sequence[PreferencePair],
    scored: Sequence[HeldoutScore],
) -> str:
    """Return a card: metadata that the Hub reads, and the same in words.

    Args:
        name: of the reward model.
        made_from: what it was grown from.
        training: pairs it learned from.
        heldout: pairs it did not learn from.
        scored: what it says of them.

    Source: the Hub's documentation, "Model Cards"; its metadata are YAML, of which JSON values are a part.
    """
    groups = {"all": list(scored)}
    for origin in sorted({score.origin for score in scored}):
        groups[f"rejected by {origin}"] = [score for score in scored if score.origin == origin]
    accuracies = {what: _accuracy(group) for what, group in groups.items()}
    pairs = [*training, *heldout]
    environments = ", ".join(sorted({pair.task.env for pair in pairs}))
    is_transformer = made_from.library == "transformers"
    return "\n".join(
        [
            "---",
            *_metadata(made_from, accuracies, environments),
            "---",
            "",
            "# Trajectory reward model",
            "",
            "Scores how well an agent's trajectory fulfils its instruction. Higher is better; scores have no unit and "
            f"compare only trajectories of one task. Trained by `armap train` from {name}.",
            *(f"\n**{ablation}**" for ablation in ablations({pair.verified_by for pair in training})),
            "",
            "## Use",
            "",
            _USE,
            *(["", _TRANSFORMERS[str(made_from.settings["pooling"])]] if is_transformer else []),
            "",
            "## Held-out pairs",
            "",
            "| pairs | | accuracy | 95 % interval |",
            "|---|---|---|---|",
            *(f"| {what} | {len(groups[what])} | {_percent(one)} |" for what, one in accuracies.items()),
            "",
            "Accuracy is the share of pairs whose chosen trajectory scores higher, draws counting half; no source "
            f"task of these {len(scored)} pairs was trained on, {_of_tasks(training, heldout)}, and the interval is "
            "over their source tasks. What a score means as a probability stands in `calibration.json`. "
            "`armap judge-report` says more: what the model leans on, and what misleads it."
            + (_CHOSE_THE_WEIGHTS if is_transformer else ""),
            "",
            "## Data",
            "",
            *_data(training, heldout, environments),
            "",
            "## Intended use and limits",
            "",
            "- For choosing among an agent's trajectories of the environment it was trained for, as `armap plan` and "
            "`armap evaluate` do.",
            f"- It knows what it was trained on only ({environments}), and text in observations can mislead it.",
            "- It was not trained to tell whether a trajectory is safe or lawful.",
            "",
            "## How it was made",
            "",
            *(f"- {setting}: {value}" for setting, value in made_from.settings.items()),
            f"- versions: {_versions()}",
            "",
        ]
    )


def _metadata(made_from: MadeFrom, accuracies: Mapping[str, Interval], environments: str) -> Iterable[str]:
    yield f"library_name: {made_from.library}"
    yield "pipeline_tag: text-classification"
    if made_from.licence:
        yield f"license: {json.dumps(made_from.licence)}"
    if made_from.base_model:
        yield f"base_model: {json.dumps(made_from.base_model)}"
    yield "tags: [reward-model, agents, armap]"
    yield "metrics: [accuracy]"
    yield "model-index:"
    yield '- name: "reward model"'
    yield "  results:"
    yield "  - task: {type: text-classification, name: Choosing the better of two trajectories}"
    yield f"    dataset: {{type: preference-pairs, name: {json.dumps(f'Held-out pairs of {environments}')}}}"
    yield "    metrics:"
    for what, accuracy in accuracies.items():
        name = json.dumps(f"Pairwise accuracy, {what}")
        yield f"    - {{type: accuracy, value: {accuracy.mean:.4f}, name: {name}}}"


def _data(training: Sequence[PreferencePair], heldout: Sequence[PreferencePair], environments: str) -> Iterable[str]:
    pairs = [*training, *heldout]
    sources = len({pair.source_task_id for pair in pairs})
    yield (
        f"- {len(training)} preference pairs to learn from and {len(heldout)} held out, of {sources} source tasks of "
        f"{environments}."
    )
    yield f"- Rejected trajectories: {_counts(pair.origin for pair in pairs)}."
    yield f"- Instructions written by: {_counts(pair.instruction_writer for pair in pairs)}."
    yield f"- Differences verified by: {_counts(pair.verified_by for pair in pairs)}."
    if {pair.verified_by for pair in pairs} == {"execution"}:
        yield (
            "- Made of the agent's own trajectories: instructions rewritten to fit what happened, rejected "
            "trajectories executed and found to come to something else. No human labels and no rewards of the "
            "environment."
        )


def _of_tasks(training: Sequence[PreferencePair], heldout: Sequence[PreferencePair]) -> str:
    """Say whether the tasks that held-out source tasks led to were trained on, as those of others."""
    if len(at_other_tasks(heldout, training)) < len(heldout):
        return "though their instructions were, with other source tasks"
    return "nor were their instructions"


def _accuracy(scored: Sequence[HeldoutScore]) -> Interval:
    """Return the pairwise accuracy on one or more pairs."""
    found = share(
        [score.source_task_id for score in scored], [judged_rightly(score.chosen - score.rejected) for score in scored]
    )
    assert found is not None
    return found


def _percent(one: Interval) -> str:
    return f"{one.mean:.1%} | {one.low:.1%} to {one.high:.1%}"


def _counts(names: Iterable[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(Counter(names).items()))


def _versions() -> str:
    found = [f"armap {__version__}", f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
