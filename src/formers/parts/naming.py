"""What references call the parts of their encoders, as data: one description makes a model's weight table and the list of
activations that mean the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from formers.weights import Fuse, Ignore, Rename, Rule, Table, Tie, both

LABELS = {"sequence": "classifier", "choice": "classifier", "token": "classifier", "span": "qa_outputs"}
"""Our heads that label -> their map to the labels, which all encoders call alike."""
OLD_NORMS = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
"""How the tensors of norms end in files of TensorFlow's time, and today."""
EMBEDDINGS = {"tokens": "word_embeddings", "places.table": "position_embeddings", "types": "token_type_embeddings"}
"""The tables of a `TextEmbedding`, and what all of them are called there."""
STORED_POSITIONS = Ignore("*embeddings.position_ids", "0, 1, .., stored as a buffer by older files")


@dataclass(frozen=True)
class BlockNames:
    """What a reference calls the maps and norms within a block of attention and feed-forward.

    project  query, key and value, which one map of ours holds; none where the model says otherwise
    """

    mix: str
    attention_norm: str
    expand: str
    contract: str
    feed_forward_norm: str
    project: tuple[str, ...] = ()

    def pairs(self, i: int, theirs: str) -> list[tuple[str, str]]:
        """Our modules of block `i` and theirs of the block that they call `theirs`, in the order they run."""
        ours, norms = f"trunk.blocks.{i}", f"trunk.norms.{i}"
        return [
            (f"{ours}.attention.mix.linear", f"{theirs}.{self.mix}"),
            (f"{norms}.attention", f"{theirs}.{self.attention_norm}"),
            (f"{ours}.feed_forward.expand", f"{theirs}.{self.expand}"),
            (f"{ours}.feed_forward.contract", f"{theirs}.{self.contract}"),
            (f"{norms}.feed_forward", f"{theirs}.{self.feed_forward_norm}"),
        ]

    def rules(self, i: int, theirs: str, d_model: int) -> list[Rule]:
        """Rules of every tensor of block `i`."""
        rules = [rule for pair in self.pairs(i, theirs) for rule in both(*pair)]
        for kind in ("weight", "bias") if self.project else ():
            parts = tuple(f"{theirs}.{part}.{kind}" for part in self.project)
            rules.append(Fuse(f"trunk.blocks.{i}.attention.project.linear.{kind}", parts, (d_model,) * 3))
        return rules


@dataclass(frozen=True)
class EncoderNames:
    """What a reference calls the parts of an encoder.

    body     what stands before every name of the body, but in the class that is the body itself: ``bert.``
    bare     our head that stands for that class
    block    names within a block
    layers   their blocks in our order, by their names within the body
    tokens   names within the head for masked tokens
    pooler   their map of a row's first token, with `body` before it where it is the body's
    tables   which of EMBEDDINGS there are
    pair     their map to the labels of a pair, of heads that were pretrained on pairs
    outputs  our head -> their module that gives its logits, where LABELS does not say it
    repeats  whether blocks are applied several times, so that the stream behind each is not theirs behind a block
    """

    body: str
    bare: str
    block: BlockNames
    layers: Sequence[str]
    tokens: MaskedTokenNames
    pooler: str
    tables: Sequence[str] = tuple(EMBEDDINGS)
    pair: str = ""
    outputs: Mapping[str, str] = field(default_factory=dict)
    repeats: bool = False

    def prefix(self, head: str) -> str:
        """What stands before names of the body in the class of this head."""
        return "" if head in (self.bare, "none") else self.body

    def body_rules(self, head: str, d_model: int) -> list[Rule]:
        """Rules of the embedding and of every block."""
        prefix = self.prefix(head)
        ours_theirs = [(f"embedding.{table}", f"{prefix}embeddings.{EMBEDDINGS[table]}") for table in self.tables]
        rules: list[Rule] = [Rename(f"{our}.weight", f"{their}.weight") for our, their in ours_theirs]
        rules += both("embedding.norm", f"{prefix}embeddings.LayerNorm")
        for i, layer in enumerate(self.layers):
            rules += self.block.rules(i, prefix + layer, d_model)
        return rules

    def head_rules(self, head: str) -> tuple[list[Rule], tuple[Tie, ...]]:
        """Rules and ties of a head's tensors."""
        if head == "masked_token":
            return self.tokens.rules("head"), self.tokens.ties("head")
        if head == "pretraining":
            pair = self._of_row("head.pair", self.pair)
            return self.tokens.rules("head.tokens") + pair, self.tokens.ties("head.tokens")
        if head in ("pair", "sequence", "choice"):
            return self._of_row("head", LABELS.get(head, self.pair)), ()
        theirs = {**LABELS, "pooler": self.pooler.removeprefix(self.body)}
        return both("head.linear", theirs[head]) if head in theirs else [], ()

    def _of_row(self, ours: str, labels: str) -> list[Rule]:
        return both(f"{ours}.pool.linear", self.pooler) + both(f"{ours}.linear", labels)

    def table(
        self, head: str, rules: Iterable[Rule], of_head: Sequence[Rule], ties: Sequence[Tie], ignored: Iterable[Ignore]
    ) -> Table:
        """The table of `rules` of the body and those `of_head`, for files with and without the body's prefix."""
        prefix = self.prefix(head)
        apart = [name for rule in of_head for name in rule.theirs] + [tie.their for tie in ties]
        return Table(
            (*rules, *of_head),
            tuple(ties),
            (STORED_POSITIONS, *ignored),
            optional_prefix=prefix,
            unprefixed=tuple(name for name in apart if not name.startswith(self.body)),
            extra_prefix="" if prefix else self.body,
            old_endings=OLD_NORMS,
        )

    def activations(self, head: str, between: Iterable[tuple[str, str]] = ()) -> list[tuple[str, str]]:
        """Modules whose outputs mean the same in ours and in theirs, in the order they run.

        between  such modules of the body, by their names within it, that stand between embedding and blocks
        """
        prefix = self.prefix(head)
        pairs = [("embedding.tokens", f"{prefix}embeddings.word_embeddings"), ("embedding", f"{prefix}embeddings")]
        pairs += [(our, prefix + their) for our, their in between]
        for i, layer in enumerate(self.layers):
            pairs += self.block.pairs(i, prefix + layer)
            pairs += [] if self.repeats else [(f"trunk.stream.{i}", prefix + layer)]
        outputs = {**LABELS, **self.outputs}
        return [*pairs, ("head", outputs[head])] if head in outputs else pairs


@dataclass(frozen=True)
class MaskedTokenNames:
    """What a reference calls the parts of a head for masked tokens, whose last map is tied to the tokens.

    bias      of that map
    decoder   that map, which files may hold too, with its bias once more
    """

    transform: str
    norm: str
    bias: str
    decoder: str

    def rules(self, ours: str) -> list[Rule]:
        """Rules of the head that we call `ours`."""
        own = both(f"{ours}.transform", self.transform) + both(f"{ours}.norm", self.norm)
        return [*own, Rename(f"{ours}.linear.bias", self.bias)]

    def ties(self, ours: str) -> tuple[Tie, ...]:
        """The map's weight is the tokens'; its bias is one, which some files hold under both names."""
        bias = f"{ours}.linear.bias"
        weight = Tie(f"{ours}.linear.weight", "embedding.tokens.weight", f"{self.decoder}.weight")
        again = f"{self.decoder}.bias"
        return (weight,) if again == self.bias else (weight, Tie(bias, bias, again))
