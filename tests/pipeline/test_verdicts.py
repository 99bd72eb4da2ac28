from armap.envs import toy
from armap.envs.play import play
from armap.envs.toy import Toy
from armap.llms.scripted import ScriptedLLM
from armap.pipeline.verdicts import PairJudge


async def test_a_judge_is_shown_the_task_and_both_attempts_in_both_orders_without_what_was_paid():
    (task,) = toy.tasks(1, 0, "train")
    wanted = task.config["wanted"]
    other = next(text for text in Toy().reset(task).actions if text.startswith("take") and wanted not in text)
    good = play(Toy(), task, [f"take {wanted}", "leave"]).model_copy(update={"id": "good"})
    bad = play(Toy(), task, [other, "leave"]).model_copy(update={"id": "bad"})
    asked, longest = [], []

    class Recording(ScriptedLLM):
        async def generate(self, messages, *, n, sampling, choices=None):
            asked.append((messages[-1].content, tuple(choices)))
            longest.append(sampling.max_tokens)
            return await super().generate(messages, n=n, sampling=sampling, choices=choices)

    model = Recording(lambda messages, rng: "A")
    judge = PairJudge(model, seed=0)
    verdict = await judge.compare(good, bad)
    assert verdict.preferred == (True, False)
    assert verdict.usage.calls == 2
    (straight, letters), (turned, _) = asked
    assert letters == ("A", "B")
    for question in (straight, turned):
        assert question.startswith(f"Task: {task.instruction}")
        assert "reward" not in question
    assert straight.index(f"take {wanted}") < straight.index(f"Action: {other}")
    assert turned.index(f"Action: {other}") < turned.rindex(f"Action: take {wanted}")
    await PairJudge(model, seed=0, reply_tokens=4000).compare(good, bad)
    assert longest == [4, 4, 4000, 4000]
