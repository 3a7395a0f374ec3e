"""Frozen dataclasses to JSON and back, strictly: every unknown, missing or ill-typed field is reported at once."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from formers.errors import ConfigError, suggest

C = TypeVar("C")


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass (nested ones included) as plain JSON values; tuples become lists."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def from_dict(kind: type[C], data: Mapping[str, Any]) -> C:
    """The dataclass `kind` from JSON values. Raises ConfigError that lists every problem."""
    problems: list[str] = []
    value = _build(kind, data, kind.__name__, problems)
    _raise(problems, kind)
    return value


def replace(config: C, **changes: Any) -> C:
    """`dataclasses.replace` that checks names and types and suggests the name that was meant."""
    if not changes:
        return config
    problems: list[str] = []
    hints = typing.get_type_hints(type(config))
    known = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    values = {}
    for name, value in changes.items():
        if name not in known:
            problems.append(_unknown(name, known))
        else:
            values[name] = _convert(hints[name], value, name, problems)
    _raise(problems, type(config))
    return dataclasses.replace(config, **values)  # type: ignore[type-var]


def below_one(config: Any, names: Sequence[str]) -> list[str]:
    """A problem for each of the named settings that is less than 1."""
    return [f"{name} is {getattr(config, name)}, wanted at least 1" for name in names if getattr(config, name) < 1]


def uneven_heads(config: Any, remedy: str = "") -> list[str]:
    """The problem of a d_model that num_heads does not divide. A num_heads below 1 is a problem of its own."""
    if config.num_heads < 1 or config.d_model % config.num_heads == 0:
        return []
    return [f"d_model {config.d_model} is not a multiple of num_heads {config.num_heads}{remedy}"]


def unknown_activation(config: Any, known: Collection[str]) -> list[str]:
    """The problem of an `activation` that is none of the known ones."""
    return [] if config.activation in known else [f"activation {config.activation!r} is none of {', '.join(known)}"]


def unknown_layers(config: Any, name: str) -> list[str]:
    """The problem of a setting that lists layers, counted from 0: each once, and each there."""
    layers = getattr(config, name)
    if all(0 <= i < config.num_layers for i in layers) and len(set(layers)) == len(layers):
        return []
    return [f"{name} are {layers}, wanted different ones of 0 to {config.num_layers - 1}"]


def out_of_range(config: Any) -> list[str]:
    """A problem for each share that is dropped and lies beyond 0 to 1, and for a negative deviation of the first weights."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    shares = {name: value for name, value in values.items() if name.endswith("dropout") and value is not None}
    problems = [f"{name} is {value}, wanted 0 to 1" for name, value in shares.items() if not 0 <= value <= 1]
    std = values.get("init_std") or 0
    return problems if std >= 0 else [*problems, f"init_std is {std}, wanted at least 0"]


def uneven_buckets(config: Any) -> list[str]:
    """The problem of buckets of distances that cannot be: half of them are exact, the others reach to max_distance."""
    if config.num_buckets < 2:
        return [f"num_buckets is {config.num_buckets}, wanted at least 2"]
    exact = config.num_buckets // 2
    return [f"max_distance is {config.max_distance}, wanted more than half of num_buckets, {exact}"] * (
        config.max_distance <= exact
    )


TWO_LABELS = ("pair", "pretraining", "span")
"""Heads that label with two labels, whatever the model: next or not, in order or swapped, start and end."""


def head_problems(config: Any, heads: Sequence[str]) -> list[str]:
    """What is wrong with the settings `head`, `num_labels` and `labels` of a model that may have one of `heads`."""
    head, num_labels, labels = config.head, config.num_labels, config.labels
    problems = [] if head in heads else [f"head {head!r} is none of {', '.join(heads)}"]
    problems += below_one(config, ["num_labels"])
    if head in TWO_LABELS and num_labels != 2:
        problems.append(f"head {head!r} has 2 labels, num_labels is {num_labels}")
    if labels and len(labels) != num_labels:
        problems.append(f"num_labels is {num_labels}, labels names {len(labels)}: {', '.join(labels)}")
    return problems


def require(kind: str, problems: list[str]) -> None:
    """Called from ``__post_init__`` with the problems that were found; raises them all at once."""
    _raise(problems, kind)


def _raise(problems: list[str], kind: type | str) -> None:
    if problems:
        name = kind if isinstance(kind, str) else kind.__name__
        raise ConfigError(f"{name}: " + "; ".join(problems), do="correct the settings named above")


