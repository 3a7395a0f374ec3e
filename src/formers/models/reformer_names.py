"""What Hugging Face calls the settings and the tensors of Reformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from formers.config import ACTIVATION_NAMES, ForeignHeads
from formers.parts.feed_forward import name_in_chunks
from formers.weights import Fuse, Ignore, Rename, Reshape, Rule, Table, Tie, both

_KINDS = ("local", "lsh", "local", "lsh", "local", "lsh")
_GRID = ("axial_pos_embds", "axial_pos_shape", "axial_pos_embds_dim")
_OWN = ("attn_layers", "num_hidden_layers", *_GRID, "num_buckets", "is_decoder")
"""Settings that mean one of ours only together, or are lists."""
_OLD = ("attention_probs_dropout_prob", "num_chunks_after", "num_chunks_before")
"""Settings of published files that no code reads."""


@dataclass(frozen=True)
class _ReformerForeign(ForeignHeads):
    def read(self, theirs: Mapping[str, Any]) -> dict[str, Any]:
        kinds = tuple(theirs.get("attn_layers") or _KINDS)
        ours = super().read({name: value for name, value in theirs.items() if name not in (*_OWN, *_OLD)})
        shape = tuple(theirs.get("axial_pos_shape") or (64, 64)) if theirs.get("axial_pos_embds", True) else None
        widths = tuple(theirs.get("axial_pos_embds_dim") or (64, 192))
        causal = bool(theirs.get("is_decoder", False))
        if not theirs.get("architectures") and not causal:
            ours["head"] = "masked_token"  # of a config alone: what reads both sides is no model of the next token
        buckets = theirs.get("num_buckets")
        return ours | {
            "layers": _period(kinds),
            "num_layers": len(kinds),
            "axial_shape": shape,
            "axial_widths": widths if shape else (64, 192),
            "num_buckets": tuple(buckets) if isinstance(buckets, list | tuple) else buckets,
            "causal": None if causal == (ours["head"] is None) else causal,
        }

    def write(self, config: Any) -> dict[str, Any]:
        buckets = config.num_buckets
        theirs = super().write(config) | {
            "attn_layers": list(config.kinds),
            "num_hidden_layers": config.num_layers,
            "axial_pos_embds": config.axial_shape is not None,
            "num_buckets": list(buckets) if isinstance(buckets, tuple) else buckets,
            "is_decoder": config.is_causal,
        }
        if config.axial_shape is not None:
            shape = {"axial_pos_shape": config.axial_shape, "axial_pos_embds_dim": config.axial_widths}
            theirs |= {name: list(value) for name, value in shape.items()}
        return theirs


def _period(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """The shortest beginning that the rest repeats."""
    sizes = range(1, len(kinds) + 1)
    return next(kinds[:n] for n in sizes if all(kind == kinds[i % n] for i, kind in enumerate(kinds)))


FOREIGN = _ReformerForeign(
    "reformer",
    classes={
        "ReformerModelWithLMHead": None,
        "ReformerForMaskedLM": "masked_token",
        "ReformerForSequenceClassification": "sequence",
        "ReformerForQuestionAnswering": "span",
        "ReformerModel": "none",
    },
    names={
        "vocab_size": "vocab_size",
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "attention_head_size": "d_head",
        "feed_forward_size": "d_ff",
        "max_position_embeddings": "max_length",
        "num_hashes": "rounds",
        "hash_seed": "hash_seed",
        "lsh_attn_chunk_length": "lsh_chunk",
        "lsh_num_chunks_before": "lsh_before",
        "lsh_num_chunks_after": "lsh_after",
        "local_attn_chunk_length": "local_chunk",
        "local_num_chunks_before": "local_before",
        "local_num_chunks_after": "local_after",
        "hidden_act": "activation",
        "layer_norm_eps": "eps",
        "hidden_dropout_prob": "dropout",
        "lsh_attention_probs_dropout_prob": "lsh_dropout",
        "local_attention_probs_dropout_prob": "local_dropout",
        "classifier_dropout": "classifier_dropout",
        "initializer_range": "init_std",
        "axial_norm_std": "axial_std",
    },
    values={"activation": ACTIVATION_NAMES},
    fixed={"chunk_size_lm_head": 0, "chunk_size_feed_forward": 0, "tie_word_embeddings": False},
    defaults={
        "vocab_size": 320,
        "hidden_size": 256,
        "num_attention_heads": 12,
        "attention_head_size": 64,
        "feed_forward_size": 512,
        "max_position_embeddings": 4096,
        "num_hashes": 1,
        "hash_seed": None,
        "lsh_attn_chunk_length": 64,
        "lsh_num_chunks_before": 1,
        "lsh_num_chunks_after": 0,
        "local_attn_chunk_length": 64,
        "local_num_chunks_before": 1,
        "local_num_chunks_after": 0,
        "hidden_act": "relu",
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.05,
        "lsh_attention_probs_dropout_prob": 0.0,
        "local_attention_probs_dropout_prob": 0.05,
        "classifier_dropout": None,
        "initializer_range": 0.02,
        "axial_norm_std": 1.0,
    },
    only={"rules": "transformers", "full_below": 0, "local_heads": 0, "memory_layers": ()},
)

HEADS: dict[str | None, dict[str, str]] = {
    "sequence": {"head.pool.linear": "classifier.dense", "head.linear": "classifier.out_proj"},
    "span": {"head.linear": "qa_outputs"},
}
"""Our maps of heads and theirs, but for the map to tokens, whose bias stands beside it."""


def weights(config: Any) -> Table:
    """Our tensors and those of the class of Hugging Face that has this head."""
    body, width = prefix(config), config.num_heads * config.d_head
    rules: list[Rule] = [Rename("tokens.weight", f"{body}embeddings.word_embeddings.weight")]
    rules += _places(config, f"{body}embeddings.position_embeddings")
    feed_forward = name_in_chunks("feed_forward", config.ff_chunks)
    for i, kind in enumerate(config.kinds):
        ours, norms, theirs = f"trunk.blocks.{i}", f"trunk.norms.{i}", f"{body}encoder.layers.{i}"
        maps = ("query_key", "value") if kind == "lsh" else ("query", "key", "value")
        parts = tuple(f"{theirs}.attention.self_attention.{part}.weight" for part in maps)
        rules.append(Fuse(f"{ours}.attention.project.linear.weight", parts, (width,) * len(parts)))
        rules.append(Rename(f"{ours}.attention.mix.linear.weight", f"{theirs}.attention.output.dense.weight"))
        rules += both(f"{norms}.attention", f"{theirs}.attention.layer_norm")
        rules += both(f"{norms}.feed_forward", f"{theirs}.feed_forward.layer_norm")
        rules += both(f"{ours}.{feed_forward}.expand", f"{theirs}.feed_forward.dense.dense")
        rules += both(f"{ours}.{feed_forward}.contract", f"{theirs}.feed_forward.output.dense")
    rules += both("trunk.final_norm", f"{body}encoder.layer_norm")
    head, ties = _head(config)
    return Table(
        (*rules, *head),
        ties,
        ignored(config.head),
        optional_prefix=body,
        unprefixed=tuple(name for rule in head for name in rule.theirs) + tuple(tie.their for tie in ties),
        extra_prefix="" if body else BODY,
    )


BODY = "reformer."


def prefix(config: Any) -> str:
    """What stands before names of the body in the class of this head."""
    return "" if config.head == "none" else BODY


def _places(config: Any, theirs: str) -> list[Rule]:
    if config.axial_shape is None:
        return [Rename("places.table.weight", f"{theirs}.embedding.weight")]
    (rows, columns), (wide, wider) = config.axial_shape, config.axial_widths
    return [
        Reshape("places.rows.weight", f"{theirs}.weights.0", (rows, wide), (rows, 1, wide)),
        Reshape("places.columns.weight", f"{theirs}.weights.1", (columns, wider), (1, columns, wider)),
    ]


def _head(config: Any) -> tuple[list[Rule], tuple[Tie, ...]]:
    if config.head in (None, "masked_token"):
        rules: list[Rule] = [Rename("head.linear.weight", "lm_head.decoder.weight")]
        again = Tie("head.linear.bias", "head.linear.bias", "lm_head.decoder.bias")
        return [*rules, Rename("head.linear.bias", "lm_head.bias")], (again,)
    return [rule for pair in HEADS.get(config.head, {}).items() for rule in both(*pair)], ()


def ignored(head: str | None) -> tuple[Ignore, ...]:
    """What files hold beside the model."""
    found = [Ignore("*mask_value_float*", "constants, stored as buffers by older files")]
    if head not in (None, "masked_token"):
        found.append(Ignore("lm_head.*", "the map to tokens, which files of pretrained bodies keep"))
    return tuple(found)


def activations(config: Any) -> list[tuple[str, str]]:
    """Modules whose outputs mean the same in ours and in Hugging Face's, in the order they run."""
    body = prefix(config)
    feed_forward = name_in_chunks("feed_forward", config.ff_chunks)
    pairs = [("tokens", f"{body}embeddings.word_embeddings"), ("places", f"{body}embeddings.position_embeddings")]
    for i in range(config.num_layers):
        ours, norms, theirs = f"trunk.blocks.{i}", f"trunk.norms.{i}", f"{body}encoder.layers.{i}"
        pairs += [
            (f"{norms}.attention", f"{theirs}.attention.layer_norm"),
            (f"{ours}.attention.mix.linear", f"{theirs}.attention.output.dense"),
            (f"{norms}.feed_forward", f"{theirs}.feed_forward.layer_norm"),
            (f"{ours}.{feed_forward}.expand", f"{theirs}.feed_forward.dense.dense"),
            (f"{ours}.{feed_forward}.contract", f"{theirs}.feed_forward.output.dense"),
        ]
    outputs = {
        None: "lm_head.decoder",
        "masked_token": "lm_head.decoder",
        "sequence": "classifier",
        "span": "qa_outputs",
    }
    last = [("trunk.final_norm", f"{body}encoder.layer_norm")]
    return pairs + last + ([("head", outputs[config.head])] if config.head in outputs else [])
