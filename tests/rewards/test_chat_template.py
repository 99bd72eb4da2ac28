"""What other servers read of the messages that they are sent is what a reward model was trained on."""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the local extra is not installed: no reward model is saved for servers")

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from armap.rewards.chat_template import chat_template  # noqa: E402
from armap.rewards.conversation import Turn, as_trajectory  # noqa: E402
from armap.rewards.http import HTTPRewardModel  # noqa: E402
from armap.rewards.transformer import TransformerRewardModel  # noqa: E402
from armap.types import Trajectory  # noqa: E402
from llms.hostile_server import HostileServer, body  # noqa: E402
from tiny_model import CHAT, SIZES, make_tiny_encoder, make_tiny_model, make_tiny_vision_model  # noqa: E402

WORDS = "Task: Thought: take it.\nAction: take red cube\nYou hold (the task) Was the task done? {{ 1 }} ✓"


def told(*turns: tuple[str, ...]) -> Trajectory:
    """Return a trajectory of a task, and what was seen and done in turns."""
    roles = ("system", *("user", "assistant") * len(turns))
    return as_trajectory([Turn(role, texts) for role, texts in zip(roles, turns, strict=False)], name=str(turns))


RULES = "You are at a shelf.\n\nRules: one object may leave.\nLeave with the red cube.  "
TRAJECTORIES = [
    told(("take red cube",), ("On shelf: red cube",), ("Action: take red cube",), ("You hold red cube",)),
    told(
        (RULES,), (f"\nShelf. {RULES}x\n",), ("Thought: take it\nAction: or not", "Action: take"), ("",), ("Action: ",)
    ),
    told(
        ("short",), ("it is short , (the task)",), ("Thought: Thought: ", "Action: Action: x"), ("{{ 1 }} {% if %}\n",)
    ),
    told(("",), ("",)),
]


