"""What Hugging Face calls the settings and tensors of T5 (models/t5.py), both ways, in each of its classes; LongT5's too, which
has classes, a model_type and a setting of its own, and calls the attention of its encoder otherwise."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from formers.config import ForeignHeads
from formers.errors import ConfigError
from formers.weights import Fuse, Ignore, Rename, Rule, Table, Tie, both

ENCODERS = ("encoder", "token")
"""Heads on the encoder alone."""
BODY = "transformer."
"""What stands before names of the body in the two classes that hold one."""

_ACTIVATIONS = {"relu": "relu", "gelu_new": "gelu_tanh", "gelu": "gelu", "silu": "silu", "swish": "silu"}
"""By their names; ``gated-gelu`` means gelu_new."""


_UNREAD = ("n_positions", "global_block_size")
"""Settings that say nothing here: T5 has no longest text, and local attention no global tokens."""


@dataclass(frozen=True)
class _T5Foreign(ForeignHeads):
    """Their `feed_forward_proj` is two settings of ours; what ties the head and what scales it, they mix up.

    long  the same of LongT5, which is what a config with a `local_radius` is called
    """

    long: _T5Foreign | None = None

    @property
    def model_types(self) -> tuple[str, ...]:
        return super().model_types + (() if self.long is None else self.long.model_types)

    def has_a_class_for(self, config: Any) -> bool:
        return self.long is None or config.local_radius is None or config.head in self.long.classes.values()

    def read(self, theirs: Mapping[str, Any]) -> dict[str, Any]:
        """`scale_decoder_outputs` is newer than the files of 1.1, which say it by `tie_word_embeddings`. Of a file that does
        not scale, the names of its tensors tell whether it ties (`settle`): newer ones say True in either case."""
        if self.long is not None and theirs.get("model_type") == self.long.model_type:
            return self.long.read(theirs)
        given = {name: value for name, value in theirs.items() if name not in _UNREAD}
        if self.classes.get(self._class_of(theirs)) in ENCODERS:
            given.pop("is_encoder_decoder", None)  # older files of an encoder alone say True
        stated = [given.pop(name, None) for name in ("feed_forward_proj", "dense_act_fn", "is_gated_act")]
        tie, scale = given.pop("tie_word_embeddings", None), given.pop("scale_decoder_outputs", None)
        ours = super().read(given) | _read_feed_forward(*stated)
        scale = tie is not False if scale is None else scale
        return ours | {"tie": tie is not False and scale, "scale_head": scale}

    def settle(self, config: Any, names: Collection[str]) -> Any:
        settled = config.scale_head or config.head is not None or "lm_head.weight" in names
        return config if settled else replace(config, tie=True)

    def write(self, config: Any) -> dict[str, Any]:
        if self.long is not None and config.local_radius is not None:
            return self.long.write(config)
        named = {ours: theirs for theirs, ours in reversed(_ACTIVATIONS.items())}
        if config.activation not in named:
            raise ConfigError(f"activation={config.activation!r} has no feed_forward_proj", ", ".join(named))
        their = named[config.activation]
        gated_gelu = config.gated and their == "gelu_new"
        return super().write(config) | {
            "feed_forward_proj": "gated-gelu" if gated_gelu else f"gated-{their}" if config.gated else their,
            "num_decoder_layers": config.decoder_layers,
            "tie_word_embeddings": config.tie,
            "scale_decoder_outputs": config.scale_head,
            "pad_token_id": config.start_token,
            "is_encoder_decoder": config.head not in ENCODERS,
        }


def _read_feed_forward(proj: str | None, activation: str | None, gated: bool | None) -> dict[str, Any]:
    """`feed_forward_proj`, and what newer files derive from it beside it."""
    proj = proj or "relu"
    kind, _, rest = proj.rpartition("-")
    name = activation or ("gelu_new" if proj == "gated-gelu" else rest)
    if kind not in ("", "gated") or name not in _ACTIVATIONS or gated not in (None, kind == "gated"):
        found = f"feed_forward_proj={proj!r} with dense_act_fn={activation!r} and is_gated_act={gated!r}"
        raise ConfigError(f"{found} is not implemented", "relu or gated-gelu, or another of " + ", ".join(_ACTIVATIONS))
    return {"activation": _ACTIVATIONS[name], "gated": kind == "gated"}


_T5 = _T5Foreign(
    "t5",
    classes={
        "T5ForConditionalGeneration": None,
        "T5WithLMHeadModel": None,  # its name in the first files
        "T5Model": "none",
        "T5EncoderModel": "encoder",
        "T5ForSequenceClassification": "sequence",
        "T5ForTokenClassification": "token",
        "T5ForQuestionAnswering": "span",
    },
    names={
        "vocab_size": "vocab_size",
        "d_model": "d_model",
        "num_layers": "num_layers",
        "num_decoder_layers": "num_decoder_layers",
        "num_heads": "num_heads",
        "d_kv": "d_head",
        "d_ff": "d_ff",
        "relative_attention_num_buckets": "num_buckets",
        "relative_attention_max_distance": "max_distance",
        "layer_norm_epsilon": "eps",
        "dropout_rate": "dropout",
        "classifier_dropout": "classifier_dropout",
        "initializer_factor": "init_factor",
        "decoder_start_token_id": "start_token",
        "eos_token_id": "end_token",
    },
    fixed={"is_encoder_decoder": True, "is_decoder": False},
    defaults={
        "num_decoder_layers": None,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "dropout_rate": 0.1,
        "classifier_dropout": 0.0,
        "initializer_factor": 1.0,
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
    },
)
_LONG = replace(
    _T5,
    model_type="longt5",
    classes={"LongT5ForConditionalGeneration": None, "LongT5Model": "none", "LongT5EncoderModel": "encoder"},
    names={**_T5.names, "local_radius": "local_radius"},
    fixed={**_T5.fixed, "encoder_attention_type": "local"},
    defaults={**_T5.defaults, "local_radius": 127},
)
FOREIGN = replace(_T5, long=_LONG)


def weights(config: Any) -> Table:
    """Our tensors and those of the class of Hugging Face that has this head."""
    body = prefix(config)
    stacks = {"encoder": ("encoder", config.num_layers)}
    if config.head not in ENCODERS:
        stacks["trunk"] = ("decoder", config.decoder_layers)
    rules: list[Rule] = [Rename("tokens.weight", f"{body}shared.weight")]
    ties = [Tie("tokens.weight", "tokens.weight", f"{body}{their}.embed_tokens.weight") for their, _ in stacks.values()]
    for our, (name, layers) in stacks.items():
        their = body + name
        rules += [rule for i in range(layers) for rule in _block(config, our, their, i)]
        rules.append(Rename(f"{our}.final_norm.weight", f"{their}.final_layer_norm.weight"))
        table = "attention.score.terms.0.table.weight", f"layer.0.{own(config, our)}.relative_attention_bias.weight"
        rules.append(Rename(f"{our}.blocks.0.{table[0]}", f"{their}.block.0.{table[1]}"))
        ties += [
            Tie(f"{our}.blocks.{i}.{table[0]}", f"{our}.blocks.0.{table[0]}", f"{their}.block.{i}.{table[1]}")
            for i in range(1, layers)
        ]
    head = [rule for our, their in HEADS[config.head].items() for rule in both(our, their)]
    if config.head is None and config.tie:
        ties.append(Tie("head.linear.weight", "tokens.weight", "lm_head.weight"))
    elif config.head is None:
        head.append(Rename("head.linear.weight", "lm_head.weight"))
    return Table(
        (*rules, *head),
        tuple(ties),
        ignored(config.head, body),
        optional_prefix=body,
        unprefixed=("lm_head.weight", *(name for rule in head for name in rule.theirs)),
        extra_prefix="" if body else BODY,
    )


HEADS: dict[str | None, dict[str, str]] = {
    None: {},
    "none": {},
    "encoder": {},
    "sequence": {"head.dense": "classification_head.dense", "head.linear": "classification_head.out_proj"},
    "token": {"head.linear": "classifier"},
    "span": {"head.linear": "qa_outputs"},
}
"""Our maps of every head and theirs, but for the map to the next token, which may be the embedding."""


def own(config: Any, our: str) -> str:
    """What the attention of a stack to itself is called."""
    return "SelfAttention" if config.local_radius is None or our != "encoder" else "LocalSelfAttention"


def prefix(config: Any) -> str:
    """What stands before names of the body: most of their classes are the body themselves."""
    return BODY if config.head in ("sequence", "token") else ""


def ignored(head: str | None, body: str) -> tuple[Ignore, ...]:
    """What files hold beside the model."""
    unused = f"{body}decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    found = [Ignore(unused, "distances to a source mean nothing: no code reads this table of the authors' files")]
    if head in ENCODERS:
        found.append(Ignore(f"{body}decoder.*", "the decoder of a file of both, of which the encoder alone is read"))
    if head is not None:
        found.append(Ignore("lm_head.weight", "the map to the next token of files of pretrained models"))
    return tuple(found)


def _block(config: Any, our: str, their: str, i: int) -> list[Rule]:
    """One block of the encoder or the decoder."""
    ours, norms, theirs = f"{our}.blocks.{i}", f"{our}.norms.{i}", f"{their}.block.{i}.layer"
    width, maps = config.num_heads * config.d_head, f"{theirs}.0.{own(config, our)}"
    names = {"attention": 0, "feed_forward": 1} if our == "encoder" else {"attention": 0, "cross": 1, "feed_forward": 2}
    rules: list[Rule] = [
        Rename(f"{norms}.{n}.weight", f"{theirs}.{place}.layer_norm.weight") for n, place in names.items()
    ]
    three = tuple(f"{maps}.{part}.weight" for part in "qkv")
    rules.append(Fuse(f"{ours}.attention.project.linear.weight", three, (width,) * 3))
    rules.append(Rename(f"{ours}.attention.mix.linear.weight", f"{maps}.o.weight"))
    if "cross" in names:
        maps = f"{theirs}.1.EncDecAttention"
        rules.append(Rename(f"{ours}.cross.project.linear.weight", f"{maps}.q.weight"))
        two = f"{maps}.k.weight", f"{maps}.v.weight"
        rules.append(Fuse(f"{ours}.cross.project.source.weight", two, (width,) * 2))
        rules.append(Rename(f"{ours}.cross.mix.linear.weight", f"{maps}.o.weight"))
    feed = {"gate": "wi_0", "expand": "wi_1", "contract": "wo"} if config.gated else {"expand": "wi", "contract": "wo"}
    feed_forward = f"{theirs}.{names['feed_forward']}.DenseReluDense"
    rules += [Rename(f"{ours}.feed_forward.{n}.weight", f"{feed_forward}.{t}.weight") for n, t in feed.items()]
    return rules


def activations(config: Any) -> list[tuple[str, str]]:
    """Modules whose outputs mean the same in ours and in Hugging Face's, in the order they run."""
    pairs, body = [], prefix(config)
    stacks = [("encoder", f"{body}encoder", config.num_layers)]
    stacks += [] if config.head in ENCODERS else [("trunk", f"{body}decoder", config.decoder_layers)]
    for our, their, layers in stacks:
        names = {
            "attention": f"{own(config, our)}.o",
            "cross": "EncDecAttention.o",
            "feed_forward": "DenseReluDense.wo",
        }
        if our == "encoder":
            del names["cross"]
        for i in range(layers):
            for place, (name, last) in enumerate(names.items()):
                map_of = "contract" if name == "feed_forward" else "mix.linear"
                theirs = f"{their}.block.{i}.layer.{place}"
                pairs.append((f"{our}.norms.{i}.{name}", f"{theirs}.layer_norm"))
                pairs.append((f"{our}.blocks.{i}.{name}.{map_of}", f"{theirs}.{last}"))
        pairs.append((f"{our}.final_norm", f"{their}.final_layer_norm"))
    heads = {None: "lm_head", "sequence": "classification_head", "token": "classifier", "span": "qa_outputs"}
    return [*pairs, ("head", heads[config.head])] if config.head in heads else pairs
