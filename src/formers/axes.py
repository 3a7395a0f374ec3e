"""Shape letters: the names of tensor axes that signatures use across the library.

In signatures axes have words (``"batch seq d_model"``); inside functions over fifteen lines a tensor's name may carry
the letters: ``b`` batch, ``h`` heads, ``g`` key/value heads, ``t`` queries, ``s`` keys, ``d`` width of a head, ``m`` model
width, ``v`` vocabulary. ``#axis`` may also be 1 and broadcasts. The tests check every annotated shape as the code runs.
"""

from __future__ import annotations

from typing import TypeAlias

from jaxtyping import Bool, Float, Int
from torch import Tensor

Ids: TypeAlias = Int[Tensor, "batch seq"]
Hidden: TypeAlias = Float[Tensor, "batch seq d_model"]
Logits: TypeAlias = Float[Tensor, "batch seq vocab"]
Queries: TypeAlias = Float[Tensor, "batch heads queries d_head"]
Keys: TypeAlias = Float[Tensor, "batch kv_heads keys d_head"]
Values: TypeAlias = Float[Tensor, "batch kv_heads keys d_value"]
Visible: TypeAlias = Bool[Tensor, "#batch #heads #queries #keys"]
Scores: TypeAlias = Float[Tensor, "batch heads queries keys"]
Index: TypeAlias = Int[Tensor, "#batch seq"]
