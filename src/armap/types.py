"""The records: everything that is written to disk or travels between stages.

All are frozen and refuse unknown fields, so a record that was read is a record that was meant. A record has no
behaviour beyond its own consistency; what holds a connection or weights is a plain class elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from operator import lt
from types import MappingProxyType
from typing import ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

SCHEMA_VERSION = 1
"""Version of every record below; a run folder written under another one is refused."""

StopReason = Literal["terminated", "truncated", "failed"]
"""The world ended the trajectory, a limit ended it, or something broke."""


class Record(BaseModel):
    """A frozen record that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Task(Record):
    """One problem for an agent."""

    id: str
    """Unique within its environment."""
    env: str
    """Name of the environment that understands `config`."""
    instruction: str
    """What the agent is asked to do, in words."""
    split: str = "train"
    """`train`, `test` or a name the environment defines."""
    seed: int = 0
    """Seed for whatever the environment draws at random."""
    config: dict[str, JsonValue] = Field(default_factory=dict)
    """What the environment needs to rebuild the same start."""


class ImageRef(Record):
    """A picture, by its content; the bytes are in an `armap.images.ImageFolder`."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Hash of the PNG file, in hexadecimal."""
    width_px: int = Field(gt=0)
    """Pixels across."""
    height_px: int = Field(gt=0)
    """Pixels down."""


class Observation(Record):
    """What the agent sees."""

    text: str
    """The observation in words."""
    actions: tuple[str, ...] | None = None
    """Legal actions, where the environment can list them; it may obey others too."""
    image: ImageRef | None = None
    """The observation as a picture, where the environment draws one."""


class Action(Record):
    """What the agent does."""

    text: str
    """What the environment executes."""
    thought: str = ""
    """Reasoning the language model wrote before the action; never executed."""


@dataclass(frozen=True, slots=True)
class Step:
    """One action at the observation that it answers.

    It is made once for every step of every search, so it is no `Record`, and is checked only where it is read from a
    file.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    observation: Observation
    """What was seen before the action."""
    action: Action
    """What was done."""
    env_reward: float = 0.0
    """What the environment paid for the action; for evaluation only."""


class History(NamedTuple):
    """A trajectory so far, as a value: the state of every planner.

    It is never written, and made once for every step of every search, so it is a tuple and checks nothing.
    """

    task: Task
    """The problem."""
    observation: Observation
    """What is seen now."""
    steps: tuple[Step, ...] = ()
    """What happened until now."""
    stop_reason: StopReason | None = None
    """Why nothing more can happen, or None while it can."""
    metrics: Mapping[str, float] = MappingProxyType({})
    """Named quantities the environment reports, such as a price."""
    state_name: str | None = None
    """What the state is called, whatever led there: histories of one task with equal names go on alike. None if the
    environment cannot name its states."""

    @property
    def actions(self) -> tuple[str, ...]:
        """The texts of the actions taken, which together with the task identify this state."""
        return tuple([step.action.text for step in self.steps])

    def after(
        self,
        action: Action,
        observation: Observation,
        *,
        env_reward: float = 0.0,
        stop_reason: StopReason | None = None,
        metrics: Mapping[str, float] = MappingProxyType({}),
        state_name: str | None = None,
    ) -> History:
        """Return the history after one more action.

        Args:
            action: what is done.
            observation: what is seen then.
            env_reward: what the environment pays for it.
            stop_reason: why nothing more can happen then, if so.
            metrics: what the environment reports then.
            state_name: what the state is called then.
        """
        step = Step(self.observation, action, env_reward)
        return History(self.task, observation, (*self.steps, step), stop_reason, metrics, state_name)


class Failure(Record):
    """What went wrong in place of a result."""

    kind: str
    """Class name of the error."""
    message: str
    """One sentence."""


class TaskFailure(Record):
    """A task that a stage could not even begin."""

    stage: str
    """Name of the stage."""
    task_id: str
    """The task."""
    failure: Failure
    """What went wrong."""


class Trajectory(Record):
    """A finished attempt: N steps and N+1 observations."""

    id: str
    """Unique within its file."""
    task: Task
    """The problem that was attempted."""
    steps: tuple[Step, ...]
    """The N steps, each with the observation before its action."""
    final_observation: Observation
    """The observation after the last action."""
    stop_reason: StopReason
    """Why it ended."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Named quantities the environment reported at the end."""
    failure: Failure | None = None
    """Set exactly when `stop_reason` is `failed`."""

    @property
    def env_reward(self) -> float:
        """What the environment paid in all; for evaluation only, never shown to a policy, planner or reward model."""
        return sum(step.env_reward for step in self.steps)

    @property
    def first_observation(self) -> Observation:
        """What was seen before anything was done."""
        return self.steps[0].observation if self.steps else self.final_observation

    @property
    def actions(self) -> tuple[str, ...]:
        """The texts of the actions taken."""
        return tuple([step.action.text for step in self.steps])

    @model_validator(mode="after")
    def _failure_matches_stop_reason(self) -> Self:
        if (self.failure is not None) != (self.stop_reason == "failed"):
            raise ValueError("a trajectory carries a failure exactly when its stop_reason is 'failed'")
        return self


