import re
from pathlib import Path
from random import Random

import pytest

from armap.envs import game24, toy
from armap.envs.check.bench import Bench, Wrong
from armap.envs.check.contract import QUESTIONS, Setting, play_episodes
from armap.envs.check.supervise import check_class, check_environment, in_words
from armap.envs.game24 import Game24
from armap.envs.toy import Toy
from armap.errors import ConfigError

from . import flawed_environments as flawed

PLAYS = "an episode can be played to its end"
COMPLETE = "the class has tasks, and what else the command line needs"
REPEATS = "the same actions give the same observations"
ALONE = "environments do not disturb each other"
AGAIN = "an episode can be given up and a task started again"
TURN = "a step out of turn is refused"
ANY_TEXT = "any text is answered with an observation"
INVALID = "an invalid action is called invalid"
LISTED = "listed actions are obeyed"
SAVED = "saved states can be gone back to"
FAIR = "same_observation() is fair"
HINDSIGHT = "hindsight_task() asks for what was achieved"

FLAWS = {
    "Unseeded": (REPEATS, "in every environment that is made", "random.Random(task.seed)"),
    "ForgetsToReset": (AGAIN, "observation is 'On step ", "anew in reset()"),
    "SharesItsState": (ALONE, "used in turn", "in self"),
    "EndsTwice": (PLAYS, "terminated and truncated are both True", "and not terminated"),
    "PaysNan": (PLAYS, "env_reward is a finite number", "nan of type float"),
    "PaysInPoints": (PLAYS, "is paid from 0 to 1 in all", "divide env_reward by the most"),
    "ReportsWords": (PLAYS, "price is a finite number", "'3 dollars' of type str"),
    "ReportsTheUnnameable": (PLAYS, "one is called 'fuel-used'", "such as fuel_used"),
    "ReportsItsScore": (PLAYS, "one is called 'Score'", "score is the reward model's"),
    "ReturnsATuple": (PLAYS, "it returned tuple", "return StepResult("),
    "StumblesOverOddTexts": (ANY_TEXT, "UnicodeEncodeError", "handle this case"),
    "EchoesHalvesOfPairs": (ANY_TEXT, "can be stored as UTF-8", "ascii(action)"),
    "EchoesEverything": (ANY_TEXT, "the observation has 100,", "cut what you repeat"),
    "SaysNothingOfInvalidActions": (INVALID, "the same observation as before", "Illegal action"),
    "NeverEnds": (PLAYS, "within 50 steps", "truncated=True"),
    "ListsTwice": (PLAYS, "lists ('up', 'up')", "once"),
    "ListsWhatItRefuses": (LISTED, "step('jump')", "list only actions that can be done now"),
    "AnswersBeforeReset": (TURN, "before the first reset() raises EnvError", "raise armap.errors.EnvError"),
    "AnswersAfterTheEnd": (TURN, "after the end of an episode raises EnvError", "raise armap.errors.EnvError"),
    "HandsOutItsState": (SAVED, "steps taken later do not change a snapshot", "deep copy"),
    "SavesWhatCannotBePickled": (SAVED, "pickle the snapshot", "Can't pickle"),
    "SavesHalf": (SAVED, "another environment, fresh from its class", "AttributeError"),
    "TakesAllForTheSame": (FAIR, "tells observations of different states apart", "True for all"),
    "ComparesOneWay": (FAIR, "equals same_observation(b, a)", "both ways alike"),
    "AsksForTheWrongThing": (HINDSIGHT, "the task that a trajectory fulfils pays it", "exactly what was achieved"),
    "AsksForItUnderAnotherName": (HINDSIGHT, "has that same task", "depend on nothing but start and outcome"),
    "Leaves": (PLAYS, "SystemExit: I am going home", "do not end the process"),
    "WritesIntoItsTask": (PLAYS, "changed the task's config", "copy.deepcopy"),
    "CannotClose": (PLAYS, "RuntimeError: there is no door", "close()"),
    "HasNoStep": (PLAYS, "HasNoStep has none", "write step()"),
}


FLAWS_OF_PROCESSES = {
    "OrderOfASet": (REPEATS, "in another process", "sort sets"),
    "Hangs": (PLAYS, "nothing for 1 seconds", "close()"),
    "Dies": (SAVED, "the process ended with exit code 3", "snapshot()"),
}


def findings_of_questions(make):
    bench = Bench(make, lambda what: None)
    setting = Setting(bench, flawed.TASKS, (), 50, Random(0))
    found = {}
    try:
        setting = setting._replace(recorded=play_episodes(setting))
        bench.close()
    except Wrong as wrong:
        return {PLAYS: wrong.finding}
    for question in QUESTIONS:
        try:
            question.ask(setting)
        except Wrong as wrong:
            found[question.claim] = wrong.finding
    return found


def findings(make, tasks=flawed.TASKS, **settings):
    answers = check_environment(make, tasks, max_steps=50, timeout_s=1.0, **settings)
    return {checked.claim: checked.finding for checked in answers if checked.finding}


def found_in_class(name):
    return {checked.claim: checked.finding for checked in check_class(name, max_steps=50) if checked.finding}


def line_of(text):
    source = Path(flawed.__file__)
    return f"{source}:{source.read_text('utf-8').split(text)[0].count(chr(10)) + 1}"


