from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import formers
from formers.errors import ConfigError, FormersError, RunError, WeightsError
from formers.hub.files import Tensors
from tests.hub.models import small, tokenizer

ARCHITECTURES = ("gpt2", "llama")


def same_tensors(a: Any, b: Any) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name]) for name in ours
    )


def edit(path: Path, **changes: Any) -> None:
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in settings.items() if value != "REMOVE"}))


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    return formers.save(small("gpt2"), tmp_path / "gpt2")


# --- there and back -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_ours_to_hugging_face_and_back_is_bit_identical(
    name: str, tie: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = small(name, tie=tie).to(dtype)
    again = formers.load(formers.save(model, tmp_path / "m"))
    assert same_tensors(model, again)
    assert again.config == model.config
    assert not again.training


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_tied_head_is_one_tensor_after_loading_too(name: str, tmp_path: Path) -> None:
    model = formers.load(formers.save(small(name, tie=True), tmp_path / "tied"))
    assert model.head.linear.weight is model.tokens.weight
    model = formers.load(formers.save(small(name, tie=False), tmp_path / "untied"))
    assert model.head.linear.weight is not model.tokens.weight


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_transformers_opens_what_save_wrote(name: str, tie: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    words = tokenizer()
    model = small(name, tie=tie)
    folder = formers.save(model, tmp_path / "m", tokenizer=words)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert type(theirs).__name__ == {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}[name]
    assert theirs.generation_config.eos_token_id == words.end_of_text
    assert theirs.config.bos_token_id == words.end_of_text
    input_ids = torch.randint(256, (1, 7))
    torch.testing.assert_close(theirs(input_ids).logits, model(input_ids).logits)
    opened = transformers.AutoTokenizer.from_pretrained(folder)
    assert opened("naïve text\n")["input_ids"] == words.encode("naïve text\n")
    assert opened.eos_token_id == words.end_of_text


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_shards_that_transformers_wrote_are_read(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = small(name)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(formers.save(model, tmp_path / "whole"))
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    assert same_tensors(model, formers.load(tmp_path / "shards"))


@pytest.mark.parametrize("with_head", [True, False])
@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_old_gpt2_files_with_buffers_are_read(prefix: str, with_head: bool, gpt2: Path) -> None:
    stored = {name.removeprefix("transformer."): t for name, t in load_file(gpt2 / "model.safetensors").items()}
    buffers = {f"h.{i}.attn.bias": torch.ones(1, 1, 5, 5) for i in range(2)}
    buffers |= {"h.0.attn.masked_bias": torch.tensor(-1e4)}
    old = {prefix + name: tensor for name, tensor in (stored | buffers).items()}
    if with_head:
        old["lm_head.weight"] = stored["wte.weight"].clone()
    save_file(old, gpt2 / "model.safetensors")
    assert same_tensors(formers.load(gpt2), small("gpt2"))


def test_weights_keep_the_type_each_is_stored_in(gpt2: Path) -> None:
    stored = load_file(gpt2 / "model.safetensors")
    name = "transformer.h.0.ln_1.weight"
    save_file(stored | {name: stored[name].to(torch.bfloat16)}, gpt2 / "model.safetensors")
    kept = {tensor.dtype for tensor in formers.load(gpt2).state_dict().values()}
    assert kept == {torch.float32, torch.bfloat16}
    assert {t.dtype for t in formers.load(gpt2, dtype=torch.float64).state_dict().values()} == {torch.float64}


def test_a_loaded_model_does_not_hang_on_its_file(gpt2: Path) -> None:
    model = formers.load(gpt2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = gpt2 / "model.safetensors"
    path.write_bytes(b"\xff" * path.stat().st_size)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_settings_that_change_no_number_are_passed_over(gpt2: Path) -> None:
    edit(gpt2 / "config.json", use_cache=False, n_ctx=1024, _name_or_path="gpt2", task_specific_params={"a": 1})
    assert same_tensors(formers.load(gpt2), small("gpt2"))


# --- what is refused ----------------------------------------------------------------------------------------------------


def test_every_setting_that_is_not_implemented_is_listed_at_once(gpt2: Path) -> None:
    changes = {"scale_attn_weights": False, "activation_function": "mish", "add_cross_attention": True}
    edit(gpt2 / "config.json", **changes, rope_scaling={"a": 1})
    with pytest.raises(ConfigError) as caught:
        formers.load(gpt2)
    for part in ("scale_attn_weights=False", "activation_function='mish'", "add_cross_attention=True", "rope_scaling="):
        assert part in str(caught.value)


def test_a_setting_of_the_wrong_type_is_named(gpt2: Path) -> None:
    edit(gpt2 / "config.json", n_embd="wide", n_layer=[2])
    with pytest.raises(ConfigError, match=r"d_model is 'wide', wanted int; .*num_layers is \[2\], wanted int"):
        formers.load(gpt2)


def test_an_unknown_model_type_lists_the_known_ones(gpt2: Path) -> None:
    edit(gpt2 / "config.json", model_type="gpt_2")
    with pytest.raises(ConfigError, match=r"'gpt_2' is not implemented(.|\n)*gpt2, llama(.|\n)*did you mean 'gpt2'"):
        formers.load(gpt2)
    edit(gpt2 / "config.json", model_type="REMOVE")
    with pytest.raises(ConfigError, match="has no model_type"):
        formers.load(gpt2)


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "is not JSON.*line 1"), ("[1]", "holds a list"), ("\udcff", "is not UTF-8")],
)
def test_a_broken_config_says_how(text: str, says: str, gpt2: Path) -> None:
    (gpt2 / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=says):
        formers.load(gpt2)


