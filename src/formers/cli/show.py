"""`formers show`: the tree of modules and what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from formers.cli.console import emit, facts, remark, stdout
from formers.cli.parse import Flag, changed_settings, parse
from formers.comparison.drawing import bars
from formers.files import plain
from formers.hub import targets

if TYPE_CHECKING:
    from rich.tree import Tree

    from formers.inspection.anatomy import Cost, Held, Part

EXAMPLE_CONTEXTS = (256, 1024, 8192)


@dataclass(frozen=True)
class Options:
    """The tree of modules with shapes, parameters, sharing and bytes; operations a token; memory of the state."""

    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
    """A run, a checkpoint folder, gpt2.tiny, or file.py:function."""
    set: tuple[str, ...] = ()
    """NAME=VALUE: settings of the model other than the stored ones, such as memory_storage=int8. Its weights must still fit."""
    distances: Path | None = None
    """Draw to this SVG what the attention of each layer makes of distance alone, its heads averaged."""
    code: str | None = None
    """file.py:function, for a run of a model of your own."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> None:
    options = parse(Options, arguments, "show")
    targets.parse(options.target)
    from formers.inspection.anatomy import cost, tree

    found = targets.resolve(options.target, code=options.code, changes=changed_settings(options.set))
    remark(found.note)
    model = found.model
    root, price = tree(model), cost(model)
    if options.distances is not None:
        _draw_distances(options.target, model, options.distances)
    if options.json:
        config = getattr(model, "config", None)
        described = plain(config) if hasattr(config, "__dataclass_fields__") else None
        return emit({"target": options.target, "config": described, "tree": plain(root), "cost": plain(price)})
    stdout().print(_tree(root))
    stdout().print()
    limit = getattr(getattr(model, "config", None), "max_length", None)
    for title, shares in (("parameters", _weights(root)), ("operations of a token's forward", _work(price, limit))):
        if shares:
            stdout().print("\n".join([title, *(f"  {line}" for line in bars(shares)), ""]), markup=False)
    stdout().print(facts(_facts(root, price, limit)))
    return None


def _draw_distances(target: str, model: Any, out: Path) -> None:
    from formers.comparison.plot import write_chart
    from formers.inspection.distance import chart_by_distance, scores_by_distance

    limit = getattr(getattr(model, "config", None), "max_length", None)
    found = scores_by_distance(model, length=min(128, limit or 128))
    write_chart(chart_by_distance(target, {name: scores.mean(0) for name, scores in found.items()}), out)
    remark(f"drawn: {out}")


DRAWN, DEPTH = 8, 3
"""Parts that the drawing of parameters names, the rest added up; and how many words of a path a part has."""


def _weights(root: Part) -> list[tuple[str, float, str]]:
    """Where the parameters are, the largest part first; layers of one name are added up."""
    sums: dict[str, int] = {}
    for path, count in _holding(root, ()):
        name = ".".join([word for word in path if not word[0].isdigit()][:DEPTH]) or root.name
        sums[name] = sums.get(name, 0) + count
    found = sorted(sums.items(), key=lambda row: -row[1])
    rest = sum(count for _, count in found[DRAWN:])
    named = [*found[:DRAWN], *([("the rest", rest)] if rest else [])]
    return [(name, count / root.parameters, f"{count:,}") for name, count in named if count]


def _holding(part: Part, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], int]]:
    """(path, parameters of its own) of every part that has some; of parts that are alike all together."""
    own = part.parameters - part.alike * sum(child.parameters for child in part.children)
    below = [(where, part.alike * n) for child in part.children for where, n in _holding(child, (*path, child.name))]
    return below + ([(path, own)] if own > 0 else [])


def _work(price: Cost, limit: int | None) -> list[tuple[str, float, str]]:
    """What a token takes with as many tokens before it, beside the most of them."""
    contexts = [n for n in EXAMPLE_CONTEXTS if limit is None or n <= limit] or [limit or EXAMPLE_CONTEXTS[0]]
    if price.attention_per_token is None or not price.products_per_token:
        return []
    most = price.forward(contexts[-1])
    rows = [("products with weights", price.products_per_token)]
    rows += [(f"with attention to {n:,} tokens", price.forward(n)) for n in contexts]
    return [(name, count / most, f"{count:,}") for name, count in rows]


