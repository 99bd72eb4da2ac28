import io
import json
from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from armap.errors import ConfigError, DataError
from armap.images import ImageFolder
from armap.pipeline.exchange import export_pairs, import_pairs
from armap.pipeline.train import split_pairs
from armap.rewards.rendering import render, renderings
from armap.store import RunFolder
from armap.types import Action, DiscardedPair, ImageRef, Observation, PreferencePair, Step
from rewards.toy_pairs import toy_pairs

PAIRS = toy_pairs(12, 0)
# Words that could be taken for the form around them, and letters of every kind.
TEXT = st.lists(
    st.sampled_from(["Action: ", "Thought: ", "\n", "\r\n", " ", "take", "\u2028", "\x00", '"', "🧑‍🚀"]), max_size=6
).map("".join)
STEPS = st.lists(
    st.builds(Step, observation=st.builds(Observation, text=TEXT), action=st.builds(Action, text=TEXT, thought=TEXT)),
    max_size=3,
).map(tuple)

every_kind = pytest.mark.parametrize("kind", ["jsonl", "parquet"])


@pytest.fixture(autouse=True)
def _needs_pyarrow(request):
    if "parquet" in request.node.name:
        pytest.importorskip("pyarrow", reason="pyarrow is not installed: no Parquet file is written or read")


def run_folder(path: Path, pairs: list[PreferencePair]) -> RunFolder:
    run = RunFolder(path)
    for pair in pairs:
        run.append("pairs", pair)
    return run


def there_and_back(folder: Path, pairs: list[PreferencePair], kind: str) -> list[PreferencePair]:
    with run_folder(folder / "ours", pairs) as run:
        assert export_pairs(run, folder / f"pairs.{kind}") == len(pairs)
    with RunFolder(folder / "theirs") as run:
        import_pairs(run, [folder / f"pairs.{kind}"], seed=0)
        return run.read("pairs", PreferencePair)


