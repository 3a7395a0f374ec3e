"""Text files to token shards, and shards to batches. Knows no model, and torch only where a batch becomes tensors."""

from formers.data.baselines import gzip_bits_per_byte, unigram_bits_per_byte, unigram_counts
from formers.data.batch import Batch, TorchBatch
from formers.data.builder import Summary, build
from formers.data.cache import cache_root, cached_shards
from formers.data.shards import Shards, open_shards
from formers.data.views import Packed, Sequential, Streams, View, Windows

__all__ = [
    "Batch",
    "Packed",
    "Sequential",
    "Shards",
    "Streams",
    "Summary",
    "TorchBatch",
    "View",
    "Windows",
    "build",
    "cache_root",
    "cached_shards",
    "gzip_bits_per_byte",
    "open_shards",
    "unigram_bits_per_byte",
    "unigram_counts",
]
