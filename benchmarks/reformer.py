"""Reformer against transformers' own and reformer-pytorch: a forward, a step of training, memory, and time against length.

Hugging Face's sizes (d_model 256, 12 heads of 64, d_ff 512), chunks of 64, 2 rounds of hashing, float32, dropout 0, causal;
each contestant in a process of its own, in turns. Against transformers layers are local and hashed in turns, as in its default,
and the weights the same; reformer-pytorch has hashed layers alone, so ours has, too. All are reversible. A step is forward,
loss, backward and AdamW, fused on all sides; the vocabulary is 320, so that heads weigh little. Layers are all alike, so a few
stand for all (`--layers`).

The peer: pip install --no-deps reformer-pytorch==1.4.4 axial-positional-embedding local-attention product-key-memory
colt5-attention hyper-connections einops;
it is left out where it is not installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from benchmarks import measure
from benchmarks.measure import compared, contest_options, contest_settings, environment, finish, serve, with_memory

LENGTH, LENGTHS, WANTED = 8192, (1024, 2048, 4096, 8192, 16384), 2.0
D_MODEL, HEADS, D_HEAD, D_FF, CHUNK, ROUNDS, VOCABULARY = 256, 12, 64, 512, 64, 2, 320
MIXED, HASHED = "formers, local and hashed", "formers, hashed"
THEIRS, PEER = "transformers", "reformer-pytorch"


def main() -> None:
    options = contest_options(__doc__ or "", layers_of="model")
    if options.serve:
        whose, what, length = options.serve
        serve_rounds(whose, what, int(length), options.layers)
        return
    from formers.experiments.crossover import slope

    has_peer = importlib.util.find_spec("reformer_pytorch") is not None
    result: dict[str, Any] = {"environment": environment(), "layers": options.layers}
    parts = []
    for what in ("forward", "step"):
        names = (MIXED, THEIRS, HASHED, PEER) if has_peer else (MIXED, THEIRS)
        result[what] = found = contest(what, LENGTH, names, options)
        for ours, theirs in zip(names[::2], names[1::2], strict=True):
            parts.append(f"{what} as {theirs} {compared(found, ours, theirs)} (wanted {WANTED})")
    times = {length: contest("forward", length, (MIXED,), options)["seconds"][MIXED] for length in LENGTHS}
    result["seconds by length"] = times
    result["slope"] = slope(list(times), [min(found) for found in times.values()])
    parts.append(f"slope of time against length {result['slope']:.2f}")
    summary = f"times as fast at {LENGTH:,} tokens, medians with least and most: " + "; ".join(parts)
    finish("reformer", result, summary, options.json)


def contest(what: str, length: int, contestants: tuple[str, ...], options: Any) -> dict[str, Any]:
    """Each in a process of its own; see `measure.contest`."""
    arguments = {who: [*contest_settings(options), "--serve", who, what, str(length)] for who in contestants}
    return measure.contest("benchmarks.reformer", arguments, options.rounds)


# --- a contestant -------------------------------------------------------------------------------------------------------


def serve_rounds(whose: str, what: str, length: int, layers: int) -> None:
    import torch

    model = made(whose, length, layers)
    ids = torch.randint(1, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(0))
    run = (forward if what == "forward" else step)(model, whose, ids)

    serve(lambda: with_memory(run))


def made(whose: str, length: int, layers: int) -> Any:
    if whose == PEER:
        from reformer_pytorch import ReformerLM

        return ReformerLM(
            num_tokens=VOCABULARY, dim=D_MODEL, depth=layers, max_seq_len=length, heads=HEADS, dim_head=D_HEAD,
            bucket_size=CHUNK, n_hashes=ROUNDS, ff_mult=D_FF // D_MODEL, causal=True,
        )  # fmt: skip
    ours = our_model(length, layers, ("lsh",) if whose == HASHED else ("local", "lsh"))
    return their_model(ours) if whose == THEIRS else ours


def our_model(length: int, layers: int, kinds: tuple[str, ...]) -> Any:
    import formers

    return formers.build(
        "reformer", num_layers=layers, layers=kinds, vocab_size=VOCABULARY, d_model=D_MODEL, num_heads=HEADS,
        d_head=D_HEAD, d_ff=D_FF, max_length=length, axial_shape=(64, length // 64), axial_widths=(64, D_MODEL - 64),
        lsh_chunk=CHUNK, local_chunk=CHUNK, rounds=ROUNDS, hash_seed=0, dropout=0.0, local_dropout=0.0,
    )  # fmt: skip


def their_model(ours: Any) -> Any:
    """transformers' model with our weights. Raises AssertionError where the two differ."""
    import torch
    import transformers

    from formers.models.reformer import FOREIGN, weights

    settings = FOREIGN.write(ours.config) | {"pad_token_id": 0}
    named = {k: v for k, v in settings.items() if k not in ("model_type", "architectures")}
    theirs = transformers.ReformerModelWithLMHead(transformers.ReformerConfig(**named)).eval()
    theirs.load_state_dict(weights(ours.config).write(ours.state_dict()), strict=False)
    ids = torch.randint(1, VOCABULARY, (1, 512))
    with torch.no_grad():
        gap = (ours.eval()(ids).logits - theirs(ids).logits).abs().max()
    assert gap < 1e-3, f"the two differ by {gap:.1e}"
    for layer in theirs.reformer.encoder.layers:  # the number of buckets of the first text would stay
        if hasattr(layer.attention.self_attention, "num_buckets"):
            layer.attention.self_attention.num_buckets = None
    return theirs


def logits_of(model: Any, whose: str, ids: Any) -> Any:
    return model(ids) if whose == PEER else model(ids).logits


def forward(model: Any, whose: str, ids: Any) -> Callable[[], Any]:
    import torch

    model.eval()
    return torch.no_grad()(lambda: logits_of(model, whose, ids))


def step(model: Any, whose: str, ids: Any) -> Callable[[], Any]:
    """Theirs by cross-entropy of the logits; ours by the loss of the training loop, in chunks."""
    import torch
    import torch.nn.functional as F

    from formers.training.loss import cross_entropy

    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    targets = ids.roll(-1, 1)

    def loss() -> Any:
        if whose in (THEIRS, PEER):
            return F.cross_entropy(logits_of(model, whose, ids).flatten(0, 1), targets.flatten())
        hidden, _ = model.body(ids)
        total, count = cross_entropy(hidden, model.head, targets)
        return total / count

    def run() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


if __name__ == "__main__":
    main()