class Usage(Record):
    """What was spent on language models."""

    calls: int = 0
    """Requests sent."""
    prompt_tokens: int = 0
    """Tokens read by the model, cached ones included."""
    cached_tokens: int = 0
    """Tokens among `prompt_tokens` that the model did not have to compute again."""
    completion_tokens: int = 0
    """Tokens written by the model."""
    cost_usd: float = 0.0
    """Money, where a price is known."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            calls=self.calls + other.calls,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cost_usd=self.cost_usd + other.cost_usd,
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            calls=self.calls - other.calls,
            prompt_tokens=self.prompt_tokens - other.prompt_tokens,
            cached_tokens=self.cached_tokens - other.cached_tokens,
            completion_tokens=self.completion_tokens - other.completion_tokens,
            cost_usd=self.cost_usd - other.cost_usd,
        )

    @property
    def tokens(self) -> int:
        """Tokens read and written."""
        return self.prompt_tokens + self.completion_tokens


Check = Literal["attempt", "instruction", "failure", "outcome", "judge", "duplicate", "length"]
"""What a preference pair has to pass, in this order: an attempt worth writing about; an instruction that fits, is no
evaluation task and gives no action away; nothing broke; the sides came to different things; the judge agrees; nothing
like it is there; and lengths do not tell the sides apart."""


class PreferencePair(Record):
    """One instruction, a trajectory that fulfils it and one that does not."""

    id: str
    """Unique within its file."""
    task: Task
    """The task both sides attempt; its instruction may have been rewritten to fit `chosen`."""
    chosen: Trajectory
    """The trajectory that fulfils the instruction."""
    rejected: Trajectory
    """The trajectory that does not."""
    source_task_id: str
    """The task the policy was attempting when it produced `chosen`; pairs of one source belong to one split."""
    origin: str
    """How the rejected trajectory was made, such as `altered_action`; see `armap.pipeline.negatives`."""
    instruction_writer: str
    """Who wrote the instruction: `environment`, the name of a language model, or `task` where it was not rewritten."""
    verified_by: str
    """What established which side is the chosen one: `execution`, `environment reward` (an oracle), `nothing`, or
    `imported` where a data set says so."""
    judge: str | None = None
    """The language model that took the chosen side for the better one in both orders; None if none was asked."""
    usage: Usage = Usage()
    """What making it took of language models; of the pairs of one attempt the first carries its instruction's cost."""
    margin: float = Field(default=0.0, allow_inf_nan=False)
    """By how much `chosen` is to score above `rejected` at least, where that is known."""

    @model_validator(mode="after")
    def _both_sides_attempt_the_task(self) -> Self:
        for side in (self.chosen, self.rejected):
            if side.task != self.task:
                raise ValueError("both trajectories of a pair must attempt the pair's own task")
            if side.failure is not None:
                raise ValueError("a failed trajectory must not enter a pair")
        return self


