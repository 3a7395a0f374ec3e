"""What reads text and tells the logits of the next token: through a state where the model keeps one, else anew each time.

Both give the same logits. The one without a state is the slow twin, and serves any module whose forward takes
``input_ids`` and returns logits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from formers.errors import ConfigError, TargetError
from formers.generation.prompts import Prompts
from formers.parts.model import Model
from formers.parts.sources import Source
from formers.parts.states import StagedState, State


class Reader(Protocol):
    """Reads a prompt, then a token a row at a time."""

    def prompt(self) -> Tensor:
        """Logits [batch, vocab] of the first new token."""
        ...

    def token(self, tokens: Tensor) -> Tensor:
        """Logits [batch, vocab] after one more token [batch] in every row."""
        ...

    def select(self, rows: Tensor) -> None:
        """Go on with these rows, Int [selected], repeated or reordered as asked: what a beam search keeps."""
        ...


class Beginning(Protocol):
    """What knows the state that all prompts begin with: after ids that they share (`PromptCache`), or after a text that stands
    before them (`Memorised`)."""

    def check(self, model: nn.Module, room: int) -> None:
        """Raise ConfigError where it cannot serve this model, with so many tokens of prompt and continuation."""
        ...

    def shared(self, rows: Sequence[tuple[int, ...]]) -> tuple[int, State]:
        """How many ids of every row have been read, and the state [rows] after them."""
        ...


class StateReader:
    """Prefill and step through a state that has room for the whole text. `stepper` runs the steps (see `stepper_of`).

    source  what an encoder-decoder writes from, a row for each prompt
    """

    def __init__(
        self,
        model: Any,
        prompts: Prompts,
        room: int,
        stepper: Any,
        beginning: Beginning | None = None,
        source: Prompts | None = None,
    ) -> None:
        self.model, self.prompts, self.room = model, prompts, room
        self.stepper, self.beginning, self.source = stepper, beginning, source
        self.modules = list(model.modules())
        self.state: State | None = None

    def prompt(self) -> Tensor:
        known, device = 0, device_of(self.model)
        if self.beginning is None:
            with evaluating(self.modules):
                given = given_source(self.source, device)
                self.state = self.model.init_state(self.prompts.batch_size, self.room, **given)
        else:
            known, self.state = self.beginning.shared(self.prompts.rows)
        rest = self.prompts.without(known)
        positions = rest.positions(device, known) if rest.ragged else None
        return self._read(self.model, rest.padded(0, device), positions)

    def token(self, tokens: Tensor) -> Tensor:
        return self._read(self.stepper, tokens[:, None], None)

    def select(self, rows: Tensor) -> None:
        assert self.state is not None, "a prompt was read"
        if len(rows) != self.state.batch_size or not torch.equal(rows, torch.arange(len(rows), device=rows.device)):
            self.state = self.state.select(rows)

    def _read(self, model: Any, ids: Tensor, positions: Any) -> Tensor:
        # at every step anew: whoever takes the steps may train the model between two of them
        with evaluating(self.modules):
            logits, staged = self._forward(model, ids, positions)
        assert staged is not None
        self.state = staged.commit()
        return logits[:, -1]

    def _forward(self, model: Any, ids: Tensor, positions: Any) -> tuple[Tensor, StagedState | None]:
        if isinstance(model, Model):
            hidden, staged = model.body(ids, positions, self.state)
            return model.head(hidden[:, -1:]), staged  # the head is the widest map of all: no other position needs it
        out = model(ids, positions=positions, state=self.state)
        return logits_of(out, model), out.state


class WholeReader:
    """Reads the whole text again for every token: any causal module. Rows are padded on the right, where no token of a
    causal model looks, so rows of different lengths need no mask."""

    def __init__(self, model: nn.Module, prompts: Prompts, source: Prompts | None = None) -> None:
        self.model, self.source = model, source
        self.rows = [list(row) for row in prompts.rows]

    def prompt(self) -> Tensor:
        device = device_of(self.model)
        ids = pad_sequence([torch.tensor(row) for row in self.rows], batch_first=True).to(device)
        last = torch.tensor([len(row) - 1 for row in self.rows], device=device)
        every = torch.arange(len(self.rows), device=device)
        with evaluating(self.model.modules()):
            if isinstance(self.model, Model):
                hidden, _ = self.model.body(ids, **given_source(self.source, device))
                return self.model.head(hidden[every, last][:, None])[:, 0]
            return logits_of(self.model(ids, **given_source(self.source, device)), self.model)[every, last]

    def token(self, tokens: Tensor) -> Tensor:
        for row, token in zip(self.rows, tokens.tolist(), strict=True):
            row.append(token)
        return self.prompt()

    def select(self, rows: Tensor) -> None:
        self.rows = [list(self.rows[i]) for i in rows.tolist()]
        if self.source is not None:
            self.source = Prompts(tuple(self.source.rows[i] for i in rows.tolist()))


def keeps_state(model: nn.Module) -> bool:
    return "state" in getattr(model, "inputs", ())


def takes_source(model: nn.Module) -> bool:
    """An encoder-decoder: what is a prompt to others is the source that it writes from."""
    return "source" in getattr(model, "inputs", ())


def given_source(source: Prompts | None, device: torch.device) -> dict[str, Any]:
    """The argument that hands a source to a model; none where there is no source."""
    return {} if source is None else {"source": Source.of_texts(source.rows, device=device)}


def begin(model: nn.Module, prompts: Prompts) -> tuple[Prompts, Prompts | None]:
    """What the (decoder of the) model goes on from, and the source of an encoder-decoder."""
    if not takes_source(model):
        return prompts, None
    prompts.check_vocabulary(model)
    return first_tokens(model, prompts.batch_size), prompts


def first_tokens(model: nn.Module, batch_size: int) -> Prompts:
    """What the decoder of an encoder-decoder begins with. Raises ConfigError where its config does not say."""
    start = getattr(getattr(model, "config", None), "start_token", None)
    if not isinstance(start, int):
        raise ConfigError(f"{type(model).__name__} takes a source, and its config has no start_token", "an id")
    return Prompts(((start,),) * batch_size)


def device_of(model: nn.Module) -> torch.device:
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def logits_of(output: Any, model: nn.Module) -> Tensor:
    """Logits [batch, seq, vocab] of a forward of any module. Raises TargetError where it gives none."""
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.dim() != 3:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        raise TargetError(
            f"{type(model).__name__}.forward(input_ids) gave {found}",
            "an object with .logits [batch, seq, vocab]",
            "return one from forward",
        )
    return logits


@contextlib.contextmanager
def evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """All modules in evaluation mode, and each back in its own mode afterwards."""
    training = [module for module in modules if module.training]
    for module in training:
        module.__dict__["training"] = False  # nn.Module's own way to set an attribute takes twenty times as long
    try:
        yield
    finally:
        for module in training:
            module.__dict__["training"] = True