def make_piecewise_model(
    folder: Path, before: pre_tokenizers.PreTokenizer, frame: str, first: AddedToken | str = "<s>"
) -> str:
    """Write a Llama whose tokens are pieces of words, with control tokens around every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = before, decoders.ByteLevel()
    control = [first, "</s>"]
    alphabet = [*pre_tokenizers.ByteLevel.alphabet(), "▁", "\n"]
    tokenizer.train_from_iterator(
        [WORDS], trainers.BpeTrainer(vocab_size=400, special_tokens=control, initial_alphabet=alphabet)
    )
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=frame, special_tokens=ids)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=CHAT
    ).save_pretrained(folder)
    LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=tokenizer.get_vocab_size())).save_pretrained(folder)
    return str(folder)


def make_sentencepiece_model(folder: Path, *, legacy: bool) -> str:
    """Write a Llama with a tokenizer as Llama 2 has it."""
    pytest.importorskip("sentencepiece", reason="sentencepiece is not installed: such a tokenizer is not tested")
    from tiny_vila import make_tiny_vila

    llm = make_tiny_vila(folder) / "llm"
    settings = json.loads((llm / "tokenizer_config.json").read_text("utf-8"))
    (llm / "tokenizer_config.json").write_text(json.dumps(settings | {"legacy": legacy}), "utf-8")
    return str(llm)


MAKERS = {
    "words": make_tiny_model,
    "encoder": make_tiny_encoder,
    "bytes": lambda folder: make_piecewise_model(folder, pre_tokenizers.ByteLevel(add_prefix_space=False), "<s> $A"),
    "a space first": lambda folder: make_piecewise_model(
        folder, pre_tokenizers.Metaspace(prepend_scheme="first"), "<s> $A </s>"
    ),
    "sentencepiece": lambda folder: make_sentencepiece_model(folder, legacy=False),
    "legacy sentencepiece": lambda folder: make_sentencepiece_model(folder, legacy=True),
}


@pytest.mark.parametrize("maker", MAKERS)
async def test_a_server_with_transformers_alone_scores_what_it_is_sent_as_the_model_does_here(tmp_path, maker):
    TransformerRewardModel.from_backbone(MAKERS[maker](tmp_path / "backbone"), seed=1).save(tmp_path / "saved")
    model = TransformerRewardModel.load(tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", dtype=torch.float32).eval()
    read = []

    async def classify(request, writer):
        ids = tokenizer.apply_chat_template(request["messages"], return_dict=False)
        # vLLM joins the texts of a message first, and writes control tokens only where the template does.
        joined = [
            message if isinstance(message["content"], str) else {**message, "content": in_lines(message["content"])}
            for message in request["messages"]
        ]
        written = tokenizer.apply_chat_template(joined, tokenize=False)
        assert tokenizer(written, add_special_tokens=False).input_ids == ids
        read.append(ids)
        with torch.no_grad():
            score = float(network(torch.tensor([ids])).logits[0, 0])
        await body({"data": [{"probs": [score]}]})(request, writer)

    async with HostileServer(otherwise=classify) as server:
        there = HTTPRewardModel(f"http://{server.address}", concurrency=1)
        found = await there.score(TRAJECTORIES)
        await there.close()
    assert read == [model.token_ids(trajectory) for trajectory in TRAJECTORIES]
    assert found == pytest.approx(await model.score(TRAJECTORIES), abs=1e-5)
    assert len(set(found)) == len(TRAJECTORIES)


def in_lines(parts: list[dict[str, str]]) -> str:
    return "\n".join(part["text"] for part in parts)


def test_a_question_and_its_answer_are_written_as_the_step_that_they_are(tmp_path):
    model = TransformerRewardModel.from_backbone(make_tiny_model(tmp_path / "backbone"), seed=1)
    model.save(tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for roles in (("user", "assistant"), ("user", "assistant", "assistant", "user"), ("assistant",)):
        turns = [Turn(role, (word,)) for role, word in zip(roles, ("cube", "take", "leave", "ball"), strict=False)]
        messages = [{"role": turn.role, "content": turn.texts[0]} for turn in turns]
        written = tokenizer.apply_chat_template(messages, return_dict=False)
        assert written == model.token_ids(as_trajectory(turns))


def test_saving_a_reward_model_leaves_the_words_of_an_agent_that_shares_its_tokenizer_alone(tmp_path):
    model = TransformerRewardModel.from_backbone(make_tiny_model(tmp_path / "backbone"), seed=1)
    model.save(tmp_path / "saved")
    assert model.processor.chat_template == CHAT


def test_a_server_is_given_no_template_where_none_would_give_what_was_trained_on(tmp_path):
    # It takes the space away that stands before a text.
    greedy = AddedToken("<s>", rstrip=True, special=True)
    spaced = pre_tokenizers.Metaspace(prepend_scheme="first")
    backbone = make_piecewise_model(tmp_path / "backbone", spaced, "<s> $A", greedy)
    TransformerRewardModel.from_backbone(backbone, seed=1).save(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").chat_template is None


def test_a_model_that_sees_keeps_the_template_that_says_how_pictures_stand_in_a_text(tmp_path):
    backbone = make_tiny_vision_model(tmp_path / "backbone", "qwen2_5_vl")
    TransformerRewardModel.from_backbone(backbone, seed=1).save(tmp_path / "saved")
    saved, there = (AutoTokenizer.from_pretrained(folder).chat_template for folder in (tmp_path / "saved", backbone))
    assert saved == there is not None


def test_a_control_token_of_any_characters_stands_in_the_template(tmp_path):
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["🤖", "[UNK]", *WORDS.split()])}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="🤖 $A", special_tokens=[("🤖", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="🤖", unk_token="[UNK]")
    tokenizer.chat_template = chat_template(tokenizer)
    written = tokenizer.apply_chat_template([{"role": "system", "content": "take it."}], tokenize=False)
    assert written.startswith("🤖")
    assert tokenizer(written, add_special_tokens=False).input_ids[0] == 0