class DiscardedPair(Record):
    """A pair that was not made, and why."""

    id: str
    """The id it would have had."""
    origin: str
    """How its rejected trajectory was to be made."""
    check: Check
    """What it did not pass."""
    reason: str
    """Why not, in a few words that are the same for the same cause."""
    usage: Usage = Usage()
    """What it took of language models until then."""


class TrainingPoint(Record):
    """One optimiser step of a reward model."""

    step: int
    """Counted from 1."""
    loss: float
    """Loss on the step's pairs, in nats."""
    accuracy: float
    """Share of the step's pairs whose chosen trajectory scored higher, a draw being half of one."""
    heldout_loss: float | None = None
    """Loss on all held-out pairs after the step, where it was evaluated."""
    heldout_accuracy: float | None = None
    """Pairwise accuracy on all held-out pairs after the step, where it was evaluated."""


class HeldoutScore(Record):
    """What the trained reward model says of one pair it was not trained on."""

    pair_id: str
    """The pair."""
    source_task_id: str
    """Its source task, over which intervals are drawn."""
    origin: str
    """How its rejected trajectory was made."""
    chosen: float
    """Score of the chosen trajectory."""
    rejected: float
    """Score of the rejected one."""


class Calibration(Record):
    """What the scores of a reward model mean: 1 / (1 + exp(-(slope * score + intercept))) is a probability."""

    slope: float = Field(ge=0, allow_inf_nan=False)
    """Per point of score; 0 if scores say nothing."""
    intercept: float = Field(allow_inf_nan=False)
    """What stands beside it."""
    pairs: int = Field(gt=0)
    """Held-out pairs it was fitted to."""
    labelled_by: tuple[str, ...] = ()
    """What established the chosen sides of the pairs the model was trained on; see `PreferencePair.verified_by`."""
    source_task_ids: tuple[str, ...] = ()
    """Tasks of which its pairs were made, held-out ones included: what it says of attempts at them proves little."""


class Budget(Record):
    """Limits of a run; None means unlimited. They hold for the whole run, however often it is started again."""

    max_calls: int | None = Field(default=None, ge=0)
    """Requests to language models."""
    max_tokens: int | None = Field(default=None, ge=0)
    """Tokens read and written."""
    max_seconds: float | None = Field(default=None, ge=0)
    """Wall time of this invocation, in seconds."""
    max_cost_usd: float | None = Field(default=None, ge=0)
    """Money."""


class SearchBudget(Budget):
    """Limits of one search, looked at before anything is spent; None means unlimited.

    What is under way when one is reached still counts: tokens and money of the last requests, of which up to eight are
    made at a time, and the requests that a server needs for several answers if it gives one at a time.
    """

    max_trajectories: int | None = Field(default=None, gt=0)
    """Trajectories tried, those that fail included."""


class Message(Record):
    """One turn of a conversation with a language model."""

    role: Literal["system", "user", "assistant"]
    """Who speaks."""
    content: str
    """What is said."""


class SamplingParams(Record):
    """How a language model draws its answer."""

    temperature: float = Field(default=1.0, ge=0)
    """0 takes the most likely answer."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Share of the probability mass that is sampled from."""
    max_tokens: int = Field(default=64, gt=0)
    """Longest answer."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer; they are not part of it."""
    seed: int | None = None
    """Makes the draw repeatable where the model supports it."""


class Completion(Record):
    """One answer of a language model."""

    text: str
    """The answer, without its stop text."""
    usage: Usage = Usage()
    """What this answer cost; for several answers of one request the first carries it all."""
    cut: bool = False
    """Whether it was as long as an answer may be, so that more might have come."""
    choice_entropy_nats: float | None = None
    """Entropy of the distribution over the offered choices, where the model knows it."""
    choice_mass: float | None = None
    """Probability that a free answer is one of the offered choices, where the model knows it."""


class Candidate(Record):
    """A trajectory a planner considered."""

    trajectory: Trajectory
    """What was tried."""
    score: float | None = None
    """What the reward model says; None where no reward model was asked."""