@pytest.mark.parametrize("name", FLAWS | FLAWS_OF_PROCESSES)
def test_a_flaw_is_found_and_told_in_plain_words(name):
    ask = findings if name in FLAWS_OF_PROCESSES else findings_of_questions
    found = ask(getattr(flawed, name))
    claim, *told = (FLAWS | FLAWS_OF_PROCESSES)[name]
    assert claim in found
    words = in_words(found[claim])
    for text in told:
        assert text in words
    assert all(len(line) < 500 for line in words.splitlines())


@pytest.mark.parametrize(
    ("make", "tasks"),
    [
        (flawed.Stairs, flawed.TASKS),
        (Toy, toy.tasks(40, 0, "train")),
        (Game24, game24.tasks(1, 200, split="train")),
    ],
)
def test_a_sound_environment_has_no_findings(make, tasks):
    answers = list(check_environment(make, tasks, episodes=8))
    assert len(answers) > 8
    assert [in_words(checked.finding) for checked in answers if checked.finding] == []


def test_an_exception_is_told_with_the_place_in_the_code_it_came_from():
    finding = findings(flawed.StumblesOverOddTexts)[ANY_TEXT]
    assert finding.where == line_of("action.encode(")
    assert finding.done.endswith("step('\\u884c\\u52d5 \\u2603 \\xe9')")


def test_the_questions_after_a_deadly_one_are_asked_all_the_same_and_nothing_is_printed(capfd):
    claims = [checked.claim for checked in check_environment(flawed.Dies, flawed.TASKS)]
    assert claims[claims.index(SAVED) + 1 :] == [FAIR, "the examples are what the environment does", HINDSIGHT]
    assert capfd.readouterr().out == ""


def test_where_no_episode_can_be_played_nothing_more_is_asked():
    assert [checked.claim for checked in check_environment(flawed.Leaves, flawed.TASKS)] == [PLAYS]


def test_questions_that_do_not_concern_an_environment_are_not_asked():
    claims = {checked.claim for checked in check_environment(Toy, toy.tasks(5, 0, "train"))}
    assert {HINDSIGHT, SAVED} <= claims
    assert FAIR not in claims


def test_the_same_seed_asks_the_same():
    assert findings(flawed.ListsWhatItRefuses, seed=3) == findings(flawed.ListsWhatItRefuses, seed=3)


def test_what_cannot_be_sent_to_a_worker_process_is_found():
    (finding,) = findings(lambda: flawed.Stairs()).values()
    assert "worker processes" in finding.expected


def test_no_tasks_at_all_is_a_finding():
    (finding,) = findings(flawed.Stairs, tasks=[]).values()
    assert "at least one task" in finding.repair


def test_examples_that_the_environment_does_not_repeat_are_found():
    example = toy.Toy.examples[0]
    stale = example.model_copy(update={"final_observation": example.steps[0].observation})
    found = {
        checked.claim: checked.finding
        for checked in check_environment(Toy, toy.tasks(5, 0, "train"), examples=[example, stale])
        if checked.finding
    }
    assert list(found) == ["the examples are what the environment does"]


# By its name


_FORGETFUL = """
class Decorator:
    def tasks(self, split): return []

class Default:
    def __init__(self, floors, *, steps, name="stairs"): pass
    @staticmethod
    def tasks(split): return []
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(Path(flawed.__file__).read_text("utf-8"), "utf-8")
    (tmp_path / "broken.py").write_text("import json\njson.loads('{')\n", "utf-8")
    (tmp_path / "slip.py").write_text("class Stairs:\n    def tasks(split) return []\n", "utf-8")
    (tmp_path / "forgot.py").write_text(_FORGETFUL, "utf-8")
    return tmp_path


def test_a_class_of_a_module_in_the_current_folder_is_found(elsewhere):
    assert found_in_class("mine:Stairs") == {}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mine:MixesItsSplits", "no task may be in both"),
        ("mine:HasNoTestTasks", "at least one task for each split"),
        ("mine:IsLongWinded", "rules is a text of at most"),
        ("broken:Stairs", "JSONDecodeError"),
    ],
)
def test_what_the_command_line_would_miss_is_found(elsewhere, name, told):
    found = found_in_class(name)
    assert list(found) == [COMPLETE]
    assert told in in_words(found[COMPLETE])


def test_a_module_that_cannot_be_imported_is_told_with_its_line(elsewhere):
    assert found_in_class("broken:Stairs")[COMPLETE].where == f"{elsewhere / 'broken.py'}:2"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mine", "module:Class"),
        ("mine:not a name", "module:Class"),
        ("mine.:Stairs", "module:Class"),
        ("nowhere:Stairs", "no module 'nowhere'"),
        ("mine.inner:Stairs", "no module 'mine.inner'"),
        ("mine:Ladder", "no class 'Ladder'"),
        ("mine:TASKS", "no class 'TASKS'"),
        ("mine:HasNoTasks", "static method tasks(split)"),
        ("slip:Stairs", "slip.py, line 2, is no Python"),
        ("forgot:Decorator", "write @staticmethod above it"),
        ("forgot:Default", "give floors, steps of its __init__ a default"),
    ],
)
def test_a_slip_in_the_name_is_one_sentence_for_the_user(elsewhere, name, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        list(check_class(name))
