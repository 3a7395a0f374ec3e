"""Approximate search: an inverted file of each head's keys, and how much of the truth it finds, measured as it runs.

Keys are dealt out to `lists` by the nearest of as many centres; a query looks only into the `probes` lists whose centres
score highest. Centres are found and keys dealt out by matrix products here; the lists are scanned by faiss, in bf16.

An entry that is overwritten, removed or hidden stays in its list and is dropped from what is found: every entry goes by its
number, which no other has. Where too many are dead, or the memory has outgrown its centres, the row's index is built anew.
Every `measure_every` look-ups some of the run's own queries are searched exactly too: `recalls` keeps what share was found,
and where that is less than `wanted`, queries look into more lists from then on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from formers.errors import ConfigError
from formers.parts.masks import Mask
from formers.parts.positions import Place
from formers.parts.replay import chosen
from formers.parts.search import Asked, Nearest, Store, best_columns, search_exactly
from formers.processors import has_fast_bf16

SAMPLE_EACH, ROUNDS, DEAD, OUTGROWN = 48, 5, 0.5, 4
"""Keys a centre is found from, rounds of that, dead entries for each live one, and growth, at which an index is made anew."""

GROWTH = 1.5
"""Times as many probes where too little is found."""


@dataclass
class Approximate:
    """Search through lists. Rows with fewer than `least` entries are searched exactly.

    lists          for each head; None: four times the root of what a row holds
    probes         lists that a query looks into at first
    wanted         share of the truly nearest below which `probes` grows; 0: it never does
    measure_every  look-ups from a measurement of the recall to the next, the first as soon as there are lists; 0: none
    measured_on    queries of each head that it is measured on
    recalls        what was measured, the newest last

    Needs faiss: pip install formers[search]
    """

    lists: int | None = None
    probes: int = 8
    wanted: float = 0.95
    least: int = 4096
    measure_every: int = 50
    measured_on: int = 16
    recalls: list[float] = field(default_factory=list)
    calls: int = 0

    def __post_init__(self) -> None:
        faiss()
        if self.probes < 1 or (self.lists is not None and self.lists < 1):
            raise ConfigError(f"Approximate(lists={self.lists}, probes={self.probes})", "1 or more of each")
        if not 0 <= self.wanted < 1:
            raise ConfigError(f"Approximate(wanted={self.wanted})", "0 or more, and less than 1")

    @property
    def recall(self) -> float | None:
        """The mean of the newest measurements (as many as ten); None: none was made yet."""
        newest = self.recalls[-10:]
        return sum(newest) / len(newest) if newest else None

    @torch.no_grad()
    def search(self, asked: Asked, store: Store) -> Nearest:
        """A recomputation is given what its forward found: meanwhile queries may look into more lists."""
        found: list[Nearest] = []

        def slots() -> Tensor:
            found.append(self._look(asked, store))
            return found[0].slots

        chosen_slots = chosen(slots)
        return Nearest(chosen(lambda: found[0].scores), chosen_slots)

    def _look(self, asked: Asked, store: Store) -> Nearest:
        due = self.measure_every and self.calls % self.measure_every == 0
        if not due or self._measure(
            asked, store
        ):  # where there is nothing to measure yet, the next look-up tries again
            self.calls += 1
        return self._search(asked, store)

    def _search(self, asked: Asked, store: Store) -> Nearest:
        answer = asked.nothing()
        for row, (own, place) in enumerate(zip(_rows(asked), asked.store_rows(), strict=True)):
            found = self._search_row(own, store, place)
            answer.scores[row], answer.slots[row] = found.scores[0], found.slots[0]
        return answer

    def _search_row(self, asked: Asked, store: Store, row: int) -> Nearest:
        if not self._by_lists(store, row):
            return search_exactly(asked, store.keys, store.positions)
        index, held = store.built.get(row), int((store.number[row] >= 0).sum())
        if index is None or index.worn(held):
            index = store.built[row] = Index(store, row, self.lists or 4 * math.isqrt(held))
        index.add_new(store, row)
        return index.search(asked, store, row, self.probes)

    def _by_lists(self, store: Store, row: int) -> bool:
        return int((store.number[row] >= 0).sum()) >= max(self.least, 1)

    def _measure(self, asked: Asked, store: Store) -> bool:
        """The share of the truly nearest that is found, over some queries that have any; and more probes while it is low.
        Whether there was anything to find through lists."""
        if not any(self._by_lists(store, row) for row in asked.store_rows()):
            return False
        t = asked.q.shape[2]
        some = torch.linspace(0, t - 1, min(t, self.measured_on)).long()
        positions = asked.positions.map(lambda p: p[:, some.to(p.device)])
        sample = Asked(asked.q[:, :, some], positions, asked.mask, asked.k, asked.rows)
        true = search_exactly(sample, store.keys, store.positions)
        if not true.present.any():
            return False
        share = _found(true, self._search(sample, store))
        while share < self.wanted and self.probes < max((len(i.centres[0]) for i in store.built.values()), default=0):
            self.probes = math.ceil(GROWTH * self.probes)
            share = _found(true, self._search(sample, store))
        self.recalls.append(share)
        return True


def _found(true: Nearest, answer: Nearest) -> float:
    """The share of the true slots that an answer has."""
    same = (answer.slots[..., None, :] == true.slots[..., None]) & answer.present[..., None, :]
    return float((same.any(-1) & true.present).sum() / true.present.sum())


class Index:
    """The lists of one row of a store: one faiss index for each key/value head.

    An entry's id is number * slots + slot.
    """

    def __init__(self, store: Store, row: int, lists: int) -> None:
        self.slots, self.newest, self.entries, self.dead_from = store.keys.shape[2], -1, 0, 0
        live = (store.number[row] >= 0).nonzero()[:, 0]
        self.first = len(live)
        lists = max(1, min(lists, len(live) // 8))
        generator = torch.Generator().manual_seed(row)
        chosen = live[torch.randperm(len(live), generator=generator)[: SAMPLE_EACH * lists].to(live.device)]
        self.centres, self.lists = [], []
        for head in range(store.keys.shape[1]):
            sample = store.keys.part(row, slice(head, head + 1), slice(None))[0][chosen]
            self.centres.append(_centres(sample.float().cpu(), lists))
            self.lists.append(_empty_lists(self.centres[-1]))

    def worn(self, held: int) -> bool:
        """Whether too many entries are dead, or there are too many for the centres."""
        return self.entries - held > DEAD * held or held > OUTGROWN * self.first

    def add_new(self, store: Store, row: int) -> None:
        """Entries that were written since the last look-up."""
        new = (store.number[row] > self.newest).nonzero()[:, 0]
        if not len(new):
            return
        number = store.number[row, new]
        ids = (number * self.slots + new).cpu().numpy()
        for head, (centres, lists) in enumerate(zip(self.centres, self.lists, strict=True)):
            keys = store.keys.part(row, slice(head, head + 1), slice(None))[0][new].float().cpu().contiguous()
            to, numbers = _nearest_centre(keys, centres).numpy(), keys.numpy()
            swig = faiss().swig_ptr
            lists.add_core(len(new), swig(numbers), swig(ids), swig(to))
        self.newest, self.entries = int(number.max()), self.entries + len(new)

    def search(self, asked: Asked, store: Store, row: int, probes: int) -> Nearest:
        """One row of queries. More than k are asked for, so that the dead and the hidden can be dropped."""
        _, h, t, d = asked.q.shape
        q = asked.q[0].float().cpu().reshape(len(self.lists), -1, d)
        more = min(2 * asked.k, self.slots)
        scanned = [self._scan(part, head, more, probes) for head, part in enumerate(q)]
        scores, ids = (torch.stack(found) for found in zip(*scanned, strict=True))
        scores, ids = (x.view(h, t, more).to(asked.q.device) for x in (scores, ids))
        number, slot = ids.div(self.slots, rounding_mode="floor"), ids % self.slots
        there = (ids >= 0) & (store.number[row][slot] == number) & _shown(asked, store, row, slot)
        best = scores.masked_fill(~there, -torch.inf).topk(min(asked.k, more), -1)
        answer = asked.nothing()
        answer.scores[0, ..., : best.values.shape[-1]] = best.values.to(asked.q.dtype)
        answer.slots[0, ..., : best.values.shape[-1]] = slot.gather(-1, best.indices)
        return answer

    def _scan(self, q: Tensor, head: int, more: int, probes: int) -> tuple[Tensor, Tensor]:
        lists, centres = self.lists[head], self.centres[head]
        lists.nprobe = min(probes, len(centres))
        _, which = best_columns(_products(centres, q), lists.nprobe)
        which = which[0].contiguous().numpy()
        found = lists.search_preassigned(q.contiguous().numpy(), more, which, None)
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])


def _shown(asked: Asked, store: Store, row: int, slot: Tensor) -> Tensor:
    """[heads, queries, found]: whether the mask shows each query what it found."""
    own, there = asked.positions, store.positions
    document = None if there.document is None else there.document[row][slot]
    q = Place.of(own, lambda t: t[0][None, :, None])
    return _allows(asked.mask, q, Place(there.index[row][slot], document, None)) & own.present[0][None, :, None]


def _allows(mask: Mask, q: Place, k: Place) -> Tensor:
    return mask.allows(q, k) & (k.index >= 0)


def _rows(asked: Asked) -> list[Asked]:
    """The question of each row by itself."""
    rows = torch.tensor(asked.store_rows(), device=asked.q.device)
    b = len(asked.q)
    positions = asked.positions.rows(b)
    return [
        Asked(asked.q[i : i + 1], positions.map(lambda p, i=i: p[i : i + 1]), asked.mask, asked.k, rows[i : i + 1])
        for i in range(b)
    ]


# --- centres ----------------------------------------------------------------------------------------------------------


def _centres(keys: Tensor, lists: int) -> Tensor:
    """k-means of directions: [lists, d], each of length one. Inner products go by direction before they go by length: with
    centres of any length a query looks into the lists of long keys. One that no key is nearest to stays where it was."""
    centres = F.normalize(keys[:lists], dim=-1)
    for _ in range(ROUNDS):
        sums = torch.zeros_like(centres).index_add_(0, _nearest_centre(keys, centres), keys)
        empty = (sums == 0).all(-1, keepdim=True)
        centres = torch.where(empty, centres, F.normalize(sums, dim=-1))
    return centres


def _nearest_centre(keys: Tensor, centres: Tensor) -> Tensor:
    parts = keys.split(max(64, (1 << 22) // len(centres)))
    return torch.cat([best_columns(_products(centres, part), 1)[1][0, :, 0] for part in parts])


def _products(centres: Tensor, q: Tensor) -> Tensor:
    """[1, centres, queries]: in bf16 where that is fast, which moves a key that lies between two centres now and then to
    the other."""
    dtype = torch.bfloat16 if has_fast_bf16("cpu") else torch.float32
    return (centres.to(dtype) @ q.to(dtype).t())[None]


def _empty_lists(centres: Tensor) -> Any:
    library = faiss()
    d = centres.shape[1]
    quantizer = library.IndexFlatIP(d)
    quantizer.add(centres.numpy())
    kind, metric = library.ScalarQuantizer.QT_bf16, library.METRIC_INNER_PRODUCT
    lists = library.IndexIVFScalarQuantizer(quantizer, d, len(centres), kind, metric, False)
    lists.train(centres.numpy())
    return lists


def faiss() -> Any:
    """The library. Raises ConfigError where it is missing."""
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            "approximate search needs faiss, which is not installed", "faiss-cpu", "pip install formers[search]"
        ) from error
    if faiss.omp_get_max_threads() != torch.get_num_threads():
        faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss
