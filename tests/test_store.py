import asyncio
import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from armap.errors import BudgetError, ConfigError, DataError, LLMError
from armap.store import Ledger, LedgerEntry, Manifest, RunFolder
from armap.types import Action, Budget, Completion, Observation, Step, Task, Trajectory, Usage

APPENDS_UNTIL_KILLED = """
import os, sys
from pathlib import Path
from armap.store import RunFolder
from armap.types import Completion
with RunFolder(Path(sys.argv[1])) as run:
    number = len(run.read("numbers", Completion))
    while True:
        run.append("numbers", Completion(text=f"{number} " + "x" * (number % 700)))
        os.write(1, b"%d\\n" % number)
        number += 1
"""

HOLDS_UNTIL_KILLED = """
import sys, time
from pathlib import Path
from armap.store import RunFolder
with RunFolder(Path(sys.argv[1])):
    print("open", flush=True)
    time.sleep(600)
"""

BEGINS_STAGES_UNTIL_KILLED = """
import sys
from pathlib import Path
from armap.store import RunFolder
with RunFolder(Path(sys.argv[1])) as run:
    for number in range(10**9):
        # Long enough to be caught half written, if it ever were.
        run.begin_stage(f"stage {number}", {"text": "x" * 500_000 if number == 0 else "short"})
        if number == 0:
            print("begun", flush=True)
"""

FILLS_ITS_DISK = """
import resource, sys
from pathlib import Path
from armap.store import RunFolder
from armap.types import Completion
with RunFolder(Path(sys.argv[1])) as run:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
    stored = 0
    try:
        while True:
            run.append("answers", Completion(text="x" * 300))
            stored += 1
    except OSError as error:
        print(stored, error.errno, error)
    run.append("answers", Completion(text="short"))
"""


def start(script: str, path: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process


def kill(process: subprocess.Popen) -> bytes:
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    return rest


def texts(run: RunFolder, name: str = "answers") -> list[str]:
    return [completion.text for completion in run.read(name, Completion)]


def append_for_seconds(run: RunFolder, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        run.append("others", Completion(text="b"))
        time.sleep(0.001)


def assert_one_sentence(error: pytest.ExceptionInfo[Exception]) -> None:
    message = str(error.value)
    assert message[0].isupper() or message.startswith("/")
    assert message.endswith(".")
    assert "\n" not in message
    assert ". " not in message


# Kills, torn lines, locks


def test_ten_kills_lose_no_record_that_was_acknowledged_and_repeat_none(tmp_path):
    rng = Random(0)
    for _ in range(10):
        writer = start(APPENDS_UNTIL_KILLED, tmp_path)
        first = writer.stdout.readline()
        time.sleep(rng.uniform(0, 0.04))
        acknowledged = int((first + kill(writer)).split(b"\n")[-2])
        with RunFolder(tmp_path) as run:
            numbers = [int(text.split()[0]) for text in texts(run, "numbers")]
        assert numbers == list(range(len(numbers)))
        # The kill may come between an append and its acknowledgement.
        assert len(numbers) - 1 in (acknowledged, acknowledged + 1)


def test_a_file_cut_anywhere_in_its_last_two_lines_loses_at_most_the_cut_line(tmp_path):
    answers = [Completion(text=f"{word} ☃ }}") for word in ("one", "two", "three", "four")]
    path = tmp_path / "answers.jsonl"
    with RunFolder(tmp_path) as run:
        for answer in answers:
            run.append("answers", answer)
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    for length in range(len(lines[0] + lines[1]), len(content) + 1):
        path.write_bytes(content[:length])
        # A line that lacks only its newline is complete.
        kept = answers[: content[: length + 1].count(b"\n")]
        with RunFolder(tmp_path, writable=False) as run:
            assert run.read("answers", Completion) == kept
            assert run.repairs == []
            assert path.read_bytes() == content[:length]
        with RunFolder(tmp_path) as run:
            assert run.read("answers", Completion) == kept
            assert len(run.repairs) == (not content[:length].endswith(b"\n"))
            run.append("answers", answers[0])
            assert run.read("answers", Completion) == [*kept, answers[0]]


def test_a_torn_line_is_reported_with_its_file_and_size(tmp_path):
    with RunFolder(tmp_path) as run:
        run.append("answers", Completion(text="whole"))
    with (tmp_path / "answers.jsonl").open("ab") as file:
        file.write(b'{"text":"\xe2\x98\0\0')
    with RunFolder(tmp_path) as run:
        assert run.repairs == ["answers.jsonl: dropped a torn last line of 13 bytes"]
        assert texts(run) == ["whole"]
    with RunFolder(tmp_path) as run:
        assert run.repairs == []


def test_the_last_line_of_a_file_that_an_editor_saved_without_newline_is_kept(tmp_path):
    (tmp_path / "answers.jsonl").write_text('{"text": "written by hand"}')
    with RunFolder(tmp_path) as run:
        assert run.repairs == ["answers.jsonl: added the missing newline after the last line"]
        run.append("answers", Completion(text="appended"))
        assert texts(run) == ["written by hand", "appended"]


def test_a_second_process_is_refused_until_the_first_is_killed_and_may_read_meanwhile(tmp_path):
    holder = start(HOLDS_UNTIL_KILLED, tmp_path)
    try:
        holder.stdout.readline()
        with pytest.raises(ConfigError, match=f"in use by process {holder.pid}; wait .* or choose another") as refusal:
            RunFolder(tmp_path)
        assert_one_sentence(refusal)
        with RunFolder(tmp_path, writable=False) as run:
            assert texts(run) == []
    finally:
        kill(holder)
    with RunFolder(tmp_path) as run:
        run.append("answers", Completion(text="mine now"))


def test_the_same_process_cannot_open_a_folder_twice_for_writing_and_closing_releases_it(tmp_path):
    with closing(RunFolder(tmp_path)) as run:
        with pytest.raises(ConfigError, match=f"in use by process {os.getpid()};"):
            RunFolder(tmp_path)
        run.close()
        with RunFolder(tmp_path):
            pass


def test_a_folder_that_could_not_be_opened_is_not_left_locked(tmp_path):
    manifest = tmp_path / "manifest.json"
    manifest.write_text("{}")
    with pytest.raises(DataError, match=r"manifest\.json, field schema_version: Field required"):
        RunFolder(tmp_path)
    manifest.unlink()
    with RunFolder(tmp_path):
        pass


# The manifest


def test_the_manifest_says_what_made_the_run(tmp_path):
    before = datetime.now(UTC)
    with RunFolder(tmp_path / "new" / "run") as run:
        run.begin_stage("collect", {"seed": 7, "model": "tiny"})
    with RunFolder(tmp_path / "new" / "run", writable=False) as run:
        manifest = run.read_json("manifest", Manifest)
    assert manifest is not None
    assert manifest == run.manifest
    assert manifest.python == ".".join(map(str, sys.version_info[:3]))
    assert before <= manifest.created_at <= manifest.stages["collect"].started_at <= datetime.now(UTC)
    assert manifest.stages["collect"].settings == {"seed": 7, "model": "tiny"}
    assert {"pydantic", "numpy", "httpx"} <= manifest.stages["collect"].versions.keys()


def test_a_stage_goes_on_with_equal_settings_however_they_are_spelled(tmp_path):
    with RunFolder(tmp_path) as run:
        run.begin_stage("plan", {"widths": (1, 2), "planner": {"name": "beam"}})
        begun = run.manifest
        run.begin_stage("plan", {"planner": {"name": "beam"}, "widths": [1, 2]})
    with RunFolder(tmp_path) as run:
        run.begin_stage("plan", {"widths": (1, 2), "planner": {"name": "beam"}})
        assert run.manifest == begun


def test_a_stage_with_other_settings_is_refused_and_every_difference_is_named(tmp_path):
    with RunFolder(tmp_path) as run:
        run.begin_stage("plan", {"seed": 1, "planner": {"name": "beam", "width": 4}, "same": True})
        run.begin_stage("train", {"seed": 2})
        run.append("numbers", Completion(text="1"))
        with pytest.raises(ConfigError) as refusal:
            run.begin_stage("plan", {"seed": 2, "planner": {"name": "beam", "width": 5}, "same": True, "split": "x"})
    assert_one_sentence(refusal)
    assert "Stage 'plan'" in str(refusal.value)
    assert (
        "(planner.width was 4 and is now 5, seed was 1 and is now 2, "
        'split was null and is now "x"); use the old ones or another run folder.'
    ) in str(refusal.value)


def test_a_stage_that_says_what_it_stores_begins_anew_where_that_is_not_there(tmp_path):
    with RunFolder(tmp_path / "run") as run:
        run.append("pairs", Completion(text="a pair"))
        run.begin_stage("train", {"max_tokens": 16}, stored=["training.jsonl", "reward_*"])
        run.begin_stage("train", {"max_tokens": 32}, stored=["training.jsonl", "reward_*"])
        (run.path / "reward_model").mkdir()
        with pytest.raises(ConfigError, match="max_tokens was 32 and is now 64"):
            run.begin_stage("train", {"max_tokens": 64}, stored=["training.jsonl", "reward_*"])


def test_a_stage_begins_anew_where_nothing_is_stored_yet(tmp_path):
    with RunFolder(tmp_path) as run:
        run.begin_stage("plan", {"model": "misspelt"})
        run.begin_stage("plan", {"model": "right"})
    with RunFolder(tmp_path) as run:
        assert run.manifest.stages["plan"].settings == {"model": "right"}


def test_a_server_may_move(tmp_path):
    with RunFolder(tmp_path) as run:
        run.begin_stage("plan", {"seed": 1, "agent": {"url": "http://here", "model": "m"}}, movable=["agent.url"])
        begun = run.manifest.stages["plan"].started_at
        run.append("numbers", Completion(text="1"))
        moved = {"seed": 1, "agent": {"url": "http://there", "model": "m"}}
        run.begin_stage("plan", moved, movable=["agent.url"])
    with RunFolder(tmp_path) as run:
        assert (run.manifest.stages["plan"].settings, run.manifest.stages["plan"].started_at) == (moved, begun)
        with pytest.raises(ConfigError, match=r"\(seed was 1 and is now 2\)"):
            run.begin_stage("plan", {**moved, "seed": 2, "agent": {"url": "x", "model": "m"}}, movable=["agent.url"])


@pytest.mark.parametrize("value", [math.nan, math.inf, Path("x")])
def test_settings_that_json_cannot_hold_are_refused_and_nothing_is_recorded(tmp_path, value):
    with RunFolder(tmp_path) as run:
        with pytest.raises(ConfigError, match="settings of stage 'plan' must be finite JSON values"):
            run.begin_stage("plan", {"value": value})
        assert run.manifest.stages == {}


@pytest.mark.parametrize("writable", [True, False])
def test_a_run_folder_of_another_schema_version_is_refused(tmp_path, writable):
    content = '{"schema_version": 99, "armap_version": "9.9", "future_field": 1}'
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ConfigError, match=r"schema version 99 by armap 9\.9.*another run folder") as refusal:
        RunFolder(tmp_path, writable=writable)
    assert_one_sentence(refusal)
    assert (tmp_path / "manifest.json").read_text() == content


def test_reading_a_folder_that_is_missing_or_no_run_folder_is_refused_and_creates_nothing(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError, match=r"is not a run folder") as refusal:
            RunFolder(path, writable=False)
        assert_one_sentence(refusal)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="choose another folder") as refusal:
        RunFolder(tmp_path / "file")
    assert_one_sentence(refusal)