def test_a_folder_without_config_or_weights_says_so(gpt2: Path) -> None:
    (gpt2 / "model.safetensors").rename(gpt2 / "weights")
    with pytest.raises(WeightsError, match=r"has no model\.safetensors"):
        formers.load(gpt2)
    (gpt2 / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        formers.load(gpt2)


def test_what_is_unknown_is_named_as_the_file_names_it(gpt2: Path) -> None:
    """The hub's files of GPT-2 leave a prefix off, which missing names carry."""
    stored = load_file(gpt2 / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in stored.items()}
    bare["adapter.weight"] = bare.pop("ln_f.bias")
    save_file(bare, gpt2 / "model.safetensors")
    with pytest.raises(WeightsError, match=r"missing transformer\.ln_f\.bias(.|\n)*unknown adapter\.weight"):
        formers.load(gpt2)


def test_a_pickle_is_refused_with_the_way_to_convert_it(gpt2: Path) -> None:
    """The way keeps the head: it names the class of the config, or of transformers' bodies where that names none."""
    (gpt2 / "model.safetensors").rename(gpt2 / "pytorch_model.bin")
    for named, kind in ((["GPT2LMHeadModel"], "GPT2LMHeadModel"), ("REMOVE", "AutoModel")):
        edit(gpt2 / "config.json", architectures=named)
        with pytest.raises(
            WeightsError, match=rf"pytorch_model\.bin(.|\n)*transformers\.{kind}\.from_pre(.|\n)*save_pre"
        ):
            formers.load(gpt2)


@pytest.mark.parametrize("keep", [0, 7, 300, -1])
def test_a_truncated_file_is_one_clear_error(keep: int, gpt2: Path) -> None:
    path = gpt2 / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match="damaged or cut short"):
        formers.load(gpt2)


def test_missing_and_unknown_tensors_are_listed_with_layers_in_one_line(gpt2: Path) -> None:
    stored = load_file(gpt2 / "model.safetensors")
    for layer in (0, 1):
        stored[f"transformer.h.{layer}.extra"] = stored.pop(f"transformer.h.{layer}.ln_1.bias")
    del stored["transformer.wpe.weight"]
    save_file(stored, gpt2 / "model.safetensors")
    with pytest.raises(WeightsError, match="5 problems") as caught:
        formers.load(gpt2)
    for line in (
        "missing transformer.h.0-1.ln_1.bias",
        "unknown transformer.h.0-1.extra",
        "missing transformer.wpe.weight",
    ):
        assert line in str(caught.value)


def test_a_tensor_of_the_wrong_shape_is_named_with_both_shapes(gpt2: Path) -> None:
    edit(gpt2 / "config.json", n_inner=59)
    with pytest.raises(
        WeightsError, match=r"0-1\.feed_forward\.expand\.weight is \(53, 26\), the model's is \(59, 26\)"
    ):
        formers.load(gpt2)


def test_parts_that_do_not_fuse_are_named(tmp_path: Path) -> None:
    folder = formers.save(small("llama"), tmp_path / "m")
    edit(folder / "config.json", num_key_value_heads=4)
    with pytest.raises(WeightsError, match=r"0-1\.self_attn\.k_proj\.weight is \(12, 28\), the model's is \(24, 28\)"):
        formers.load(folder)


def test_a_config_of_one_model_beside_weights_of_another_is_one_sentence(tmp_path: Path) -> None:
    gpt2 = formers.save(small("gpt2"), tmp_path / "gpt2")
    llama = formers.save(small("llama"), tmp_path / "llama")
    shutil.copy(gpt2 / "config.json", llama / "config.json")
    with pytest.raises(WeightsError, match=r"holds weights of a llama, and a config\.json of a gpt2"):
        formers.load(llama)


def test_weights_of_a_labelling_encoder_beside_a_config_of_another_are_one_sentence_too(tmp_path: Path) -> None:
    gpt2 = formers.save(small("gpt2"), tmp_path / "gpt2")
    bert = formers.save(formers.build("bert", preset="nano", head="sequence"), tmp_path / "bert")
    shutil.copy(gpt2 / "config.json", bert / "config.json")
    with pytest.raises(WeightsError, match=r"holds weights of a bert, and a config\.json of a gpt2"):
        formers.load(bert)


@pytest.mark.parametrize("name", ["gpt2", "memorizing"])
def test_whole_numbers_in_place_of_weights_are_refused(name: str, tmp_path: Path) -> None:
    """Theirs, and an architecture of ours alone."""
    folder = formers.save(formers.build(name, preset="nano"), tmp_path / "m")
    stored = load_file(folder / "model.safetensors")
    save_file({n: t.round().to(torch.int8) for n, t in stored.items()}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"final_norm\.weight is int8(.|\n)*quantised weights are not read"):
        formers.load(folder)


