"""When compiling fails: what a killed process left half written is made anew; anything else is one clear error."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn

from formers.errors import RunError

CUT_OFF = re.compile(r"(/\S+\.so): (?:file too short|invalid ELF header)")
"""What the loader says of a library whose writer was killed. The compiler's cache would give it to every later run."""


def make_anew(error: RuntimeError, module: nn.Module) -> str:
    """Remove the library that was cut off, so that the next call of `module` compiles it again; what to tell whoever asks.

    Raises RunError where the compiler failed in another way, and `error` itself where it is none of the compiler's.
    """
    from torch._dynamo.exc import BackendCompilerFailed

    if not isinstance(error, BackendCompilerFailed):
        raise error
    found = CUT_OFF.search(str(error))
    if found is None or not Path(found[1]).is_file():
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RunError(
            f"torch.compile failed: {reason}", "a compiler that works", "set compile to off (--train.compile off)"
        ) from error
    Path(found[1]).unlink()
    module.zero_grad(set_to_none=True)
    torch._dynamo.reset()
    return f"{found[1]} was cut off when a process that compiled was killed; it is made anew"