def _unknown(name: str, known: list[str]) -> str:
    hint = suggest(name, known)
    return f"unknown setting {name!r} ({hint or 'known: ' + ', '.join(known)})"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _build(kind: Any, data: Any, where: str, problems: list[str]) -> Any:
    if not isinstance(data, Mapping):
        problems.append(f"{where} is {data!r}, wanted an object")
        return None
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    before = len(problems)
    problems.extend(f"{where}: {_unknown(name, list(fields))}" for name in data if name not in fields)
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _convert(hints[name], data[name], f"{where}.{name}", problems)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"{where}: {name!r} is missing")
    return kind(**values) if len(problems) == before else None


def _convert(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    """`value` as the type `hint` says; a JSON list becomes a tuple, an int may stand for a float."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, where, problems)
    if origin is typing.Literal:
        return value if value in args else _complain(problems, where, value, " | ".join(map(repr, args)))
    if origin is tuple and isinstance(value, list | tuple):
        inner = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
        if len(inner) != len(value):
            return _complain(problems, where, value, f"{len(inner)} values")
        return tuple(
            _convert(h, v, f"{where}[{i}]", problems) for i, (h, v) in enumerate(zip(inner, value, strict=True))
        )
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else _build(hint, value, where, problems)  # type: ignore[arg-type]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, bool):
        return _complain(problems, where, value, "int")
    kind = origin or hint
    return value if isinstance(value, kind) else _complain(problems, where, value, getattr(kind, "__name__", str(kind)))


def _convert_union(args: tuple[Any, ...], value: Any, where: str, problems: list[str]) -> Any:
    if value is None and type(None) in args:
        return None
    tried: list[str] = []
    for hint in (a for a in args if a is not type(None)):
        attempt: list[str] = []
        converted = _convert(hint, value, where, attempt)
        if not attempt:
            return converted
        tried.extend(attempt)
    problems.extend(tried)
    return None


def _complain(problems: list[str], where: str, value: Any, wanted: str) -> None:
    problems.append(f"{where} is {value!r}, wanted {wanted}")


# --- settings of other people's configs -------------------------------------------------------------------------------

WITHOUT_EFFECT = frozenset(
    """architectures auto_map bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id mask_token_id unk_token_id
    decoder_start_token_id dtype torch_dtype transformers_version use_cache output_attentions output_hidden_states
    return_dict id2label label2id num_labels finetuning_task problem_type task_specific_params tokenizer_class prefix
    summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout n_ctx gradient_checkpointing
    torchscript use_bfloat16 remove_invalid_values name_or_path is_decoder pretraining_tp initializer_range
    is_llama_config transformers.js_config output_past return_dict_in_generate tf_legacy_loss
    do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p min_length max_length
    repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences
    forced_bos_token_id forced_eos_token_id exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
    directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type
    language name sbert_ce_default_activation_function sentence_transformers
    """.split()
)
"""Settings of Hugging Face configs that change no number of a forward or backward pass of ours: names, formats, the settings
of generation that older files keep here, what Google's files of BERT say of a pooler that no code has, and notes of others."""


ONE_VALUE = {
    "add_cross_attention": False,
    "chunk_size_feed_forward": 0,
    "is_encoder_decoder": False,
    "output_scores": False,
    "pruned_heads": {},
    "rope_interleaved": False,
    "tie_encoder_decoder": False,
}
"""Settings that any Hugging Face config may hold, with the one value that is implemented."""


ACTIVATION_NAMES = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Hugging Face's names of activation functions -> ours. Of two that mean the same the first is written."""


@dataclasses.dataclass(frozen=True)
class Foreign:
    """How a reference's config maps to ours, both ways.

    names    their setting -> ours
    values   our setting -> {their value: our value}, where values differ too
    fixed    their settings that we implement for one value only; a config may leave them out
    defaults their default of a setting that a config may leave out
    class_name  the class of theirs that opens such a folder, what ``architectures`` names
    only     our setting -> the one value that makes a model theirs; any other is a model that they have no class for
    """

    model_type: str
    names: Mapping[str, str]
    values: Mapping[str, Mapping[Any, Any]] = dataclasses.field(default_factory=dict)
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    class_name: str = ""
    only: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def model_types(self) -> tuple[str, ...]:
        """Every model_type that is read."""
        return (self.model_type,)

    def has_a_class_for(self, config: Any) -> bool:
        """Whether a model of this config is theirs, too."""
        return all(getattr(config, ours) == value for ours, value in self.only.items())

    def read(self, theirs: Mapping[str, Any]) -> dict[str, Any]:
        """Our settings from theirs. Raises ConfigError listing every setting that is not implemented."""
        problems = self._not_implemented(theirs)
        ours = {}
        for their, our in self.names.items():
            if their not in theirs and their not in self.defaults:
                problems.append(f"{their} is missing")
                continue
            value = theirs.get(their, self.defaults.get(their))
            known = self.values.get(our)
            if known is not None and not any(value == wanted for wanted in known):
                problems.append(f"{their}={value!r} is not implemented (known: {', '.join(map(repr, known))})")
            else:
                ours[our] = value if known is None else known[value]
        _raise(problems, f"a {self.model_type} configuration that is not implemented")
        return ours

    def settle(self, config: Any, names: Collection[str]) -> Any:
        """Our config, corrected by what only the `names` of their tensors tell. Here: nothing."""
        return config

    def write(self, config: Any) -> dict[str, Any]:
        """Their settings from our config. Raises ConfigError listing every setting that they have no word for."""
        theirs: dict[str, Any] = {"model_type": self.model_type, **self.fixed}
        problems = []
        for their, our in self.names.items():
            value = _plain(getattr(config, our))
            backwards = {v: k for k, v in reversed(list(self.values.get(our, {}).items()))}
            if backwards and value not in backwards:
                problems.append(f"{our}={value!r} has no {their} (known: {', '.join(map(repr, backwards))})")
            theirs[their] = backwards.get(value, value)
        _raise(problems, f"a {self.model_type} configuration that Hugging Face cannot express")
        return theirs

    def _not_implemented(self, theirs: Mapping[str, Any]) -> list[str]:
        fixed = ONE_VALUE | dict(self.fixed)
        known = self.names.keys() | fixed.keys() | WITHOUT_EFFECT | {"model_type"}
        problems = [
            f"{name}={theirs[name]!r} is not implemented (only {wanted!r} is)"
            for name, wanted in fixed.items()
            if name in theirs and theirs[name] != wanted
        ]
        unknown = [name for name in theirs if name not in known and not name.startswith("_")]
        return problems + [f"{name}={theirs[name]!r} is unknown" for name in unknown if theirs[name] is not None]


@dataclasses.dataclass(frozen=True)
class ForeignHeads(Foreign):
    """A reference with a class for each head, which ``architectures`` names, and names of labels in ``id2label``.

    classes     their class -> our `head`; a folder that names none has the first
    poolerless  our `head` that is a pooler -> what remains in a file of the same class without one
    """

    classes: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    poolerless: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def read(self, theirs: Mapping[str, Any]) -> dict[str, Any]:
        """Our settings from theirs, `head`, `num_labels` and `labels` included."""
        ours = super().read(theirs)
        names = _label_names(theirs)
        unnamed = names == _unnamed(len(names))
        head = self.classes[self._class_of(theirs)]
        return ours | {"head": head, "num_labels": len(names), "labels": () if unnamed else names}

    def write(self, config: Any) -> dict[str, Any]:
        """Their settings from our config, `architectures` included."""
        pooled = {without: head for head, without in self.poolerless.items()}.get(config.head, config.head)
        named = next(theirs for theirs, ours in self.classes.items() if ours == pooled)
        theirs = {"architectures": [named], **super().write(config)}
        names = config.labels or _unnamed(config.num_labels)
        if names != _unnamed(2):  # what a config without labels has
            theirs["id2label"] = {str(i): name for i, name in enumerate(names)}
            theirs["label2id"] = {name: i for i, name in enumerate(names)}
        return theirs

    def settle(self, config: Any, names: Collection[str]) -> Any:
        """Our config, without the pooler that the file does not hold."""
        without = self.poolerless.get(config.head)
        return config if without is None or any("pooler." in name for name in names) else replace(config, head=without)

    def _class_of(self, theirs: Mapping[str, Any]) -> str:
        named = theirs.get("architectures") or list(self.classes)
        return named if isinstance(named, str) else named[0]

    def _not_implemented(self, theirs: Mapping[str, Any]) -> list[str]:
        problems, named = super()._not_implemented(theirs), self._class_of(theirs)
        if named not in self.classes:
            problems.append(f"architectures=[{named!r}] is not implemented (known: {', '.join(self.classes)})")
        if sorted(map(str, theirs.get("id2label") or {})) != sorted(map(str, range(len(theirs.get("id2label") or {})))):
            problems.append(f"id2label={theirs['id2label']!r} does not name the labels 0, 1, ..")
        return problems


def _label_names(theirs: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the labels in their order, of a config that may name or only count them."""
    named = {int(i): str(name) for i, name in (theirs.get("id2label") or {}).items()}
    return tuple(named[i] for i in sorted(named)) or _unnamed(int(theirs.get("num_labels") or 2))


def _unnamed(count: int) -> tuple[str, ...]:
    return tuple(f"LABEL_{i}" for i in range(count))