def test_a_reader_and_a_kill_never_meet_half_a_manifest(tmp_path):
    writer = start(BEGINS_STAGES_UNTIL_KILLED, tmp_path)
    writer.stdout.readline()
    counts = []
    for _ in range(100):
        with RunFolder(tmp_path, writable=False) as run:
            counts.append(len(run.manifest.stages))
    kill(writer)
    with RunFolder(tmp_path) as run:
        counts.append(len(run.manifest.stages))
    assert counts == sorted(counts)
    assert counts[0] > 0


# Malformed lines


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"text":5}', "field text: Input should be a valid string"),
        (b'{"text":"a","usage":{"calls":"many"}}', "field usage.calls: Input should be a valid integer"),
        (b'{"text":"a","colour":1}', "field colour: Extra inputs are not permitted"),
        (b'{"text":"\xff"}', "Invalid JSON: invalid unicode code point"),
        (b"\0\0\0\0", "Invalid JSON: expected value at column 1"),
        (b'{"text":' + b"[" * 100_000, "Invalid JSON: recursion limit exceeded"),
        (b"", "Invalid JSON: EOF"),
    ],
)
def test_a_malformed_line_in_the_middle_is_named_by_file_line_and_field(tmp_path, line, complaint):
    with RunFolder(tmp_path) as run:
        run.append("answers", Completion(text="before"))
    path = tmp_path / "answers.jsonl"
    path.write_bytes(path.read_bytes() + line + b'\n{"text":"after"}\n')
    with RunFolder(tmp_path) as run, pytest.raises(DataError) as refusal:
        run.read("answers", Completion)
    assert f"{path}, line 2" in str(refusal.value)
    assert complaint in str(refusal.value)
    assert_one_sentence(refusal)


