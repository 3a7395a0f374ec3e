"""Context windows with a memory before them: where a token stands in its window, and what is kept of it between calls.

Windows are cut by the index of a token in its document, never by calls. The places of one window are, in this order,

    0 .. S-1          short-term memory, what the window before was compressed to
    S .. S+W-1        the window's W tokens
    S+W .. S+W+S-1    its summary, S tokens that stand behind the last one and see all before them

so that one causal mask and one bias of distances serve all three. A call may end anywhere in a window: what the rest of the
window will ask for is kept. `Rows` keeps where each row is, once; a `WindowNode` what a layer has made of it. Their sizes do
not depend on the length of the text, and no tensor of theirs is ever written to: a call gives new ones of the same size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from formers.axes import Hidden, Keys, Values
from formers.errors import StateError
from formers.parts.positions import EMPTY, Positions


@dataclass(frozen=True)
class Windows:
    """Sizes: `size` tokens of a window (W), `summary` of what it is compressed to (S), `increment` of what a long-term memory
    keeps of it (L), and of `held` windows it does."""

    size: int
    summary: int
    increment: int
    held: int

    @property
    def kept(self) -> int:
        """Places whose keys and values a layer keeps; of the summary it keeps what is made of it."""
        return self.summary + self.size

    @property
    def entries(self) -> int:
        """Of a long-term memory."""
        return self.increment * self.held

    def known(self, place: Positions) -> int | None:
        """How many places stand before the first of these tokens, where that is promised for all rows."""
        if place.start is not None:
            return self.summary + place.start % self.size
        return self.summary if place.aligned is not None and place.aligned % self.size == 0 else None

    def may_end(self, place: Positions, closes: Bool[Tensor, " batch"]) -> bool:
        """Whether a window ends with these tokens in some row. Tensors are looked at where nothing is promised, but not while
        compiling."""
        known = self.known(place)
        if known is not None:
            return known + place.length == self.kept
        return torch.compiler.is_compiling() or bool(closes.any())


@dataclass(frozen=True)
class InWindow(Positions):
    """Positions whose index is the place in a window, as the file's head counts them.

    windows  the sizes
    known    how many places stand before the first token, where that is promised; None: not
    near     where the keys stand, of all places of the window
    far      which entries of a long-term memory are there
    closes   Bool [batch]  whether the window ends here, and a summary stands behind it; None: in no row
    takes    Bool [batch]  whether a row has a token here; None: each has
    """

    windows: Windows = None  # type: ignore[assignment]
    known: int | None = None
    near: Positions = None  # type: ignore[assignment]
    far: Positions = None  # type: ignore[assignment]
    closes: Tensor | None = None
    takes: Tensor | None = None

    @property
    def summaries(self) -> int:
        """How many of the tokens, the last, are a summary's."""
        return 0 if self.closes is None else self.windows.summary

    @property
    def read(self) -> Bool[Tensor, "batch size 1"]:
        """Which tokens of the window have been read, these among them."""
        return self.near.present[:, self.windows.summary : self.windows.kept, None]


class _Node:
    """What a state asks of a node that is nothing but tensors, batch first."""

    def map_rows(self, function: Callable[[Tensor], Tensor]) -> Any:
        return type(self)(**{name: function(tensor) for name, tensor in self.tensors().items()})

    def dynamic(self) -> Any:
        return self

    def tensors(self) -> dict[str, Tensor]:
        return dict(vars(self))

    def with_tensors(self, tensors: dict[str, Tensor]) -> Any:
        return type(self)(**tensors)


