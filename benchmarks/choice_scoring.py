"""How fast all legal actions of a state are scored: our packed pass against a batch of plain transformers passes.

Both score the same moves of the same Game of 24 states with the same weights, and must agree. The peer does what one
writes with transformers alone: one padded batch with a row for every move, prompt included. Ours computes shared
beginnings once and keeps the conversation's keys and values from state to state.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from random import Random

import torch
from rich.console import Console
from rich.table import Table

from armap import weights
from armap.envs.game24 import Game24, task_of
from armap.errors import ConfigError
from armap.llms.local import LocalLLM
from armap.types import Message, SamplingParams

_PUZZLES = ((3, 5, 7, 11), (2, 6, 9, 12), (1, 4, 8, 13))


def states() -> list[tuple[list[Message], tuple[str, ...]]]:
    """Return conversations along random games, each with the moves to score."""
    found = []
    rng = Random(0)
    for numbers in _PUZZLES:
        game = Game24()
        observation = game.reset(task_of(numbers, split="train"))
        messages = [Message(role="system", content=Game24.rules)]
        while observation.actions:
            messages.append(Message(role="user", content=observation.text))
            found.append((list(messages), observation.actions))
            action = rng.choice(observation.actions)
            messages.append(Message(role="assistant", content=action))
            observation = game.step(action).observation
    return found


def plain(local: weights.LocalModel, messages: list[Message], choices: tuple[str, ...]) -> list[float]:
    """Return the log-probability of each choice, by one padded batch of whole sequences."""
    tokenizer, network = local.tokenizer, local.network
    text = tokenizer.apply_chat_template([m.model_dump() for m in messages], add_generation_prompt=True, tokenize=False)
    prompt = tokenizer(text, add_special_tokens=False).input_ids
    answers = [[*tokenizer(choice, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for choice in choices]
    longest = max(map(len, answers))
    rows = torch.tensor([prompt + answer + [0] * (longest - len(answer)) for answer in answers])
    seen = torch.tensor([[1] * (len(prompt) + len(a)) + [0] * (longest - len(a)) for a in answers])
    with torch.inference_mode():
        logits = network(rows, attention_mask=seen, logits_to_keep=longest + 1).logits
        log_probs = torch.log_softmax(logits, -1)
    return [sum(log_probs[i, j, token].item() for j, token in enumerate(answer)) for i, answer in enumerate(answers)]


async def ours(llm: LocalLLM, messages: list[Message], choices: tuple[str, ...]) -> float:
    """Score the choices and return the probability that a free answer is one of them."""
    (completion,) = await llm.generate(messages, n=1, sampling=SamplingParams(seed=0), choices=choices)
    assert completion.choice_mass is not None
    return completion.choice_mass


async def measure() -> tuple[float, float, float]:
    """Return states per second, ours and the peer's, and the largest relative difference."""
    local = weights.load(weights.EMBEDDED)
    work = states()
    rates: dict[str, list[float]] = {"ours": [], "peer": []}
    difference = 0.0
    # The first round warms both up and is not counted.
    for round_number in range(4):
        llm = LocalLLM()
        started = time.perf_counter()
        masses = [await ours(llm, messages, choices) for messages, choices in work]
        middle = time.perf_counter()
        scores = [plain(local, messages, choices) for messages, choices in work]
        ended = time.perf_counter()
        for mass, log_probs in zip(masses, scores, strict=True):
            expected = float(torch.tensor(log_probs, dtype=torch.float64).exp().sum())
            difference = max(difference, abs(mass / expected - 1))
        if round_number:
            rates["ours"].append(len(work) / (middle - started))
            rates["peer"].append(len(work) / (ended - middle))
    return statistics.median(rates["ours"]), statistics.median(rates["peer"]), difference


def main() -> None:
    """Print a table, and as the last line one JSON object."""
    try:
        mine, peer, difference = asyncio.run(measure())
    except ConfigError as error:
        sys.exit(str(error))
    if difference > 1e-3:
        sys.exit(f"The two disagree by {difference:.1e}; the comparison means nothing.")
    table = Table("scorer", "states per second")
    table.add_row("armap, packed pass", f"{mine:.2f}")
    table.add_row("transformers, padded batch", f"{peer:.2f}")
    Console().print(table)
    print(
        json.dumps(
            {"name": "choice_scoring", "ours": mine, "peer": peer, "ratio": mine / peer, "unit": "states per second"}
        )
    )


if __name__ == "__main__":
    main()