# What append takes


def test_what_was_appended_can_be_read_at_once_and_a_missing_file_is_empty(tmp_path):
    with RunFolder(tmp_path) as run:
        assert texts(run) == []
        assert run.read_json("metrics", Completion) is None
        run.append("answers", Completion(text="a"))
        run.append("answers", Completion(text="b"))
        run.write_json("metrics", Completion(text="c"))
        assert texts(run) == ["a", "b"]
        assert run.read_json("metrics", Completion) == Completion(text="c")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
finite = st.floats(allow_nan=False, allow_infinity=False)
observations = st.builds(Observation, text=st.text(), actions=st.none() | st.lists(st.text(), max_size=2).map(tuple))
trajectories = st.builds(
    Trajectory,
    id=st.text(),
    task=st.builds(
        Task,
        id=st.text(),
        env=st.text(),
        instruction=st.text(),
        seed=st.integers(),
        config=st.dictionaries(st.text(), json_values, max_size=3),
    ),
    steps=st.lists(
        st.builds(
            Step,
            observation=observations,
            action=st.builds(Action, text=st.text(), thought=st.text()),
            env_reward=finite,
        ),
        max_size=3,
    ).map(tuple),
    final_observation=observations,
    stop_reason=st.sampled_from(["terminated", "truncated"]),
    metrics=st.dictionaries(st.text(), finite, max_size=3),
)


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory):
    with RunFolder(tmp_path_factory.mktemp("run")) as run:
        yield run