class SearchTree(Record):
    """The tree a planner grew, one entry per node in every column; node 0 is the task's start.

    Columns instead of nodes, so that a hundred thousand of them stay a few megabytes.
    """

    parents: tuple[int, ...]
    """The node from which each was first reached; -1 for node 0."""
    actions: tuple[str, ...]
    """The action that led there; empty for node 0."""
    priors: tuple[float, ...]
    """Share of the policy's proposals at the parent that were this action; 1 for node 0."""
    visits: tuple[int, ...]
    """Simulations that went through it."""
    values: tuple[float | None, ...]
    """Mean of what those came to, in the reward model's unit; None where nothing is known."""
    scores: tuple[float | None, ...]
    """What the reward model said of the node itself; None where it was not asked."""
    failures: dict[int, Failure] = Field(default_factory=dict)
    """What went wrong at a node, by its number."""

    @model_validator(mode="after")
    def _columns_match(self) -> Self:
        columns = (self.parents, self.actions, self.priors, self.visits, self.values, self.scores)
        if len({len(column) for column in columns}) != 1:
            raise ValueError("all columns of a search tree must be equally long")
        begins = self.parents[:1] == (-1,) and min(self.parents[1:], default=0) == 0
        if not begins or not all(map(lt, self.parents, count())):
            raise ValueError("a node of a search tree must stand behind its parent")
        return self


class SearchResult(Record):
    """What a planner did with one task."""

    task: Task
    """The problem."""
    planner: str
    """Name of the planner, with the settings that are not the usual ones."""
    candidates: tuple[Candidate, ...] = ()
    """Every trajectory it considered, in the order they were drawn."""
    answer: int | None = None
    """Index into `candidates` of the trajectory it returns; None if it failed."""
    usage: Usage = Usage()
    """What it spent on language models."""
    env_steps: int = Field(default=0, ge=0)
    """Steps really executed in the environment."""
    merged_proposals: int = Field(default=0, ge=0)
    """Proposals that shared the request of an identical state instead of needing one of their own."""
    seconds: float = Field(default=0.0, ge=0)
    """Wall time."""
    tree: SearchTree | None = None
    """The tree it grew, if it grew one."""
    failure: Failure | None = None
    """What went wrong, if nothing can be returned."""
    setbacks: tuple[Failure, ...] = ()
    """What went wrong and ended no trajectory, such as a reflection that could not be had."""


class Interval(Record):
    """An estimate with its 95 % interval over tasks: by bootstrap, or exact for a rate of 0 or 1."""

    mean: float
    """The estimate."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""


class PlannerMetrics(Record):
    """What one way of planning achieved, and what it cost."""

    searches: str
    """Planner whose searches this is computed from; `sampling` and `oracle` are read off those of `best_of_n`."""
    tasks: int
    """Tasks tried."""
    failed: int
    """Tasks whose search ended in a failure; they count as success 0."""
    failed_candidates: int
    """Candidates that failed, over all tasks; each counts as success 0."""
    success: Interval
    """What the environment pays for the answer, averaged over tasks."""
    difference_to_sampling: Interval | None = None
    """Success minus that of sampling, paired over the tasks both tried; None where there is nothing to compare."""
    difference_to_greedy: Interval | None = None
    """The same for greedy."""
    difference_to_best_of_n: Interval | None = None
    """The same for Best-of-N."""
    gap_closed: Interval | None = None
    """Share of the way from sampling to oracle that it goes; None without such a way."""
    answer_metrics: dict[str, float]
    """Mean of `steps` and of whatever the environment reports, over the answers that have it."""
    trajectories: float
    """Trajectories tried per task."""
    calls: float
    """Requests to language models per task. This and all below belong to whole searches, with all their candidates."""
    prompt_tokens: float
    """Tokens read per task."""
    completion_tokens: float
    """Tokens written per task."""
    cost_usd: float
    """Money per task."""
    env_steps: float
    """Steps executed in the environment per task."""
    seconds: float
    """Wall time per task."""
    merged_proposals: float
    """Proposals per task that shared another one's request."""


