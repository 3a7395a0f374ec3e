"""What Hugging Face calls the parts and settings that all versions of DeBERTa have."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from formers.config import ACTIVATION_NAMES, ForeignHeads
from formers.parts.disentangled import TERMS
from formers.parts.disentangled_encoder import decodes
from formers.parts.naming import BlockNames, EncoderNames, MaskedTokenNames
from formers.weights import Ignore, Rename, Rule, Table, Tie

TERM = "attention.score.terms.0"
"""The score term of a block."""
LEGACY = MaskedTokenNames(
    transform="cls.predictions.transform.dense",
    norm="cls.predictions.transform.LayerNorm",
    bias="cls.predictions.bias",
    decoder="cls.predictions.decoder",
)
AUTHORS = MaskedTokenNames(
    transform="lm_predictions.lm_head.dense",
    norm="lm_predictions.lm_head.LayerNorm",
    bias="lm_predictions.lm_head.bias",
    decoder="lm_predictions.lm_head.decoder",
)


# --- weights ----------------------------------------------------------------------------------------------------------


def names(config: Any, project: tuple[str, ...] = ()) -> EncoderNames:
    """Names of the parts. project: query, key and value in a block, where they are three."""
    block = BlockNames(
        project=project,
        mix="attention.output.dense",
        attention_norm="attention.output.LayerNorm",
        expand="intermediate.dense",
        contract="output.dense",
        feed_forward_norm="output.LayerNorm",
    )
    tables = ["tokens", *["places.table"] * config.position_input, *["types"] * (config.num_types > 0)]
    return EncoderNames(
        body="deberta.",
        bare="none",
        block=block,
        layers=[f"encoder.layer.{i}" for i in range(config.num_layers)],
        tables=tables,
        tokens=LEGACY if config.legacy else AUTHORS,
        pooler="pooler.dense",
        outputs={"masked_token": "cls" if config.legacy else "lm_predictions"},
    )


def table(config: Any, theirs: EncoderNames, of_version: Sequence[Rule], shared: Mapping[str, str]) -> Table:
    """The whole table.

    of_version  rules of what only one version has
    shared      tensors of the distances that all layers share, by our names in a score term -> theirs
    """
    prefix, head = theirs.prefix(config.head), config.head
    rules = [*theirs.body_rules(head, config.d_model), *of_version]
    if decodes(config):
        rules.append(Rename("trunk.places.table.weight", f"{prefix}embeddings.position_embeddings.weight"))
    of_head, of_tokens = theirs.head_rules(head)
    ties = list(of_tokens)
    for our, their in shared.items() if config.score_terms else ():
        first, *others = (f"trunk.blocks.{i}.{TERM}.{our}" for i in range(config.num_layers))
        rules.append(Rename(first, prefix + their))
        ties += [Tie(other, first, prefix + their) for other in others]
    return theirs.table(head, rules, of_head, ties, ignored(config))


def ignored(config: Any) -> list[Ignore]:
    """What files of pretrained models hold beside the body and this head."""
    found = [Ignore("mask_predictions.*", "the discriminator of replaced tokens, which version 3 was trained as")]
    if not config.position_input and not decodes(config):
        why = "places that only the enhanced mask decoder reads"
        found.append(Ignore("*embeddings.position_embeddings.weight", why))
    for pattern, read in (("cls.predictions.*", config.legacy), ("lm_predictions.*", not config.legacy)):
        if config.head != "masked_token" or not read:
            found.append(Ignore(pattern, "a head of pretraining, which files of pretrained bodies keep"))
    return found


# --- settings ---------------------------------------------------------------------------------------------------------

CURVE_NAMES = {**ACTIVATION_NAMES, "tanh": "tanh"}
NAMES = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "d_ff",
    "max_position_embeddings": "max_length",
    "type_vocab_size": "num_types",
    "position_biased_input": "position_input",
    "hidden_act": "activation",
    "pooler_hidden_act": "pooler_activation",
    "layer_norm_eps": "eps",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "cls_dropout": "classifier_dropout",
    "initializer_range": "init_std",
    "legacy": "legacy",
}
DEFAULTS = {
    "type_vocab_size": 0,
    "position_biased_input": True,
    "hidden_act": "gelu",
    "pooler_hidden_act": "gelu",
    "layer_norm_eps": 1e-7,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "cls_dropout": None,
    "initializer_range": 0.02,
    "legacy": True,
}
FIXED = {"tie_word_embeddings": True, "talking_head": False, "pooler_dropout": 0, "is_decoder": False}
READ_HERE = frozenset(
    """relative_attention pos_att_type max_relative_positions pooler_hidden_size embedding_size attention_head_size
    padding_idx mask_decoder decoder_steps""".split()
)
"""Settings that are read below, or, as padding_idx, have no effect."""


@dataclass(frozen=True)
class DisentangledForeign(ForeignHeads):
    """Settings of theirs that are written in more than one way, or stand for two of ours.

    The enhanced mask decoder is none of theirs: it is stored under `mask_decoder` and `decoder_steps`, which transformers
    reads past, and its places under the name that the authors' files have for them.
    """

    def read(self, theirs: Mapping[str, Any]) -> dict[str, Any]:
        ours = super().read(theirs)
        reach = theirs.get("max_relative_positions") or -1
        return ours | {
            "score_terms": tuple(term for term in TERMS if term in terms_of(theirs)),
            "max_distance": ours["max_length"] if reach < 1 else reach,
            "mask_decoder": theirs.get("mask_decoder", "none"),
            "decoder_steps": theirs.get("decoder_steps", 2),
        }

    def settle(self, config: Any, names: Collection[str]) -> Any:
        """The authors' files call their head for masked tokens otherwise than their config makes transformers believe."""

        def holds(start: str) -> bool:
            return any(name.startswith(start) for name in names)

        if config.head == "masked_token" and holds("lm_predictions.") and not holds("cls.predictions."):
            return replace(config, legacy=False)
        return config

    def write(self, config: Any) -> dict[str, Any]:
        theirs = super().write(config) | {
            "relative_attention": bool(config.score_terms),
            "pos_att_type": list(config.score_terms),
            "max_relative_positions": config.max_distance,
        }
        if config.mask_decoder != "none":
            theirs |= {"mask_decoder": config.mask_decoder, "decoder_steps": config.decoder_steps}
        return theirs

    def _not_implemented(self, theirs: Mapping[str, Any]) -> list[str]:
        problems = super()._not_implemented({name: v for name, v in theirs.items() if name not in READ_HERE})
        terms, relative = terms_of(theirs), theirs.get("relative_attention", False)
        if set(terms) - set(TERMS) or len(set(terms)) < len(terms) or bool(terms) != bool(relative):
            said = f"pos_att_type={theirs.get('pos_att_type')!r} with relative_attention={relative!r}"
            problems.append(f"{said} is not implemented (known: 'c2p|p2c', one of them, or neither and False)")
        width, heads = theirs.get("hidden_size"), theirs.get("num_attention_heads")
        wanted = {"pooler_hidden_size": width, "embedding_size": width}
        wanted |= {"attention_head_size": width // heads} if isinstance(width, int) and heads else {}
        problems += [
            f"{name}={theirs[name]!r} is not implemented (only {size!r} is, as hidden_size={width!r} has it)"
            for name, size in wanted.items()
            if theirs.get(name) not in (None, size)
        ]
        return problems


def terms_of(theirs: Mapping[str, Any]) -> list[str]:
    """`pos_att_type`, which is a list, or a text with bars, or None."""
    given = theirs.get("pos_att_type") or []
    return [term.strip() for term in given.lower().split("|")] if isinstance(given, str) else list(given)
