import pytest

from armap.pipeline.model_card import MadeFrom, model_card
from armap.types import HeldoutScore
from rewards.toy_pairs import toy_pairs

TRAINING, HELDOUT = toy_pairs(9, 0), toy_pairs(12, 1)
SCORED = [
    HeldoutScore(
        pair_id=pair.id, source_task_id=pair.source_task_id, origin=pair.origin, chosen=float(i % 4 > 0), rejected=0.5
    )
    for i, pair in enumerate(HELDOUT)
]
FITTED = MadeFrom("transformers", "someone/model", "apache-2.0", {"pooling": "last", "epochs": 3})


def card(made_from: MadeFrom = FITTED, training=TRAINING, heldout=HELDOUT) -> str:
    return model_card("tiny, 2 layers", made_from, training=training, heldout=heldout, scored=SCORED)


def test_the_hub_reads_base_licence_and_metrics_from_it():
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: no card is read as it does")
    data = hub.ModelCard(card()).data
    assert (data.library_name, data.base_model, data.license) == ("transformers", "someone/model", "apache-2.0")
    assert data.pipeline_tag == "text-classification"
    found = {result.metric_name: (result.metric_type, result.metric_value) for result in data.eval_results}
    assert found["Pairwise accuracy, all"] == ("accuracy", 0.75)
    assert set(found) == {f"Pairwise accuracy, {what}" for what in ("all", *(f"rejected by {o}" for o in origins()))}
    assert {result.dataset_name for result in data.eval_results} == {"Held-out pairs of toy"}


def origins() -> set[str]:
    return {pair.origin for pair in HELDOUT}


def test_names_that_yaml_would_read_otherwise_stay_names():
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: no card is read as it does")
    heldout = [
        pair.model_copy(update={"task": pair.task.model_copy(update={"env": 'my: "env"\n---'})}) for pair in HELDOUT
    ]
    data = hub.ModelCard(card(MadeFrom("armap", "1/2", "no"), heldout=heldout)).data
    assert (data.base_model, data.license) == ("1/2", "no")
    assert data.eval_results[0].dataset_name == 'Held-out pairs of my: "env"\n---, toy'


def test_what_is_not_known_is_left_out():
    front = card(MadeFrom("armap")).split("---")[1]
    assert "license" not in front
    assert "base_model" not in front


def test_accuracy_stands_beside_its_interval_by_origin():
    lines = [line for line in card().splitlines() if line.startswith("| rejected by ")]
    for line in lines:
        _, what, pairs, accuracy, interval, _ = (part.strip() for part in line.split("|"))
        of_origin = [score for score in SCORED if what == f"rejected by {score.origin}"]
        low, high = (float(end.rstrip("%")) for end in interval.split(" to "))
        assert int(pairs) == len(of_origin)
        assert accuracy == f"{sum(one.chosen > one.rejected for one in of_origin) / len(of_origin):.1%}"
        assert low <= float(accuracy.rstrip("%")) <= high
    assert {line.split("|")[1].strip() for line in lines} == {f"rejected by {origin}" for origin in origins()}


def test_data_that_somebody_else_made_are_not_called_verified():
    own = "No human labels"
    assert own in card()
    assert own not in card(training=[pair.model_copy(update={"verified_by": "nothing"}) for pair in TRAINING])


def test_settings_are_listed_and_another_pooling_is_said():
    assert "- epochs: 3\n" in card()
    assert "for comparison" in card(FITTED._replace(settings={"pooling": "mean"}))
    assert "whose logit is the score" not in card(FITTED._replace(settings={"pooling": "mean"}))
