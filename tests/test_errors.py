import copy
import inspect
import pickle

import pytest

from armap import errors
from armap.errors import ArmapError, BudgetError, ConfigError, DataError, LLMError, RunError
from armap.types import Completion, Usage

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, ArmapError)]


def test_the_tree_is_the_one_at_the_top_of_the_file():
    documented = {
        (line.split()[0], len(line) - len(line.lstrip()))
        for line in inspect.cleandoc(errors.__doc__).splitlines()
        if line.startswith("    ")
    }
    depth = {cls: len(inspect.getmro(cls)) - len(inspect.getmro(ArmapError)) for cls in CLASSES}
    assert documented == {(cls.__name__, 4 + 2 * depth[cls]) for cls in CLASSES}


def test_only_errors_of_one_task_let_the_others_go_on():
    for cls in (ConfigError, DataError, BudgetError):
        assert not issubclass(cls, RunError)


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_survives_the_way_between_processes(cls):
    error = cls("One sentence.")
    for again in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert type(again) is cls
        assert str(again) == "One sentence."


def test_an_llm_error_says_whether_asking_again_may_help():
    plain = LLMError("refused")
    assert (plain.retryable, plain.status) == (False, None)
    again = pickle.loads(pickle.dumps(LLMError("busy", retryable=True, status=503)))
    assert (str(again), again.retryable, again.status) == ("busy", True, 503)


def test_an_llm_error_says_what_was_spent_and_bought_all_the_same():
    usage = Usage(calls=3, prompt_tokens=9)
    answers = [Completion(text="first", usage=Usage(calls=1))]
    for error in (spent := LLMError("cut off", usage=usage, answers=answers), pickle.loads(pickle.dumps(spent))):
        assert (error.usage, error.answers) == (usage, tuple(answers))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("no such file\nlook elsewhere.", "no such file"),
        ("cannot read: \nthe header", "cannot read: the header"),
        ("one of: \n(1) a file, \n(2) a name of one. \nInstall it.", "one of: (1) a file, (2) a name of one."),
        ("", "ValueError"),
    ],
)
def test_what_somebody_else_s_error_says_is_told_in_whole_sentences(said, told):
    assert errors.first_line(ValueError(said)) == told


def test_every_error_says_what_it_means():
    assert all(cls.__doc__ for cls in CLASSES)
