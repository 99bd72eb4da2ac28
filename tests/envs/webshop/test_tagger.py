import importlib.util

import pytest

from armap.envs.webshop.tagger import SPACY_MODELS, RuleTagger, default_tagger, spacy_tagger

installed = [model for model in SPACY_MODELS if importlib.util.find_spec(model)]


@pytest.mark.parametrize(
    ("title", "nouns"),
    [
        ("Linen Sofa for the Living Room", "linen sofa living room"),
        ("SheIn Women's Sexy Sleeveless Mini Dress with Belt", "shein women sexy sleeveless mini dress belt"),
        ("soft natural loofah sponge, very suitable for kitchen use", "loofah sponge kitchen use"),
        ("3-Piece Set: 500ml Bottle, 2 x 20 oz, 10cm (Pack of 4)", "piece set 500ml bottle oz cm pack"),
        ("USB-C Cable RL38 for iPhone 12", "usb c cable rl38 iphone"),
        ("12V 4x6 100th", ""),
        ("Sofa Sofa sofa", "sofa sofa sofa"),
        ("Crème brûlée 抹茶", "crème brûlée 抹茶"),
        ("", ""),
        ("--- /// 42 %", ""),
    ],
)
def test_our_own_tagger_finds_the_nouns_of_a_title(title, nouns):
    assert RuleTagger()(title) == nouns.split()


def test_the_default_tagger_is_spacys_where_a_model_is_installed_and_ours_elsewhere():
    assert default_tagger().name.startswith("spacy" if installed else "rules")


@pytest.mark.parametrize("model", SPACY_MODELS)
def test_spacys_models_find_the_nouns_of_a_title(model):
    if model not in installed:
        pytest.skip(f"the spaCy model {model} is not installed; see https://spacy.io/models/en")
    tagger = spacy_tagger(model)
    assert {"sofa", "room"} <= set(tagger("Linen Sofa for the Living Room"))
    assert model in tagger.name
