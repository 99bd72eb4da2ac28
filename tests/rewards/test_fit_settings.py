import inspect

import pytest

from armap import cli
from armap.errors import ConfigError
from armap.rewards.fit_settings import PAPER_BACKBONE, PRESETS, FitSettings
from armap.weights import EMBEDDED

# ARMAP, table 14: devices, pairs on each, steps over which gradients add up; epochs, rate, warm-up.
TABLE_14 = {
    "paper-scienceworld": ((8, 1, 16), 10, 1e-5, 0.2),
    "paper-webshop": ((1, 1, 4), 3, 2e-5, 0.1),
    "paper-game24": ((4, 1, 16), 10, 1e-5, 0.25),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_the_numbers_of_the_papers_table(preset):
    settings = cli._fit_settings(preset, {})
    (devices, pairs, accumulated), epochs, rate, warmup = TABLE_14[preset]
    assert settings.backbone == PAPER_BACKBONE
    assert settings.pairs_per_step == devices * pairs * accumulated
    assert (settings.epochs, settings.learning_rate, settings.warmup_share) == (epochs, rate, warmup)
    assert (settings.lora_rank, settings.lora_alpha, settings.layers) == (64, 16, None)
    assert (settings.schedule, settings.max_grad_norm) == ("constant", 0.3)


def test_what_is_said_wins_over_a_preset_and_a_preset_over_what_is_usual():
    settings = cli._fit_settings("paper-webshop", {"backbone": EMBEDDED, "epochs": 7, "patience": 0, "layers": 5})
    assert (settings.backbone, settings.epochs, settings.patience, settings.layers) == (EMBEDDED, 7, None, 5)
    assert (settings.learning_rate, settings.lora_rank) == (2e-5, 64)


def test_no_layers_are_all_layers():
    assert cli._fit_settings(None, {"layers": 0}).layers is None


def test_without_a_word_the_embedded_backbone_has_small_settings_and_any_other_lora_as_in_the_paper():
    embedded, other = FitSettings(), FitSettings(backbone="my/model")
    assert (embedded.layers, embedded.max_tokens, embedded.learning_rate) == (12, 512, 1e-3)
    assert (embedded.lora_rank, embedded.lora_alpha) == (16, 32)
    assert (other.layers, other.lora_rank, other.lora_alpha) == (None, 64, 16)
    assert FitSettings.model_validate_json(embedded.model_dump_json()) == embedded
    assert FitSettings.model_validate_json(other.model_dump_json()) == other


def test_an_unknown_preset_is_named_with_those_there_are():
    with pytest.raises(ConfigError, match="no preset 'paper'; choose from: paper-webshop, "):
        cli._fit_settings("paper", {})


def test_every_setting_is_an_option():
    assert set(FitSettings.model_fields) <= set(inspect.signature(cli.train).parameters)