@dataclass
class Rows(_Node):
    """Where each row is.

    window  Int [batch]     the window that is open    document  Int [batch]  of which document
    read    Bool [batch, W] which of its tokens have been read
    closed  Int [batch]     how many windows of the document have been compressed: of one there is short-term memory
    """

    window: Int[Tensor, " batch"]
    document: Int[Tensor, " batch"]
    read: Bool[Tensor, "batch size"]
    closed: Int[Tensor, " batch"]

    @classmethod
    def empty(cls, batch: int, windows: Windows, device: Any = None) -> Rows:
        window, document, closed = (torch.zeros(batch, dtype=torch.long, device=device) for _ in range(3))
        return cls(window, document, torch.zeros(batch, windows.size, dtype=torch.bool, device=device), closed)

    def enter(self, place: Positions, windows: Windows, *, close: bool) -> tuple[InWindow, Rows]:
        """Of tokens that stand in one window of one document in each row (`recurrence.by_segment` gives such): their places,
        with those of a summary where a window ends (not even then where `close` is false), and where rows are afterwards.

        Of another document, and of windows that stand later in this one, nothing is seen.
        """
        rows, known = self._moved(place, windows), windows.known(place)
        inside = place.index % windows.size
        ends = (place.present & (inside == windows.size - 1)).any(-1).expand(len(self.window))
        closes = ends if close and windows.may_end(place, ends) else None
        index = torch.where(place.present, windows.summary + inside, EMPTY).expand(len(ends), -1)
        if closes is not None:
            summary = torch.arange(windows.kept, windows.kept + windows.summary, device=index.device)
            index = torch.cat([index, torch.where(closes[:, None], summary, EMPTY)], -1)
        near = _where(rows._near(index, windows, 0 if closes is None else windows.summary))
        far = torch.arange(windows.entries, 0, -1, device=index.device) <= windows.increment * rows.closed[:, None]
        p = InWindow(
            index,
            aligned=1,
            windows=windows,
            known=known,
            near=replace(near, behind=known),
            far=_where(far),
            closes=closes,
            takes=place.present.any(-1) if place.start is None else None,
        )
        return p, rows._after(p)

    def _moved(self, place: Positions, windows: Windows) -> Rows:
        """The rows in the window and document of these tokens; a row without any stays."""
        takes = place.present.any(-1)

        def of(told: Tensor | None, mine: Tensor) -> Tensor:
            if told is None:
                return mine
            least = torch.iinfo(told.dtype).min
            return torch.where(takes, torch.where(place.present, told, least).amax(-1), mine)

        window, document = of(place.index // windows.size, self.window), of(place.document, self.document)
        goes_on = (document == self.document) & (window >= self.window)
        same = goes_on & (window == self.window)
        return Rows(window, document, self.read & same[:, None], self.closed * goes_on)

    def _near(self, index: Int[Tensor, "batch seq"], windows: Windows, summaries: int) -> Tensor:
        """Which places of the window are filled, those of the call's own tokens and of its summary among them."""
        short = (self.closed > 0)[:, None].expand(-1, windows.summary)
        room = F.pad(torch.cat([short, self.read], 1), (0, summaries + 1))  # the last is for padding
        slots = torch.where(index < 0, room.shape[1] - 1, index)
        return room.scatter(1, slots, torch.ones_like(slots, dtype=torch.bool))[:, :-1]

    def _after(self, p: InWindow) -> Rows:
        """The rows when these tokens have been read: where their window ends, the next one is open."""
        read = p.read[..., 0]
        if p.closes is None:
            return replace(self, read=read)
        return Rows(self.window + p.closes, self.document, read & ~p.closes[:, None], self.closed + p.closes)

    def reset(self, rows: Tensor) -> Rows:
        window, document, closed = (n.masked_fill(rows, 0) for n in (self.window, self.document, self.closed))
        return Rows(window, document, self.read & ~rows[:, None], closed)

    def keep(self, length: int) -> Rows:
        """Raises StateError where a window that reaches beyond `length` has been compressed."""
        size = self.read.shape[1]
        if int(self.window.max()) * size > length:
            raise StateError(
                f"what stood before token {length} is compressed with what came after, in windows of {size}"
            )
        index = self.window[:, None] * size + torch.arange(size, device=self.read.device)
        return replace(self, read=self.read & (index < length))


@dataclass
class WindowNode(_Node):
    """What a layer keeps of each row. What of it is there, `Rows` knows.

    keys, values  [batch, heads, S + W, d_head]  of the short-term memory, and of the open window's tokens
    outputs       [batch, W, d_model]            what the layer gave for those tokens
    long_keys, long_values  [batch, heads, M, d_head]  long-term memory, the newest last; M is 0 in layers without
    """

    keys: Tensor
    values: Tensor
    outputs: Tensor
    long_keys: Tensor
    long_values: Tensor

    @classmethod
    def empty(
        cls, batch: int, heads: int, d_head: int, d_model: int, windows: Windows, entries: int, **kind: Any
    ) -> WindowNode:
        near, far = (batch, heads, windows.kept, d_head), (batch, heads, entries, d_head)
        shapes = near, near, (batch, windows.size, d_model), far, far
        return cls(*(torch.zeros(*shape, **kind) for shape in shapes))

    def see(self, k: Keys, v: Values, p: InWindow) -> tuple[Keys, Values, WindowNode]:
        """Keys and values of all places of the window, and the node with those of its tokens."""
        keys, values = (_put(held.to(x.dtype), x, p) for held, x in ((self.keys, k), (self.values, v)))
        kept = p.windows.kept
        return keys, values, replace(self, keys=keys[:, :, :kept], values=values[:, :, :kept])

    def gave(self, x: Hidden, p: InWindow) -> WindowNode:
        """The node with what the layer gave for these tokens."""
        return replace(self, outputs=_put(self.outputs.to(x.dtype), x, p, p.windows.summary))

    def close(self, p: InWindow, k: Keys, v: Values) -> WindowNode:
        """Where a window ends, these are the keys and values of the next one's short-term memory."""
        assert p.closes is not None
        rows, size = p.closes[:, None, None, None], p.windows.size
        pairs = ((k, self.keys), (v, self.values))
        keys, values = (torch.where(rows, F.pad(new, (0, 0, 0, size)), held.to(new.dtype)) for new, held in pairs)
        return replace(self, keys=keys, values=values)

    def queue(self, p: InWindow, k: Keys, v: Values) -> WindowNode:
        """Where a window ends, these entries join the long-term memory, and as many of the oldest leave it."""
        assert p.closes is not None
        rows, room = p.closes[:, None, None, None], self.long_keys.shape[2]
        pairs = [(new, held.to(new.dtype)) for new, held in ((k, self.long_keys), (v, self.long_values))]
        keys, values = (torch.where(rows, torch.cat([held, new], 2)[:, :, -room:], held) for new, held in pairs)
        return replace(self, long_keys=keys, long_values=values)

    def reset(self, rows: Tensor) -> WindowNode:
        return self

    def keep(self, length: int) -> WindowNode:
        return self


@dataclass
class StagedNode:
    """A node as it was and as it would be. What is committed has no gradient history, and the type of the state."""

    before: _Node
    after: _Node

    def commit(self) -> Any:
        held = self.before.tensors()
        moved = {name: t.detach().to(held[name].dtype).contiguous() for name, t in self.after.tensors().items()}
        return self.before.with_tensors(moved)


def _where(there: Bool[Tensor, "batch places"]) -> Positions:
    """Places that are there by their number, the others as padding."""
    return Positions(torch.where(there, torch.arange(there.shape[1], device=there.device), EMPTY))


def _put(held: Tensor, fresh: Tensor, p: InWindow, skip: int = 0) -> Tensor:
    """`held` [batch, .., places, d], which begins at place `skip`, with `fresh` [batch, .., tokens, d] where its tokens
    stand. With a summary behind them there are as many places more. Padding goes nowhere, or where `near` has nothing."""
    n, places = fresh.shape[-2], held.shape[-2] + (p.summaries if fresh.shape[-2] == p.length else 0)
    if p.known is not None:
        first = p.known - skip
        behind = held[..., first + n :, :]
        if p.takes is not None:  # rows without tokens keep what they have
            own = F.pad(held[..., first : first + n, :], (0, 0, 0, first + n - held.shape[-2] + behind.shape[-2]))
            fresh = torch.where(p.takes.reshape(-1, *[1] * (fresh.ndim - 1)), fresh, own)
        return torch.cat([held[..., :first, :], fresh, behind], -2)
    slots = torch.where(p.present, p.index - skip, places)[:, :n]
    room = F.pad(held, (0, 0, 0, places + 1 - held.shape[-2]))
    where = slots.reshape(len(slots), *[1] * (fresh.ndim - 3), n, 1).expand_as(fresh)
    return room.scatter(-2, where, fresh)[..., :places, :]