def _tree(part: Part, into: Tree | None = None) -> Tree:
    """A line a module: name, class, parameters, bytes, its own tensors."""
    from rich.text import Text
    from rich.tree import Tree

    label = Text.assemble(part.name, (f"  {part.kind}", "dim"))
    if part.alike > 1:
        label.append(f"  {part.alike} alike, {part.parameters // part.alike:,} each,", "bold")
    if part.runs > 1:
        label.append(f"  run {part.runs} times,", "bold")
    label.append(f"  {part.parameters:,}  {size(part.bytes)}" if part.parameters else "  0")
    for weight in part.weights:
        shape = " x ".join(map(str, weight.shape))
        label.append(f"  {weight.name} [{shape}]", "cyan")
        label.append(f" {weight.dtype}" if weight.dtype != "float32" else "")
        label.append(f" shared with {weight.shared_with}" if weight.shared_with else "", "yellow")
    node = Tree(label) if into is None else into.add(label)
    for child in part.children:
        _tree(child, node)
    return node


def _facts(root: Part, price: Cost, max_length: int | None) -> list[tuple[str, str]]:
    pairs = [
        ("parameters", f"{root.parameters:,} (a tensor that is shared counts once)"),
        ("weights", f"{size(root.bytes)}; training with AdamW holds about {size(root.parameters * 16)} (4 x float32)"),
        (
            "forward, a token",
            f"{price.products_per_token:,} operations of products with weights (2 x rows x columns each)"
            + ", of a token of the source and one of the text together" * (price.source_tokens is not None),
        ),
    ]
    if price.attention_per_token is not None:
        pairs.append(("attention, a token", f"+ {price.attention_per_token:,} x context (4 x heads x d_head x layers)"))
        pairs.append(
            ("", ", ".join(_share(price, n) for n in EXAMPLE_CONTEXTS if max_length is None or n <= max_length))
        )
    pairs.append(("training, a token", "3 x the forward: the backward pass takes twice as many"))
    pairs += [(f"memory, {held.layer}", _memory(held)) for held in price.memories]
    if price.state_bytes is None:
        pairs.append(("state", "none: every call reads the whole text"))
    else:
        pairs.append(
            (
                "state",
                f"{size(price.state_per_token)} a token and row; {size(price.state_bytes)} for {price.state_tokens:,} tokens"
                + (f" and a source of {price.source_tokens:,}" if price.source_tokens else "")
                + (f", at most {size(price.state_bound)}" if price.state_bound is not None else ""),
            )
        )
    pairs.append(("positions", "no limit" if max_length is None else f"{max_length:,}"))
    return pairs


def _memory(held: Held) -> str:
    each = (held.bytes - 8) // held.entries
    beside = each - 2 * held.kv_heads * held.vector_bytes
    return (
        f"{held.bytes:,} bytes a row when full ({size(held.bytes)}): {held.entries:,} entries x ({held.kv_heads} heads x 2 x "
        f"{held.vector_bytes:,} bytes, a key and a value of {held.d_head} numbers, + {beside}, its place, document and number) "
        f"+ 8; a look-up among all of them takes {held.look_up_per_token:,} operations a token"
        + (", and as many for each further row of a batch, whose memories it goes through too" if held.shared else "")
        + (f"; of every {held.stride} tokens one is remembered" if held.stride > 1 else "")
        + (f"; of every {held.query_stride} tokens one looks up" if held.query_stride > 1 else "")
    )


def _share(price: Cost, context: int) -> str:
    attention = price.forward(context) - price.products_per_token
    return f"{100 * attention / price.forward(context):.0f} % of the forward at {context:,}"


def size(count: Any) -> str:
    """Bytes as people read them."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} TB"
