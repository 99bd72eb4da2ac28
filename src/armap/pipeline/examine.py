"""Examine: find out how far a reward model can be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from armap.errors import ConfigError, RewardModelError
from armap.pipeline.beginnings import unfinished_pairs
from armap.pipeline.intervals import share
from armap.pipeline.outcomes import first_of_kind, judged_rightly
from armap.pipeline.probes import INJECTIONS, REWORDINGS, Injection, injected, reworded
from armap.pipeline.selection import LENGTHS
from armap.pipeline.success_by_n import success_by_n
from armap.protocols import RewardModel
from armap.rewards.calibration import fit_sharpness
from armap.store import RunFolder
from armap.types import (
    HeldoutScore,
    Interval,
    JudgeReport,
    LengthBias,
    PairMargin,
    PreferencePair,
    ProbeResult,
    ReliabilityBin,
    SearchResult,
    Trajectory,
)

_FOLDS = 5
_MOST_BINS = 10
_LEAST_PAIRS_IN_A_BIN = 10
"""Fewer say little about a share."""
_UNMOVED = 1e-5
"""By how much scores may differ that are of the same text."""


async def examine(run: RunFolder, judge: RewardModel, name: str, *, own: bool) -> JudgeReport:
    """Find out how well a reward model ranks, how sure it may be, and what misleads it.

    It is examined on the pairs that were held out from the run's own reward model, or on all where there is none, and
    on the candidates of Best-of-N where that has run.

    Args:
        run: the run folder, which is only read.
        judge: the reward model.
        name: its name, for the report.
        own: whether it is the run's own; of another one nobody knows what it was trained on.

    Raises:
        ConfigError: the run has no preference pairs.
        RewardModelError: a trajectory cannot be scored.
    """
    heldout = {scored.pair_id for scored in run.read("heldout", HeldoutScore)}
    pairs = [pair for pair in run.read("pairs", PreferencePair) if not heldout or pair.id in heldout]
    if not pairs:
        raise ConfigError(f"There are no preference pairs in {run.path}; make some with `armap synthesize`.")
    searches = run.read("searches", SearchResult)
    best = first_of_kind({search.planner for search in searches}, "best_of_n")
    return await judge_report(
        judge,
        name,
        sorted(pairs, key=lambda pair: pair.id),
        [search for search in searches if search.planner == best],
        held_out=own and bool(heldout),
    )


async def judge_report(
    judge: RewardModel,
    name: str,
    pairs: Sequence[PreferencePair],
    searches: Sequence[SearchResult],
    *,
    held_out: bool,
) -> JudgeReport:
    """Do what `examine` does, on one or more pairs and on searches of Best-of-N."""
    sides = [(pair.chosen, pair.rejected) for pair in pairs]
    margins = await _margins(judge, sides)
    sharpness = fit_sharpness(margins)
    confidences = _confidences(pairs, margins)
    right = list(map(judged_rightly, margins))
    lengths = {
        unit: [LENGTHS[unit](chosen) - LENGTHS[unit](rejected) for chosen, rejected in sides]
        for unit in ("characters", "steps")
    }
    return JudgeReport(
        reward_model=name,
        pairs=len(pairs),
        source_tasks=len({pair.source_task_id for pair in pairs}),
        held_out=held_out,
        accuracy=_share(pairs, right),
        accuracy_by_origin=_shares_by([pair.origin for pair in pairs], pairs, right),
        accuracy_unfinished=await _accuracy_unfinished(judge, pairs),
        accuracy_by_env=_shares_by([pair.task.env for pair in pairs], pairs, right),
        temperature=1 / sharpness if sharpness else None,
        calibration_error=_calibration_error(_bins(margins, confidences)),
        uncalibrated_error=_calibration_error(_bins(margins, _sure(np.array(margins)))),
        reliability=_bins(margins, confidences),
        margins=tuple(
            PairMargin(margin=margin, characters=characters, steps=steps)
            for margin, characters, steps in zip(margins, *lengths.values(), strict=True)
        ),
        length={unit: bias for unit, differences in lengths.items() if (bias := _length_bias(margins, differences))},
        swapped=_flips(pairs, margins, await _margins(judge, sides, turned=True)),
        reworded=tuple(filter(None, [await _reword(judge, wording, pairs, margins) for wording in REWORDINGS])),
        injected=tuple([await _inject(judge, injection, pairs, margins) for injection in INJECTIONS])
        if max(margins) > 0
        else (),
        success_by_n=success_by_n([await _scored_anew(judge, search) for search in searches]),
    )


async def _margins(
    judge: RewardModel, sides: Sequence[tuple[Trajectory, Trajectory]], *, turned: bool = False
) -> list[float]:
    """Return by how much the first of each two scores higher; `turned` asks for all of them in the opposite order."""
    asked = [trajectory for both in sides for trajectory in both]
    scores = (await judge.score(asked[::-1]))[::-1] if turned else await judge.score(asked)
    return [first - second for first, second in zip(scores[0::2], scores[1::2], strict=True)]


async def _accuracy_unfinished(judge: RewardModel, pairs: Sequence[PreferencePair]) -> Interval | None:
    begun = [found[len(found) // 2] for pair in pairs if (found := unfinished_pairs(pair))]
    if not begun:
        return None
    margins = await _margins(judge, [(pair.chosen, pair.rejected) for pair in begun])
    return _share(begun, list(map(judged_rightly, margins)))


async def _reword(
    judge: RewardModel, wording: str, pairs: Sequence[PreferencePair], margins: Sequence[float]
) -> ProbeResult | None:
    """Return what came of another wording of those pairs that can be read in it; None if none can, for their length."""
    sides = [(reworded(pair.chosen, wording), reworded(pair.rejected, wording)) for pair in pairs]
    try:
        changed: Sequence[float | None] = await _margins(judge, sides)
    except RewardModelError:
        changed = [await _margin_if_read(judge, both) for both in sides]
    read = [(*before, after) for *before, after in zip(pairs, margins, changed, strict=True) if after is not None]
    if not read:
        return None
    text = wording if len(read) == len(pairs) else f"{wording} (in {len(read)} of {len(pairs)} pairs)"
    return ProbeResult(text=text, flipped=_flips(*zip(*read, strict=True)))


async def _margin_if_read(judge: RewardModel, both: tuple[Trajectory, Trajectory]) -> float | None:
    try:
        return (await _margins(judge, [both]))[0]
    except RewardModelError:
        return None


async def _inject(
    judge: RewardModel, injection: Injection, pairs: Sequence[PreferencePair], margins: Sequence[float]
) -> ProbeResult:
    right = [pair for pair, margin in zip(pairs, margins, strict=True) if margin > 0]
    before = [margin for margin in margins if margin > 0]
    changed = await _margins(judge, [(pair.chosen, injected(pair.rejected, injection)) for pair in right])
    return ProbeResult(
        text=injection.name,
        flipped=_flips(right, before, changed),
        unmoved=fmean(math.isclose(one, other, abs_tol=_UNMOVED) for one, other in zip(before, changed, strict=True)),
    )


async def _scored_anew(judge: RewardModel, search: SearchResult) -> SearchResult:
    there = [i for i, candidate in enumerate(search.candidates) if candidate.trajectory.failure is None]
    scores = await judge.score([search.candidates[i].trajectory for i in there]) if there else []
    by_place = dict(zip(there, scores, strict=True))
    candidates = [
        candidate.model_copy(update={"score": by_place.get(i)}) for i, candidate in enumerate(search.candidates)
    ]
    return search.model_copy(update={"candidates": tuple(candidates)})


def _flips(pairs: Sequence[PreferencePair], before: Iterable[float], after: Iterable[float]) -> Interval:
    """Return the share of pairs with another winner than before, a draw being another one too."""
    return _share(pairs, [bool(np.sign(one) != np.sign(other)) for one, other in zip(before, after, strict=True)])


def _shares_by(names: Sequence[str], pairs: Sequence[PreferencePair], counted: Sequence[float]) -> dict[str, Interval]:
    shares = {}
    for name in sorted(set(names)):
        of_name = [i for i, other in enumerate(names) if other == name]
        shares[name] = _share([pairs[i] for i in of_name], [counted[i] for i in of_name])
    return shares


def _share(pairs: Sequence[PreferencePair], counted: Sequence[float]) -> Interval:
    """Return the share of one or more pairs that count, with its interval over source tasks."""
    found = share([pair.source_task_id for pair in pairs], counted)
    assert found is not None
    return found


def _sure(scaled_margins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how probable it is that the side with the higher score is the chosen one."""
    return 0.5 + 0.5 * np.tanh(np.abs(scaled_margins) / 2)