@settings(deadline=None)
@given(trajectory=trajectories)
def test_every_record_reads_back_as_it_was_appended(shared_run, trajectory):
    assert shared_run.append("trajectories", trajectory) == trajectory
    assert shared_run.read("trajectories", Trajectory)[-1] == trajectory


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=())))
def test_text_with_lone_surrogates_is_stored_with_replacement_characters_and_the_rest_kept(shared_run, text):
    stored = shared_run.append("answers", Completion(text=text))
    assert texts(shared_run)[-1] == stored.text
    assert stored.text == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@pytest.mark.parametrize(
    ("record", "field"),
    [
        (Completion(text="a", usage=Usage(cost_usd=math.inf)), "field usage.cost_usd: Input should be a valid number"),
        (Completion(text="a", choice_mass=math.nan), "numbers that are not finite"),
        (Completion(text="\ud800", choice_mass=math.nan), "numbers that are not finite"),
        (Task(id="a", env="b", instruction="c", config={"x": [math.nan]}), "numbers that are not finite"),
        (Task(id="a", env="b", instruction="c", seed=10**5000), "Invalid JSON: number out of range"),
        (
            Task(id="a", env="b", instruction="c", config={"x": json.loads("[" * 230 + "]" * 230)}),
            "Invalid JSON: recursion limit exceeded",
        ),
        (
            Task(id="a", env="b", instruction="c", config={"x": json.loads("[" * 254 + "]" * 254)}),
            "Invalid JSON: recursion limit exceeded",
        ),
    ],
)
def test_a_record_that_would_not_read_back_is_refused_and_nothing_is_written(tmp_path, record, field):
    with RunFolder(tmp_path) as run:
        with pytest.raises(DataError, match=field) as refusal:
            run.append("records", record)
        assert run.read("records", type(record)) == []
    assert_one_sentence(refusal)


def test_a_full_disk_is_an_error_that_leaves_every_earlier_record_readable(tmp_path):
    filler = start(FILLS_ITS_DISK, tmp_path)
    output, _ = filler.communicate()
    assert filler.returncode == 0
    stored, code, message = output.decode().split(maxsplit=2)
    assert int(code) == errno.EFBIG
    assert "this record was not stored, every record before it was" in message
    assert int(stored) > 5
    with RunFolder(tmp_path) as run:
        assert run.repairs == []
        assert texts(run) == ["x" * 300] * int(stored) + ["short"]


def test_a_disk_that_cannot_sync_is_reported_by_a_later_append_and_on_close_and_the_folder_is_released(tmp_path):
    run = RunFolder(tmp_path)
    # A pipe takes what is written and refuses to be synced.
    os.mkfifo(tmp_path / "answers.jsonl")
    reader = os.open(tmp_path / "answers.jsonl", os.O_RDONLY | os.O_NONBLOCK)
    run.append("answers", Completion(text="a"))
    with pytest.raises(OSError, match="may not be on the disk"):
        append_for_seconds(run, 10)
    with pytest.raises(OSError, match="may not be on the disk"):
        run.close()
    os.close(reader)
    (tmp_path / "answers.jsonl").unlink()
    with RunFolder(tmp_path):
        pass


def test_nothing_can_be_appended_to_a_closed_or_read_only_folder(tmp_path):
    with RunFolder(tmp_path) as run:
        pass
    with RunFolder(tmp_path, writable=False) as reader:
        for folder in (run, reader):
            with pytest.raises(ValueError, match="closed or was opened for reading only"):
                folder.append("answers", Completion(text="a"))
            with pytest.raises(ValueError, match="closed or was opened for reading only"):
                folder.begin_stage("collect", {})
    assert not (tmp_path / "answers.jsonl").exists()


# The ledger


def one_call(tokens: int = 10, cost_usd: float = 0.0) -> list[Completion]:
    usage = Usage(calls=1, prompt_tokens=tokens - 2, completion_tokens=2, cost_usd=cost_usd)
    return [Completion(text="first", usage=usage), Completion(text="second")]


async def buy(ledger: Ledger, key: str, completions: list[Completion]) -> None:
    with ledger.reserve(key):
        await asyncio.sleep(0.001)
        ledger.record(key, completions, seconds=0.5)


async def test_fifty_concurrent_requests_make_exactly_as_many_calls_as_the_budget_allows(tmp_path):
    with RunFolder(tmp_path) as run:
        ledger = Ledger(run, Budget(max_calls=20))
        outcomes = await asyncio.gather(
            *(buy(ledger, f"key {number}", one_call()) for number in range(50)), return_exceptions=True
        )
        refusals = [outcome for outcome in outcomes if outcome is not None]
        assert ledger.spent.calls == 20
        assert len(refusals) == 30
        assert all(isinstance(refusal, BudgetError) for refusal in refusals)


