"""Long trajectories as tokens: found without reading everything, and the same as if everything were read."""

from dataclasses import replace
from random import Random

import pytest

pytest.importorskip("transformers", reason="the local extra is not installed: no tokenizer reads anything")

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from armap.errors import RewardModelError
from armap.images import ImageRef
from armap.rewards.rendering import Reader, renderings
from armap.types import Action, Observation, Step, Task, Trajectory

WORDS = [
    *("red", "green", "blue", "cube", "ball", "shelf", "take", "leave", "price", "$12.99", "<div>", "</div>"),
    *("\n", "\n\n", "...", "====", "1234567", "été", "ｶﾞ", "日本語", "🧊"),
]


def words(rng: Random, chars: int) -> str:
    return " ".join(rng.choices(WORDS, k=chars // 3))[:chars]


TEXTS = {
    "words": words,
    "one word": lambda rng, chars: "x" * chars,
    "long words": lambda rng, chars: " ".join("cube" * rng.randrange(10, 60) for _ in range(chars // 100))[:chars],
    "blanks": lambda rng, chars: (" " * rng.randrange(50, 5000) + "\n\t").join(["red"] * 9)[:chars],
    "digits": lambda rng, chars: str(rng.randrange(10 ** min(chars, 4000))),
    "rules": lambda rng, chars: "=" * chars,
    "unknown": lambda rng, chars: "ж" * chars,
    "accents": lambda rng, chars: "e\u0301\u0302" * (chars // 3),
}


def byte_pairs() -> Tokenizer:
    """As of GPT-2, SmolLM, Llama 3 and Qwen."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(SAMPLES, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet))
    return made


def pieces_of_sentences() -> Tokenizer:
    """As of Llama 2 and VILA: a text is never split into words first."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bytes_too = ["<unk>", *(f"<0x{i:02X}>" for i in range(256))]
    made.train_from_iterator(SAMPLES, trainers.BpeTrainer(vocab_size=900, special_tokens=bytes_too))
    made.decoder = decoders.ByteFallback()
    return made


def word_pieces() -> Tokenizer:
    """As of BERT: no token for a word of more than 100 characters but the unknown one, and none for blanks."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(SAMPLES, trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[UNK]"]))
    return made


def unigrams() -> Tokenizer:
    """As of T5 and XLM-R."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator(
        SAMPLES,
        trainers.UnigramTrainer(vocab_size=200, special_tokens=["<unk>"], unk_token="<unk>"),
    )
    return made


SAMPLES = [*(words(Random(i), 300) for i in range(50)), *("=" * 64, " " * 64, "x" * 64) * 9]
"""Some tokens are of many characters, as in large vocabularies."""


@pytest.fixture(scope="module", params=[byte_pairs, pieces_of_sentences, word_pieces, unigrams])
def tokenizer(request) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=request.param())


class Blank:
    """Eyes to which every picture is one token."""

    def tokens(self, image: ImageRef) -> list[int]:
        return [-1]

    def positions(self, tokens: tuple[int, ...], images: dict[int, ImageRef]) -> list[list[int]]:
        return []


def plainly(tokenizer: PreTrainedTokenizerFast, trajectory: Trajectory) -> list[tuple[int, ...]]:
    """Return all renderings, each read to its end."""
    found: list[tuple[int, ...]] = []
    for rendering in renderings(trajectory, max_images=None):
        tokens: list[int] = []
        for piece in rendering:
            tokens += (
                tokenizer(piece, add_special_tokens=False, split_special_tokens=True).input_ids
                if isinstance(piece, str)
                else [-1]
            )
        found.append(tuple(tokens))
    return found


def trajectory(rng: Random, kind: str) -> Trajectory:
    """A trajectory with a text of a kind in one or two places, and a picture now and then."""
    sizes = [rng.choice([10, 200, 3000]) for _ in range(rng.randrange(1, 5))]
    sizes[rng.randrange(len(sizes))] = rng.choice([3000, 5000, 9000])
    image = ImageRef(sha256="0" * 64, width_px=8, height_px=8)
    seen = [
        Observation(text=(TEXTS[kind] if size > 200 else words)(rng, size), image=rng.choice([None, image]))
        for size in sizes
    ]
    said = [Action(text=words(rng, rng.choice([10, 10, 10, 5000]))) for _ in seen[1:]]
    return Trajectory(
        id="long",
        task=Task(id="t", env="e", instruction=words(rng, rng.choice([20, 20, 20, 20, 4000]))),
        steps=tuple(Step(observation=one, action=action) for one, action in zip(seen, said, strict=False)),
        final_observation=seen[-1],
        stop_reason="truncated",
    )


@pytest.mark.parametrize("kind", TEXTS)
def test_long_trajectories_are_read_as_if_every_rendering_were_read_to_its_end(tokenizer, kind):
    rng = Random(kind)
    for _ in range(2):
        one = trajectory(rng, kind)
        every = plainly(tokenizer, one)
        lengths = {len(tokens) for tokens in every}
        # Limits that this or that rendering just keeps, or just does not.
        for limit in [length - rng.randrange(2) for length in (max(lengths), *rng.choices(sorted(lengths), k=3))]:
            reader = Reader("it", tokenizer, max_tokens=limit, max_images=None, eyes=Blank())
            if limit < min(lengths):
                with pytest.raises(RewardModelError, match=f"instruction alone has {len(every[-1])} tokens"):
                    reader.read(one)
            else:
                assert reader.read(one).tokens == next(tokens for tokens in every if len(tokens) <= limit)


class Counting:
    """A tokenizer that counts the characters that it reads."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.chars = 0
        self._tokenizer = tokenizer

    def __call__(self, text: str, **settings: object) -> object:
        self.chars += len(text)
        return self._tokenizer(text, **settings)


@pytest.mark.parametrize("place", ["final observation", "observation before", "action", "instruction", "everywhere"])
def test_what_is_far_too_long_is_not_read_again_and_again(tokenizer, place):
    page = words(Random(0), 50_000)
    one = trajectory(Random(0), "words").model_copy(update={"task": Task(id="t", env="e", instruction="Leave.")})
    step = Step(observation=Observation(text="A shelf."), action=Action(text="take"))
    if place in ("observation before", "everywhere"):
        step = replace(step, observation=Observation(text=page))
    if place == "action":
        step = replace(step, action=Action(text=page))
    end = Observation(text=page if place in ("final observation", "everywhere") else "Done.")
    one = one.model_copy(update={"steps": (step,) * 3, "final_observation": end})
    if place == "instruction":
        one = one.model_copy(update={"task": Task(id="t", env="e", instruction=page)})
    counting = Counting(tokenizer)
    reader = Reader("it", counting, max_tokens=512, max_images=None, eyes=None)
    if place == "instruction":
        with pytest.raises(RewardModelError, match="instruction alone has"):
            reader.read(one)
    else:
        assert len(reader.read(one).tokens) <= 512
    assert counting.chars < 2 * len(page)
