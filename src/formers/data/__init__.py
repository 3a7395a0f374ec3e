"""Text files to token shards, and shards to batches. Knows no model, and torch only where a batch becomes tensors."""

from formers.data.baselines import gzip_bits_per_byte, unigram_bits_per_byte, unigram_counts
from formers.data.batch import Batch, TorchBatch
from formers.data.builder import Summary, build
from formers.data.cache import cache_root, cached_shards
from formers.data.corruption import SpanCorruption
from formers.data.equip import equip
from formers.data.masking import MaskedTokens
from formers.data.pairs import SentencePairs
from formers.data.seq2seq import SourceToTarget, build_pairs, cached_pairs
from formers.data.shards import Shards, open_shards
from formers.data.texts import PairBatch, SourceBatch
from formers.data.views import Packed, Sequential, Streams, View, Windows

__all__ = [
    "Batch",
    "MaskedTokens",
    "Packed",
    "PairBatch",
    "SentencePairs",
    "Sequential",
    "Shards",
    "SourceBatch",
    "SourceToTarget",
    "SpanCorruption",
    "Streams",
    "Summary",
    "TorchBatch",
    "View",
    "Windows",
    "build",
    "build_pairs",
    "cache_root",
    "cached_pairs",
    "cached_shards",
    "equip",
    "gzip_bits_per_byte",
    "open_shards",
    "unigram_bits_per_byte",
    "unigram_counts",
]