class SuccessAtN(Record):
    """Success if only `n` candidates had been drawn, averaged over tasks."""

    n: int
    """Candidates."""
    sampling: float
    """Of one candidate at random; the same for every `n`."""
    best_of_n: float
    """Of the candidate with the highest score."""
    oracle: float
    """Of the candidate the environment pays most: the ceiling."""
    more_gain: Interval
    """What all candidates, instead of `n`, add to `best_of_n`: the mean of the differences within tasks."""


class ReliabilityBin(Record):
    """Pairs about which a reward model is about equally sure."""

    pairs: int
    """How many."""
    confidence: float
    """Mean probability that the side with the higher score is the chosen one, as the calibrated margin says."""
    accuracy: float
    """Share of them in which it is."""


class LengthBias(Record):
    """How much more of something goes with a higher score; Spearman's correlations of differences within pairs."""

    score: float
    """Between the difference in length and the difference in score, from -1 to 1."""
    label: float
    """Between the difference in length and which side is the chosen one: what would be deserved."""


class ProbeResult(Record):
    """What came of changing trajectories in a way that should not change which one is better."""

    text: str
    """What was done, or put in."""
    flipped: Interval
    """Share of pairs whose winner became another; of pairs judged rightly before, where something begs for a score."""
    unmoved: float = 0.0
    """Share of them whose scores stayed as they were, as if the judge had not read what begs for a score."""


class PairMargin(Record):
    """By how much the chosen trajectory of a pair is above the rejected one."""

    margin: float
    """In points of score."""
    characters: int
    """In characters observed and said."""
    steps: int
    """In steps."""


class JudgeReport(Record):
    """How far a reward model can be trusted; intervals are over source tasks."""

    reward_model: str
    """Its name."""
    pairs: int
    """Preference pairs it was examined on."""
    source_tasks: int
    """Source tasks of those pairs."""
    held_out: bool
    """Whether the run's own reward model was kept from these pairs in training."""
    accuracy: Interval
    """Share of pairs whose chosen trajectory scores higher, a draw being half of one."""
    accuracy_by_origin: dict[str, Interval]
    """The same by how the rejected trajectory was made."""
    accuracy_by_env: dict[str, Interval]
    """The same by environment."""
    accuracy_unfinished: Interval | None
    """The same after half of the steps, where both sides still go on and no longer show the same; what led to the
    chosen end counts as the better beginning, which is a guess. None where there is no such pair."""
    temperature: float | None
    """T in 1 / (1 + exp(-margin / T)), the probability that the side with the higher score is the chosen one; None if
    margins say nothing."""
    calibration_error: float
    """Expected calibration error of those probabilities, T being fitted to pairs of other source tasks."""
    uncalibrated_error: float
    """The same with T = 1."""
    reliability: tuple[ReliabilityBin, ...]
    """From unsure to sure."""
    margins: tuple[PairMargin, ...]
    """Of every pair, in the order of their ids."""
    length: dict[str, LengthBias]
    """By `characters` and `steps`; one is missing where all pairs have two sides of equal length."""
    swapped: Interval
    """Share of pairs whose winner becomes another when they are scored in the opposite order."""
    reworded: tuple[ProbeResult, ...]
    """By a wording of the instruction that means the same."""
    injected: tuple[ProbeResult, ...]
    """By a text in what the rejected trajectory observed that begs for a high score."""
    success_by_n: tuple[SuccessAtN, ...]
    """What Best-of-N with this reward model achieves on the candidates of the run, as `Metrics.success_by_n`."""


class RewardModelMetrics(Record):
    """How well the reward model tells good trajectories from bad ones; None where there was nothing to tell apart."""

    pairs: int
    """Held-out pairs."""
    source_tasks: int
    """Source tasks of the held-out pairs."""
    pairwise_accuracy: Interval | None
    """Share of held-out pairs whose chosen trajectory scores higher, a draw being half of one."""
    pairwise_accuracy_by_origin: dict[str, Interval]
    """The same by how the rejected trajectory was made."""
    candidate_auc: Interval | None
    """Probability that a solved candidate outscores an unsolved one of the same task, averaged over tasks."""
    candidate_auc_tasks: int
    """Tasks with candidates of both kinds."""