def test_a_head_that_should_be_tied_and_differs_is_refused(gpt2: Path) -> None:
    stored = load_file(gpt2 / "model.safetensors")
    save_file(stored | {"lm_head.weight": stored["transformer.wte.weight"] + 1}, gpt2 / "model.safetensors")
    with pytest.raises(WeightsError, match=r"lm_head\.weight differs from the tensor it is tied to"):
        formers.load(gpt2)


def test_a_tokenizer_with_ids_beyond_the_vocabulary_is_refused(tmp_path: Path) -> None:
    folder = formers.save(small("gpt2"), tmp_path / "m", tokenizer=tokenizer())
    formers.save(small("gpt2", vocab_size=251), tmp_path / "small")
    shutil.copy(folder / "tokenizer.json", tmp_path / "small")
    with pytest.raises(ConfigError, match="ids up to 256, the model's vocab_size is 251"):
        formers.load(tmp_path / "small")
    with pytest.raises(ConfigError, match="the tokenizer has 257 ids, the model's vocab_size is 251"):
        formers.save(small("gpt2", vocab_size=251), tmp_path / "other", tokenizer=tokenizer())
    assert not (tmp_path / "other").exists()


# --- shards -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shards(gpt2: Path) -> Path:
    """The tensors of a model in two files, with an index."""
    stored = load_file(gpt2 / "model.safetensors")
    names = sorted(stored)
    halves = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: stored[name] for name in part}, gpt2 / file)
    index = {"weight_map": {name: file for file, part in halves.items() for name in part}}
    (gpt2 / "model.safetensors.index.json").write_text(json.dumps(index))
    (gpt2 / "model.safetensors").unlink()
    return gpt2


def test_shards_are_read_as_one(shards: Path) -> None:
    assert same_tensors(formers.load(shards), small("gpt2"))


def test_shards_that_are_missing_are_all_named(shards: Path) -> None:
    for path in shards.glob("model-*.safetensors"):
        path.unlink()
    with pytest.raises(WeightsError, match=r"lacks model-1\.safetensors, model-2\.safetensors"):
        formers.load(shards)


def test_an_index_that_promises_more_than_the_shards_hold_is_refused(shards: Path) -> None:
    path = shards / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({"weight_map": index["weight_map"] | {"more": "model-1.safetensors"}}))
    with pytest.raises(WeightsError, match="lack more"):
        formers.load(shards)
    path.write_text(json.dumps({"weight_map": {"more": "../model-1.safetensors"}}))
    with pytest.raises(WeightsError, match="outside its folder"):
        formers.load(shards)
    path.write_text("{}")
    with pytest.raises(WeightsError, match="has no weight_map"):
        formers.load(shards)


def test_a_tensor_in_two_shards_is_refused(shards: Path) -> None:
    save_file(load_file(shards / "model-1.safetensors"), shards / "model-2.safetensors")
    with pytest.raises(WeightsError, match=r"stands in both model-1\.safetensors and model-2\.safetensors"):
        formers.load(shards)


def test_tensors_are_read_only_when_asked_for(shards: Path) -> None:
    tensors = Tensors(shards, dtype=torch.float64)
    assert len(tensors) == len(small("gpt2").state_dict()) - 1
    first = tensors["transformer.wte.weight"]
    assert first.dtype == torch.float64
    assert tensors["transformer.wte.weight"] is not first


# --- writing ------------------------------------------------------------------------------------------------------------


def test_a_model_folder_is_replaced_and_any_other_is_left_alone(gpt2: Path, tmp_path: Path) -> None:
    other = small("gpt2", seed=5)
    formers.save(other, gpt2)
    assert same_tensors(formers.load(gpt2), other)
    (gpt2 / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match=r"holds files that are no model's: thesis\.tex"):
        formers.save(other, gpt2)
    with pytest.raises(RunError, match="is a file"):
        formers.save(other, gpt2 / "thesis.tex")
    assert (gpt2 / "thesis.tex").read_text() == "years of work"


def test_a_disk_that_refuses_leaves_the_model_that_stood_there(gpt2: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(RunError, match=r"cannot write .*nothing that stood there was changed"):
            formers.save(small("gpt2", seed=5), gpt2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert same_tensors(formers.load(gpt2), small("gpt2"))
    assert [path.name for path in gpt2.parent.iterdir()] == ["gpt2"]


def test_others_may_read_what_is_saved(gpt2: Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in gpt2.iterdir()} == {(gpt2 / "config.json").stat().st_mode & 0o777}


def test_a_setting_that_hugging_face_has_no_word_for_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(FormersError, match="activation='quick_gelu' has no hidden_act"):
        formers.save(small("llama", activation="quick_gelu"), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_compiled_model_is_saved_as_the_one_inside(tmp_path: Path) -> None:
    model = small("gpt2")
    compiled: Any = torch.compile(model, backend="eager")
    assert same_tensors(model, formers.load(formers.save(compiled, tmp_path / "m")))