@pytest.mark.parametrize("budget", [Budget(max_tokens=1000), Budget(max_cost_usd=1)])
async def test_a_limit_that_could_never_stop_anything_is_refused_and_the_answer_kept(tmp_path, budget):
    silent = [Completion(text="first", usage=Usage(calls=1))]
    with RunFolder(tmp_path) as run:
        ledger = Ledger(run, budget)
        with pytest.raises(ConfigError, match="does not say how many tokens it takes"):
            await buy(ledger, "key", silent)
        assert ledger.stored("key") == silent


async def test_a_call_that_failed_gives_its_place_in_the_budget_back(tmp_path):
    with RunFolder(tmp_path) as run:
        ledger = Ledger(run, Budget(max_calls=1))
        for _ in range(3):
            with pytest.raises(LLMError), ledger.reserve("key"):
                raise LLMError("the server is down")
        await buy(ledger, "key", one_call())
        assert ledger.spent.calls == 1


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        (Budget(max_calls=2), "exceed max_calls=2 (used: 2)"),
        (Budget(max_tokens=20), "exceed max_tokens=20 (used: 20)"),
        (Budget(max_cost_usd=0.5), "exceed max_cost_usd=0.5 (used: 0.5)"),
    ],
)
async def test_the_budget_holds_over_all_sittings(tmp_path, budget, sentence):
    for number in range(2):
        with RunFolder(tmp_path) as run:
            await buy(Ledger(run, budget), f"key {number}", one_call(tokens=10, cost_usd=0.25))
    with RunFolder(tmp_path) as run:
        with pytest.raises(BudgetError) as refusal:
            await buy(Ledger(run, budget), "key 2", one_call())
        await buy(Ledger(run), "key 2", one_call())
    assert sentence in str(refusal.value)


async def test_seconds_are_counted_from_the_beginning_of_the_sitting(tmp_path):
    now = 1000.0
    with RunFolder(tmp_path) as run:
        ledger = Ledger(run, Budget(max_seconds=5), clock=lambda: now)
        now = 1004.9
        await buy(ledger, "key", one_call())
        now = 1005.0
        with pytest.raises(BudgetError, match=r"max_seconds=5\.0 \(used: 5\.0\)"):
            await buy(ledger, "other", one_call())
        await buy(Ledger(run, Budget(max_seconds=5), clock=lambda: now), "other", one_call())


async def test_spend_and_answers_survive_reopening(tmp_path):
    with RunFolder(tmp_path) as run:
        ledger = Ledger(run)
        await buy(ledger, "key", one_call(tokens=10, cost_usd=0.25))
        await buy(ledger, "key", one_call(tokens=12, cost_usd=0.5))
        spent = ledger.spent
    assert spent == Usage(calls=2, prompt_tokens=18, completion_tokens=4, cost_usd=0.75)
    with RunFolder(tmp_path, writable=False) as run:
        ledger = Ledger(run)
        assert ledger.spent == spent
        assert [answer.text for answer in ledger.stored("key")] == ["first", "second", "first", "second"]
        assert sum((answer.usage for answer in ledger.stored("key")), Usage()) == spent
        assert ledger.stored("other") == []


async def test_a_model_that_counts_no_requests_is_held_to_max_calls_all_the_same(tmp_path):
    with RunFolder(tmp_path) as run:
        ledger = Ledger(run, Budget(max_calls=1))
        await buy(ledger, "key", [Completion(text="free")])
        with pytest.raises(BudgetError):
            await buy(ledger, "other", [Completion(text="free")])


def test_a_ledger_with_a_missing_line_is_refused(tmp_path):
    with RunFolder(tmp_path) as run:
        run.append("completions", LedgerEntry(key="abc", first_index=2, completions=(), seconds=0))
        with pytest.raises(
            DataError, match=r"completions\.jsonl, field first_index: .*abc do not go on at 2"
        ) as refusal:
            Ledger(run)
    assert_one_sentence(refusal)