class PolicyMetrics(Record):
    """How the language model acted; None where nothing is known about it."""

    choices: int
    """Answers that were chosen among legal actions."""
    choice_entropy_nats: float | None
    """Mean entropy of the distribution over the offered choices."""
    choice_mass: float | None
    """Mean probability that a free reply would have been legal."""
    listed_steps: int
    """Executed steps at which the environment listed the legal actions."""
    legal_share: float | None
    """Share of those whose action was one of them."""


class DataMetrics(Record):
    """What became of the collected trajectories; None where there are no pairs."""

    trajectories: int
    """Trajectories collected, failed ones included."""
    failed_trajectories: int
    """Trajectories that failed."""
    pairs: dict[str, int]
    """Pairs made, by origin."""
    discarded: dict[str, int]
    """Pairs not made, by reason."""
    funnel: dict[str, dict[str, int]]
    """By origin: `begun`, and then how many were left after each check."""
    labelled_by: tuple[str, ...]
    """What established which side is the chosen one, see `PreferencePair.verified_by`."""
    judges: tuple[str, ...]
    """Language models that were asked as judges."""
    length_tells: dict[str, float]
    """How often the longer side, or the shorter one if that is right more often, is the chosen one; in `steps` and in
    `characters`, equals counting half."""
    spent: Usage
    """What making pairs took of language models, discarded ones included."""
    chosen_steps: float | None
    """Mean length of chosen trajectories."""
    rejected_steps: float | None
    """Mean length of rejected trajectories."""


class FailureCount(Record):
    """Failures of one kind in one place."""

    where: str
    """Name of a stage or planner."""
    kind: str
    """Class name of the error."""
    count: int
    """How many trajectories, or tasks without any, ended this way."""
    example: str
    """Message of the first one."""


class Metrics(Record):
    """Everything a run folder says about how well it went."""

    failures: tuple[FailureCount, ...]
    """What went wrong."""
    planners: dict[str, PlannerMetrics]
    """By planner, with the settings that are not the usual ones; `oracle` is the environment's own choice among the
    candidates, a ceiling and no planner."""
    gap_closed: Interval | None
    """Share of the way from sampling to oracle that `best_of_n` goes; None without such a way."""
    success_by_n: tuple[SuccessAtN, ...]
    """Success against the number of candidates."""
    reward_model: RewardModelMetrics
    """The reward model."""
    policy: PolicyMetrics
    """The policy."""
    data: DataMetrics
    """The data."""
    chosen_by: str | None = None
    """Who chose, where that was not the run's own reward model: another one, and an objective."""
    spent: Usage
    """What was spent on language models over the whole life of the run."""


class SweepPoint(Record):
    """What is chosen under one weight of an objective."""

    weight: float
    """The weight."""
    objective: str
    """The objective with it."""
    env_reward: Interval
    """What the environment pays for the answer, averaged over tasks."""
    difference: Interval
    """That minus what it pays for the answer of the highest score, paired by task."""
    answer_metrics: dict[str, float]
    """Mean of `steps` and of whatever the environment reports, over the answers that have it."""
    changed_share: float
    """Share of tasks whose answer is not that of the highest score."""


class Sweep(Record):
    """What an objective buys at several weights, on the same candidates."""

    objective: str
    """The objective, with `W` where the weight stands."""
    searches: str
    """Planner whose candidates are ranked anew."""
    left_out: tuple[str, ...]
    """Planners of the run whose candidates depend on the objective, so that ranking them anew would say little."""
    tasks: int
    """Tasks it tried."""
    points: tuple[SweepPoint, ...]
    """By weight."""


class Sweeps(Record):
    """All sweeps of a run."""

    by_objective: dict[str, Sweep]
    """The last one of each objective."""
