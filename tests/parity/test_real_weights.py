"""Two small models that other people trained, with the weights as their authors publish them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from formers.laws.blame import traced
from formers.models import gpt2, llama
from formers.parts.taps import listen

FIXTURES = Path(__file__).parent.parent / "fixtures"
RECORDED = 1e-5
"""Their activations were recorded in float32 by another implementation: a few roundings apart."""


# --- gpt_nano_sort: a GPT-2 that sorts six letters, and every activation of one batch --------------------------------


@pytest.fixture(scope="module")
def sorter() -> tuple[gpt2.GPT2, dict[str, Tensor]]:
    """The model, and the recorded activations by name."""
    stored = load_file(FIXTURES / "gpt_nano_sort" / "model.safetensors")
    weights = {name.removeprefix("weights."): t for name, t in stored.items() if name.startswith("weights.")}
    recorded = {name.removeprefix("recorded."): t for name, t in stored.items() if name.startswith("recorded.")}
    maps = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # stored [out, in], where GPT-2's own files have [in, out]
    weights = {name: t.T if name.endswith(maps) else t for name, t in weights.items()}
    config = gpt2.GPT2Config(vocab_size=3, d_model=48, num_layers=3, num_heads=3, max_length=11, tie=False)
    model = gpt2.GPT2(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    model.load_state_dict(gpt2.weights(config).read(weights, shapes))
    return model.eval(), recorded


def test_every_recorded_activation_of_the_sorter_is_reproduced(sorter: tuple[gpt2.GPT2, dict[str, Tensor]]) -> None:
    model, recorded = sorter
    with torch.no_grad(), traced(model) as calls, listen(model, "*.pattern", "*.neurons", "*.heads"):
        logits = model(recorded["idx"].long()).logits
    outputs = {call.name: call.outputs for call in calls}
    ours = {name: found[""] for name, found in outputs.items() if "" in found}
    project = outputs["trunk.blocks.0.attention.project"]
    block = "trunk.blocks.0"
    found = {
        "tok_emb": ours["tokens"],
        "pos_emb": ours["places"],
        "x": ours["tokens"] + ours["places"],
        "ln1": ours["trunk.norms.0.attention"],
        "qkv": ours[f"{block}.attention.project.linear"],
        "q": project[".0"],
        "k": project[".1"],
        "v": project[".2"],
        "attSm": ours[f"{block}.attention.pattern"],
        "y": ours[f"{block}.attention.heads"].transpose(1, 2).flatten(2),
        "yProj": ours[f"{block}.attention.mix.linear"],
        "ln2": ours["trunk.norms.0.feed_forward"],
        "fc": ours[f"{block}.feed_forward.expand"],
        "gelu": ours[f"{block}.feed_forward.neurons"],
        "mlp": ours[f"{block}.feed_forward.contract"],
        **{f"block{i}": ours[f"trunk.stream.{i}"] for i in range(3)},
        "mlpResid": ours["trunk.stream.0"],
        "ln_f": ours["trunk.final_norm"],
        "lm_head": logits,
        "probs": logits.softmax(-1),
    }
    found["attnResid"] = found["x"] + found["yProj"]
    scores = found["q"] @ found["k"].mT / 4  # before the mask; 4 is the root of d_head
    seen = torch.ones(11, 11, dtype=torch.bool).tril()
    found["att"] = torch.where(seen, scores, recorded["att"])
    assert recorded.keys() - found.keys() == {"idx"}
    gaps = {name: float((found[name] - recorded[name])[recorded[name].isfinite()].abs().max()) for name in found}
    assert {name: gap for name, gap in gaps.items() if not gap <= RECORDED} == {}


def test_the_sorter_sorts(sorter: tuple[gpt2.GPT2, dict[str, Tensor]]) -> None:
    model, _ = sorter
    letters = torch.cartesian_prod(*[torch.arange(3)] * 6)
    ids, state = letters, model.init_state(len(letters), 11)
    chosen = []
    with torch.no_grad():
        for _ in range(6):
            out = model(ids, state=state)
            state, ids = out.state.commit(), out.logits[:, -1:].argmax(-1)
            chosen.append(ids)
    right = (torch.cat(chosen, 1) == letters.sort(-1).values).all(-1).float().mean()
    assert right > 0.99


# --- stories260k: a Llama that tells stories -------------------------------------------------------------------------

CONFIG = llama.LlamaConfig(
    vocab_size=512, d_model=64, num_layers=5, num_heads=8, num_kv_heads=4, d_ff=172, max_length=512, eps=1e-5, tie=True
)
FIRST = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
BEGIN, END = 1, 2


def halves(rows: Tensor, d_head: int) -> Tensor:
    """Rows of a query or key map, whose pairs that turn together stand side by side, with each pair d_head / 2 apart."""
    return rows.unflatten(0, (-1, d_head // 2, 2)).transpose(1, 2).reshape(rows.shape)


def story_teller() -> llama.Llama:
    stored = {
        name: tensor.float() for name, tensor in load_file(FIXTURES / "stories260k" / "model.safetensors").items()
    }
    theirs = {"model.embed_tokens.weight": stored["tok_embeddings"], "model.norm.weight": stored["norm"]}
    names = {
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "wq": "self_attn.q_proj",
        "wk": "self_attn.k_proj",
        "wv": "self_attn.v_proj",
        "wo": "self_attn.o_proj",
        "w1": "mlp.gate_proj",
        "w2": "mlp.down_proj",
        "w3": "mlp.up_proj",
    }
    for name, their in names.items():
        for i, rows in enumerate(stored[name]):
            turned = halves(rows, CONFIG.head_width) if name in ("wq", "wk") else rows
            theirs[f"model.layers.{i}.{their}.weight"] = turned
    model = llama.Llama(CONFIG)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    model.load_state_dict(llama.weights(CONFIG).read(theirs, shapes))
    return model.eval()


def decode(ids: list[int]) -> str:
    """The pieces joined; a piece like ``<0x0A>`` is a byte."""
    pieces = json.loads((FIXTURES / "stories260k" / "vocabulary.json").read_text(encoding="utf-8"))
    raw = b""
    for piece in (pieces[i] for i in ids):
        byte = re.fullmatch(r"<0x([0-9A-F]{2})>", piece)
        raw += bytes([int(byte[1], 16)]) if byte else piece.encode()
    return raw.decode()


@torch.no_grad()
def tell(model: llama.Llama, length: int) -> list[int]:
    ids, state, told = torch.tensor([[BEGIN]]), model.init_state(1, length), []
    for _ in range(length):
        out = model(ids, state=state)
        state, ids = out.state.commit(), out.logits[:, -1:].argmax(-1)
        told.append(int(ids))
    return told


def test_the_story_teller_tells_its_story() -> None:
    story = decode(tell(story_teller(), 130)).strip()
    assert story.startswith(FIRST)
    assert "Lily's mom said" in story


def test_without_the_turned_rows_there_is_no_story(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.parity.test_real_weights.halves", lambda rows, d_head: rows)
    assert FIRST not in decode(tell(story_teller(), 40))