def read(folder: Path, *rows: object) -> tuple[list[PreferencePair], list[DiscardedPair]]:
    """Return what comes of rows of somebody else's."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "set.jsonl").write_text("\n".join(lines), "utf-8")
    with RunFolder(folder / "run") as run:
        import_pairs(run, [folder / "set.jsonl"], seed=0)
        return run.read("pairs", PreferencePair), run.read("discarded", DiscardedPair)


def said(role: str, content: object) -> dict[str, object]:
    return {"role": role, "content": content}


# There and back


@every_kind
def test_a_pair_comes_back_as_a_reward_model_reads_it_with_all_that_is_known_about_it(tmp_path, kind):
    pairs = [
        pair.model_copy(update={"margin": i / 4, "judge": "a model" if i % 2 else None}) for i, pair in enumerate(PAIRS)
    ]
    again = there_and_back(tmp_path, pairs, kind)
    for pair, back in zip(pairs, again, strict=True):
        for name in ("id", "source_task_id", "origin", "instruction_writer", "verified_by", "judge", "margin"):
            assert getattr(back, name) == getattr(pair, name)
        assert (back.task.instruction, back.task.env) == (pair.task.instruction, pair.task.env)
        for side, back_side in ((pair.chosen, back.chosen), (pair.rejected, back.rejected)):
            assert list(renderings(back_side, max_images=None)) == list(renderings(side, max_images=None))
            assert back_side.actions == side.actions
    ids = [[pair.id for pair in split_pairs(some, heldout_share=0.3, seed=0)[1]] for some in (pairs, again)]
    assert ids[0] == ids[1]


@settings(max_examples=60, deadline=None)
@given(instruction=TEXT, chosen=STEPS, rejected=STEPS, ends=st.tuples(TEXT, TEXT))
def test_whatever_the_texts_are_both_sides_are_rendered_as_before(
    tmp_path_factory, instruction, chosen, rejected, ends
):
    # Nobody's pair is one in which nothing is done.
    assume(chosen or rejected)
    task = PAIRS[0].task.model_copy(update={"instruction": instruction})
    sides = [
        PAIRS[0].chosen.model_copy(
            update={"task": task, "steps": steps, "final_observation": Observation(text=f"{end}{number}")}
        )
        for number, (steps, end) in enumerate(zip((chosen, rejected), ends, strict=True))
    ]
    pair = PAIRS[0].model_copy(update={"task": task, "chosen": sides[0], "rejected": sides[1]})
    (back,) = there_and_back(tmp_path_factory.mktemp("exchange"), [pair], "jsonl")
    assert [render(back.chosen), render(back.rejected)] == [render(side) for side in sides]


async def test_a_transformer_scores_what_comes_back_as_before(tmp_path):
    pytest.importorskip("torch", reason="the local extra is not installed: nothing that came back is scored")
    from armap.rewards.transformer import TransformerRewardModel
    from tiny_model import make_tiny_model

    model = TransformerRewardModel.from_backbone(make_tiny_model(tmp_path / "tiny"), seed=1)
    before, after = (
        [side for pair in pairs for side in (pair.chosen, pair.rejected)]
        for pairs in (PAIRS, there_and_back(tmp_path, PAIRS, "jsonl"))
    )
    assert [model.token_ids(side) for side in after] == [model.token_ids(side) for side in before]
    assert await model.score(after) == await model.score(before)


def test_importing_again_adds_nothing_and_other_files_are_refused(tmp_path):
    again = there_and_back(tmp_path, PAIRS, "jsonl")
    with RunFolder(tmp_path / "theirs") as run:
        assert import_pairs(run, [tmp_path / "pairs.jsonl"], seed=0) == (len(PAIRS), 0)
        assert run.read("pairs", PreferencePair) == again
        other = tmp_path / "other.jsonl"
        other.write_text((tmp_path / "pairs.jsonl").read_text("utf-8"), "utf-8")
        with pytest.raises(ConfigError, match="began with other settings"):
            import_pairs(run, [other], seed=0)


# Pictures


def png(folder: ImageFolder, color: str) -> ImageRef:
    from PIL import Image

    Image.new("RGB", (9, 5), color).save(file := io.BytesIO(), "PNG")
    return folder.add(file.getvalue())


def with_pictures(folder: Path) -> list[PreferencePair]:
    """Pairs whose sides show different pictures, some the same as others."""
    shown = [png(ImageFolder(folder / "ours" / "images"), color) for color in ("red", "blue", "green")]
    pairs = []
    for i, pair in enumerate(PAIRS):
        sides = {}
        for j, side in enumerate((pair.chosen, pair.rejected)):
            steps = [
                replace(step, observation=step.observation.model_copy(update={"image": shown[i % 3]}))
                for step in side.steps
            ]
            end = side.final_observation.model_copy(update={"image": shown[(i + j) % 3] if i % 4 else None})
            sides["rejected" if j else "chosen"] = side.model_copy(
                update={"steps": tuple(steps), "final_observation": end}
            )
        pairs.append(pair.model_copy(update=sides))
    return pairs


def test_pictures_come_back_from_parquet_where_they_were_shown(tmp_path):
    pytest.importorskip("PIL", reason="pillow is not installed: no picture is exchanged")
    pairs = with_pictures(tmp_path)
    for pair, back in zip(pairs, there_and_back(tmp_path, pairs, "parquet"), strict=True):
        for side, back_side in ((pair.chosen, back.chosen), (pair.rejected, back.rejected)):
            assert list(renderings(back_side, max_images=None)) == list(renderings(side, max_images=None))
    for image in {step.observation.image for pair in pairs for step in pair.chosen.steps}:
        assert ImageFolder(tmp_path / "theirs" / "images").read(image)


def test_json_lines_hold_no_pictures(tmp_path):
    pytest.importorskip("PIL", reason="pillow is not installed: no picture is exchanged")
    with (
        run_folder(tmp_path / "ours", with_pictures(tmp_path)) as run,
        pytest.raises(ConfigError, match=r"name a \.parquet file"),
    ):
        export_pairs(run, tmp_path / "pairs.jsonl")
    assert not (tmp_path / "pairs.jsonl").exists()


def test_a_missing_picture_leaves_no_half_parquet_file(tmp_path):
    pytest.importorskip("PIL", reason="pillow is not installed: no picture is exchanged")
    with run_folder(tmp_path / "ours", with_pictures(tmp_path)) as run:
        next((tmp_path / "ours" / "images").rglob("*.png")).unlink()
        with pytest.raises(DataError, match="the picture is missing"):
            export_pairs(run, tmp_path / "pairs.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


@every_kind
def test_datasets_loads_messages_columns_and_pictures(tmp_path, kind):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: nobody else loads what is exported")
    pytest.importorskip("PIL", reason="pillow is not installed: no picture is exchanged")
    pairs = with_pictures(tmp_path) if kind == "parquet" else PAIRS
    with run_folder(tmp_path / "ours", pairs) as run:
        export_pairs(run, tmp_path / f"pairs.{kind}")
    loader = "json" if kind == "jsonl" else kind
    loaded = datasets.load_dataset(
        loader, data_files=str(tmp_path / f"pairs.{kind}"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded["pair_id"] == [pair.id for pair in pairs]
    assert [message["role"] for message in loaded[0]["prompt"]] == ["system", "user"]
    assert {row["chosen"][0]["role"] for row in loaded} == {"assistant"}
    assert ("images" in loaded.column_names) == (kind == "parquet")
    if kind == "parquet":
        parts = [
            part for name in ("prompt", "chosen", "rejected") for one in loaded[1][name] for part in one["content"]
        ]
        assert [image.size for image in loaded[1]["images"]] == [(9, 5)] * sum(
            part["type"] == "image" for part in parts
        )


# Sets of others

ASKED, RIGHT, WRONG = said("user", "2 + 2?"), said("assistant", "4"), said("assistant", "5")
RENDERED = ["Task: 2 + 2?\n\nAction: 4\n\nWas the task done?", "Task: 2 + 2?\n\nAction: 5\n\nWas the task done?"]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [ASKED], "chosen": [RIGHT], "rejected": [WRONG]},
        {"chosen": [ASKED, RIGHT], "rejected": [ASKED, WRONG]},
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
        {"prompt": "2 + 2?", "chosen": [ASKED, RIGHT], "rejected": [ASKED, WRONG]},
        {"prompt": "2 + 2?", "chosen": [RIGHT], "rejected": [WRONG], "other": {"columns": [1]}},
        {"prompt": [ASKED], "chosen": "4", "rejected": "5", "images": [], "margin": None},
        {"prompt": [said("user", [{"type": "text", "text": "2 + 2?"}])], "chosen": [RIGHT], "rejected": [WRONG]},
    ],
    ids=["explicit", "implicit", "texts", "text and all messages", "text and messages", "messages and texts", "parts"],
)
def test_every_form_of_a_preference_is_read(tmp_path, row):
    ((pair,), _) = read(tmp_path, row)
    assert [render(pair.chosen), render(pair.rejected)] == RENDERED
    assert {pair.origin, pair.instruction_writer, pair.verified_by} == {"imported"}
    assert (pair.id, pair.margin) == ("set/1", 0.0)


@pytest.mark.parametrize("text", ["2 + 2?\n", "2 + 2?", " 2 + 2? "])
def test_a_prompt_that_the_messages_say_too_is_not_said_twice(tmp_path, text):
    asked, rules = said("user", text), said("system", "Be short.")
    pairs, _ = read(
        tmp_path,
        {"prompt": "2 + 2?\n", "chosen": [asked, RIGHT], "rejected": [asked, WRONG]},
        {"prompt": "2 + 2?\n", "chosen": [rules, asked, RIGHT], "rejected": [rules, asked, WRONG]},
    )
    assert [pair.chosen.task.instruction for pair in pairs] == [text, "Be short."]
    assert [pair.chosen.steps[0].observation.text for pair in pairs] == ["", text]
    assert [len(side.steps) for pair in pairs for side in (pair.chosen, pair.rejected)] == [1, 1, 1, 1]


def test_two_texts_without_a_prompt_part_where_their_words_differ(tmp_path):
    question = "Human: What colour is the sky?\n\nAssistant:"
    ((pair,), _) = read(tmp_path, {"chosen": f"{question} Blue, mostly.", "rejected": f"{question} Blueish green."})
    assert pair.task.instruction == question
    assert [side.actions for side in (pair.chosen, pair.rejected)] == [("Blue, mostly.",), ("Blueish green.",)]


def test_an_agents_conversation_becomes_steps_and_a_tools_answer_is_an_observation(tmp_path):
    begun = [said("system", "Find a cup."), said("user", "A door."), said("assistant", "open door")]
    chosen = [said("tool", "A cup."), said("assistant", "Thought: There.\nAction: take cup"), said("tool", "Taken.")]
    ((pair,), _) = read(tmp_path, {"prompt": begun, "chosen": chosen, "rejected": [said("tool", "Nothing.")]})
    assert pair.chosen.actions == ("open door", "take cup")
    assert pair.chosen.steps[1].action.thought == "There."
    assert pair.chosen.final_observation.text == "Taken."
    assert pair.rejected.final_observation.text == "Nothing."


def test_rows_that_ask_the_same_are_of_one_source_whatever_is_answered(tmp_path):
    system = said("system", "Be kind.")
    rows = [
        {"chosen": [system, said("user", asked), said("assistant", "a")], "rejected": [system, said("user", asked)]}
        for asked in ("1?", "2?", "1?")
    ]
    rows[2]["chosen"] = [*rows[2]["chosen"][:-1], said("assistant", "b")]
    pairs, _ = read(tmp_path, *rows)
    assert pairs[0].source_task_id == pairs[2].source_task_id != pairs[1].source_task_id


def test_rows_whose_sides_are_the_same_are_discarded_and_say_so(tmp_path):
    pairs, discarded = read(
        tmp_path,
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "4"},
        "",
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
    )
    assert [pair.id for pair in pairs] == ["set/3"]
    assert discarded == [
        DiscardedPair(id="set/1", origin="imported", check="outcome", reason="both sides are the same")
    ]


PICTURE = {"type": "image"}
LOOK, YES, NO = (
    said("user", [PICTURE, {"type": "text", "text": "Red?"}]),
    said("assistant", "Yes"),
    said("assistant", "No"),
)


@pytest.mark.parametrize(
    ("row", "colors"),
    [
        ({"prompt": [LOOK], "chosen": [YES], "rejected": [NO]}, ["red"]),
        ({"chosen": [LOOK, YES], "rejected": [LOOK, NO]}, ["red"]),
        ({"prompt": "Red?", "chosen": "Yes", "rejected": "No"}, ["red"]),
        ({"prompt": [said("system", "Look."), said("user", "Red?")], "chosen": [YES], "rejected": [NO]}, ["red"]),
        ({"prompt": [LOOK], "chosen": [YES, said("user", [PICTURE])], "rejected": [NO]}, ["red", "blue"]),
        (
            {"prompt": [LOOK], "chosen": [YES, said("user", [PICTURE])], "rejected": [NO, said("user", [PICTURE])]},
            ["red", "blue", "green"],
        ),
    ],
    ids=["in the prompt", "in both", "with texts", "nowhere said", "in the prompt and one side", "everywhere"],
)
def test_pictures_are_seen_where_the_messages_show_them_or_at_first(tmp_path, row, colors):
    pytest.importorskip("PIL", reason="pillow is not installed: no picture is exchanged")
    from PIL import Image

    for color in colors:
        Image.new("RGB", (9, 5), color).save(tmp_path / f"{color}.jpg")
    ((pair,), _) = read(tmp_path, row | {"images": [f"{color}.jpg" for color in colors]})
    images = ImageFolder(tmp_path / "run" / "images")

    def color_of(image: ImageRef | None) -> str | None:
        if image is None:
            return None
        with Image.open(io.BytesIO(images.read(image))) as there:
            shares = there.convert("RGB").getpixel((4, 2))
        return ("red", "green", "blue")[shares.index(max(shares))]

    assert [color_of(side.steps[0].observation.image) for side in (pair.chosen, pair.rejected)] == ["red", "red"]
    ends = [color_of(side.final_observation.image) for side in (pair.chosen, pair.rejected)]
    assert ends == [*colors[1:], None, None][:2]


def test_columns_that_say_nothing_are_as_good_as_none(tmp_path):
    nothing = {"bytes": None, "path": None}
    read(tmp_path, {**FINE, "tools": "[]", "chat_template_kwargs": {"enable_thinking": None}, "image": nothing})


def test_a_picture_may_be_a_data_uri(tmp_path):
    pytest.importorskip("PIL", reason="pillow is not installed: no picture is exchanged")
    from PIL import Image

    Image.new("RGB", (9, 5), "red").save(file := io.BytesIO(), "PNG")
    uri = f"DATA:image/png;BASE64,{b64encode(file.getvalue()).decode()}"
    pairs, _ = read(
        tmp_path,
        {"prompt": [LOOK], "chosen": [YES], "rejected": [NO], "images": [uri]},
        {"prompt": [LOOK], "chosen": [YES], "rejected": [NO], "image": {"bytes": None, "path": uri}},
    )
    seen = [pair.chosen.steps[0].observation.image for pair in pairs]
    assert [ImageFolder(tmp_path / "run" / "images").read(image) for image in seen if image] == [file.getvalue()] * 2


@every_kind
def test_the_only_picture_of_a_row_may_stand_in_a_column_of_its_own(tmp_path, kind):
    pytest.importorskip("PIL", reason="pillow is not installed: no picture is exchanged")
    from PIL import Image

    picture = Image.new("RGB", (9, 5), "red")
    picture.save(tmp_path / "red.png")
    rows = [
        {"prompt": [LOOK], "chosen": [YES], "rejected": [NO]},
        {"prompt": [said("user", [{"type": "text", "text": "Red?"}])], "chosen": [YES], "rejected": [NO]},
    ]
    if kind == "jsonl":
        pairs, _ = read(tmp_path, *(row | {"image": "red.png", "images": []} for row in rows))
    else:
        datasets = pytest.importorskip("datasets", reason="datasets is not installed: its type of pictures is not read")
        there = datasets.Dataset.from_list([row | {"image": picture} for row in rows])
        there.to_parquet(tmp_path / "set.parquet")
        with RunFolder(tmp_path / "run") as run:
            import_pairs(run, [tmp_path / "set.parquet"], seed=0)
            pairs = run.read("pairs", PreferencePair)
    seen = [side.steps[0].observation.image for pair in pairs for side in (pair.chosen, pair.rejected)]
    assert [(image.width_px, image.height_px) for image in seen if image] == [(9, 5)] * 4


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_what_the_assistant_reasoned_is_the_thought_of_its_action_and_goes_out_and_comes_in_again(tmp_path, name):
    sides = {
        "chosen": [{**said("assistant", "4"), name: "Two pairs.\nAction: count"}],
        "rejected": [{**said("assistant", "Thought: Hm.\nAction: 4"), name: "One is less."}],
    }
    ((pair,), discarded) = read(tmp_path, {"prompt": [{**ASKED, name: None}], **sides})
    assert discarded == []
    assert [side.steps[0].action for side in (pair.chosen, pair.rejected)] == [
        Action(text="4", thought="Two pairs.\nAction: count"),
        Action(text="4", thought="One is less.\nHm."),
    ]
    (back,) = there_and_back(tmp_path, [pair], "jsonl")
    assert [render(back.chosen), render(back.rejected)] == [render(pair.chosen), render(pair.rejected)]


# What is no pair

FINE = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", "this is not JSON"),
        ("[1]", "this is no JSON object"),
        ({"chosen": "4"}, "`rejected` should be a text or a list of messages"),
        ({"prompt": 4, "chosen": "4", "rejected": "5"}, "`prompt` should be a text"),
        ({"chosen": [], "rejected": []}, "one of its conversations is empty"),
        ({"chosen": ["4"], "rejected": ["5"]}, "message 1 of `chosen` has no role"),
        ({"chosen": [ASKED, said("assistant", None)], "rejected": [ASKED]}, "message 2 of `chosen` has no content"),
        (
            {"chosen": [ASKED, {**said("assistant", ""), "tool_calls": [{}]}], "rejected": [ASKED]},
            "message 2 of `chosen` calls tools in a field of its own",
        ),
        ({"chosen": [said("user", [{"type": "video"}])], "rejected": [ASKED]}, "neither a text nor an image"),
        ({"chosen": [ASKED, RIGHT], "rejected": [RIGHT, ASKED]}, "no task in common"),
        (
            {"prompt": [said("human", "2 + 2?")], "chosen": [said("gpt", "4")], "rejected": [said("gpt", "5")]},
            "none of its messages is the assistant's, whose messages are the actions; give the role `assistant` to "
            "whoever acts among gpt, human.",
        ),
        ({**FINE, "margin": "big"}, "`margin` should be a number"),
        ({**FINE, "margin": 10**400}, "`margin` should be a number, and no larger than a float can be"),
        ({**FINE, "margin": float("nan")}, "`margin` should be a number"),
        ({**FINE, "images": "a.png"}, "`images` should be a list"),
        ({**FINE, "image": "a.png", "images": ["a.png"]}, "it has both `image` and `images`"),
        ({**FINE, "tools": [{"type": "function"}]}, "it has `tools`, which nothing here reads"),
        ({**FINE, "chat_template_kwargs": {"a": 1}}, "it has `chat_template_kwargs`, which nothing here reads"),
        (
            {"chosen": [{**ASKED, "reasoning_content": "Hm."}, RIGHT], "rejected": [ASKED]},
            "message 1 of `chosen` has reasoning that is not a text of the assistant's",
        ),
        ({**FINE, "images": ["gone.png"]}, "image 1 cannot be read from gone.png (No such file or directory)"),
        ({**FINE, "images": ["a" * 10**5]}, f"cannot be read from {'a' * 80}... (File name too long)."),
        (
            {**FINE, "images": ["data:image/png;base64,?" + "a" * 10**5]},
            f"{'a' * 57}... (Only base64 data is allowed).",
        ),
        ({**FINE, "images": ["data:text/plain,a"]}, "from data:text/plain,a (a data URI has to be in base64)."),
        ({**FINE, "images": ["a\0b.png"]}, "image 1 cannot be read from a"),
        ({**FINE, "images": ["set.jsonl"]}, "image 1 is not a sound PNG, JPEG or WebP file"),
        ({**FINE, "images": ["https://example.org/a.png"]}, "image 1 is neither the bytes nor the path of a file"),
        ({**FINE, "images": [{"bytes": None}]}, "image 1 is neither the bytes nor the path of a file"),
        ({**FINE, "pair_id": "set/1"}, "there is another pair 'set/1'"),
        ({"prompt": [LOOK], "chosen": [YES], "rejected": [NO]}, "it has 0 pictures, but its messages show 1"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_row_that_is_no_pair_is_named_and_nothing_is_taken_in(tmp_path, row, words):
    if isinstance(row, dict) and row.get("images"):
        pytest.importorskip("PIL", reason="pillow is not installed: no picture is exchanged")
    with pytest.raises(DataError) as caught:
        read(tmp_path, FINE, row)
    assert str(caught.value).startswith(f"{tmp_path / 'set.jsonl'}, line 2: ")
    assert words in str(caught.value)
    assert str(caught.value).endswith((".", "one name."))
    with RunFolder(tmp_path / "run", writable=False) as run:
        assert run.read("pairs", PreferencePair) == []
        assert "import" not in run.manifest.stages


def test_a_damaged_parquet_file_is_named(tmp_path):
    (tmp_path / "set.parquet").write_bytes(b"PAR1 and junk PAR1")
    with RunFolder(tmp_path / "run") as run, pytest.raises(DataError, match=r"set\.parquet, after row 0: "):
        import_pairs(run, [tmp_path / "set.parquet"], seed=0)


@pytest.mark.parametrize(
    ("name", "words"), [("gone.jsonl", "no file"), ("set.csv", "should end in"), ("empty.jsonl", "no rows")]
)
def test_files_that_are_none_are_refused(tmp_path, name, words):
    for there in ("set.csv", "empty.jsonl"):
        (tmp_path / there).write_text("")
    with RunFolder(tmp_path / "run") as run, pytest.raises(ConfigError, match=words):
        import_pairs(run, [tmp_path / name], seed=0)


def test_a_run_without_pairs_has_nothing_to_export(tmp_path):
    with RunFolder(tmp_path / "run") as run, pytest.raises(ConfigError, match="armap synthesize"):
        export_pairs(run, tmp_path / "pairs.jsonl")
