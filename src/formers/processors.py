"""What processors do fast, as far as torch tells."""

from __future__ import annotations

import torch


def has_fast_bf16(device: str) -> bool:
    """CUDA from Ampere on; CPUs with AMX or AVX512-bf16. Elsewhere bf16 is emulated and slower than float32."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device != "cpu":
        return False
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def onednn_multiplies(dtype: torch.dtype) -> bool:
    """Whether oneDNN has matrix products of this type here. It has none in bfloat16 for CPUs without AVX-512."""
    if not torch.backends.mkldnn.is_available():
        return False
    in_bfloat16 = dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32 or in_bfloat16