def _confidences(pairs: Sequence[PreferencePair], margins: Sequence[float]) -> NDArray[np.float64]:
    """Return what calibrated margins say, calibrated on the pairs of other source tasks where there are others."""
    tasks = sorted({pair.source_task_id for pair in pairs})
    fold_of = {task: number % _FOLDS for number, task in enumerate(tasks)}
    folds = np.array([fold_of[pair.source_task_id] for pair in pairs])
    values, found = np.array(margins), np.empty(len(pairs))
    for fold in set(folds.tolist()):
        others = values[folds != fold] if len(tasks) > 1 else values
        found[folds == fold] = _sure(fit_sharpness(others.tolist()) * values[folds == fold])
    return found


def _bins(margins: Sequence[float], confidences: NDArray[np.float64]) -> tuple[ReliabilityBin, ...]:
    """Put pairs together that are about equally sure, as many in each bin."""
    right = np.array(list(map(judged_rightly, margins)))
    count = max(1, min(_MOST_BINS, len(margins) // _LEAST_PAIRS_IN_A_BIN))
    return tuple(
        ReliabilityBin(
            pairs=len(inside), confidence=float(confidences[inside].mean()), accuracy=float(right[inside].mean())
        )
        for inside in np.array_split(np.argsort(confidences, kind="stable"), count)
    )


def _calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Return the expected calibration error, over bins of equal counts.

    Source: Guo et al., On calibration of modern neural networks, 2017.
    """
    pairs = sum(one.pairs for one in bins)
    return sum(one.pairs * abs(one.accuracy - one.confidence) for one in bins) / pairs


def _length_bias(margins: Sequence[float], differences: Sequence[int]) -> LengthBias | None:
    if not any(differences):
        return None
    return LengthBias(score=_correlation(differences, margins), label=_correlation(differences, [1.0] * len(margins)))


def _correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Return Spearman's correlation of differences, each of which counts both ways round."""
    ranks = [_ranks(np.concatenate([np.array(values, float), -np.array(values, float)])) for values in (one, other)]
    if not all(np.ptp(rank) for rank in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rank of each value, equals sharing the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[which]
    return ranks
