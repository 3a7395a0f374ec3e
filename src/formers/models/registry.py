"""Names of architectures to lazy specs. Importing this imports no torch."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from formers.config import replace
from formers.errors import ConfigError, TargetError, suggest


@dataclass(frozen=True)
class Spec:
    """What a model is, and the module that defines `CONFIG`, `MODEL`, `PRESETS`, `FOREIGN`, `weights` and `activations`.

    `FOREIGN` is None where Hugging Face has no class for the architecture: folders then hold our own settings and names.
    Such a module may still have `weights`, the names of the authors' own checkpoints, and may leave `activations` out.
    """

    name: str
    module: str
    paper: str
    year: int
    summary: str
    reference: str

    def load(self) -> ModuleType:
        """The model's module (imports torch)."""
        return importlib.import_module(self.module)


_SPECS = (
    Spec(
        "gpt2",
        "formers.models.gpt2",
        "Radford et al., Language Models are Unsupervised Multitask Learners",
        2019,
        "decoder with pre-norm blocks, learned positions and the tanh form of GELU",
        "transformers GPT2LMHeadModel, float64, 1e-9",
    ),
    Spec(
        "llama",
        "formers.models.llama",
        "Touvron et al., LLaMA: Open and Efficient Foundation Language Models (2302.13971)",
        2023,
        "decoder with RMSNorm, rotary positions, gated feed-forward and grouped key/value heads",
        "transformers LlamaForCausalLM, float64, 1e-9 with its float32 casts lifted, 5e-6 as it is",
    ),
    Spec(
        "t5",
        "formers.models.t5",
        "Raffel et al., Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer (1910.10683)",
        2019,
        "encoder-decoder with relative biases, RMSNorm and, in 1.1, gated feed-forwards; LongT5 with windows in its encoder",
        "transformers T5.. and LongT5ForConditionalGeneration, float64, 1e-9 with its float32 casts lifted, 5e-6 as it is",
    ),
    Spec(
        "bert",
        "formers.models.bert",
        "Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers (1810.04805)",
        2018,
        "encoder with token types, learned positions and post-norm blocks; heads for masked tokens, pairs and labels",
        "transformers, each head's class, float64, 1e-9",
    ),
    Spec(
        "longformer",
        "formers.models.longformer",
        "Beltagy et al., Longformer: The Long-Document Transformer (2004.05150)",
        2020,
        "encoder of linear cost: a window around each token, and global tokens with maps of their own",
        "transformers, each head's class, float64, 1e-9 with its float32 casts lifted, 5e-6 as it is",
    ),
    Spec(
        "longformer_lm",
        "formers.models.longformer_lm",
        "Beltagy et al., Longformer: The Long-Document Transformer (2004.05150), section 4",
        2020,
        "decoder of windows that grow with the layers, dilated in some heads; its state holds no more than a window",
        "its mask run dense, float64, 1e-9",
    ),
    Spec(
        "albert",
        "formers.models.albert",
        "Lan et al., ALBERT: A Lite BERT for Self-supervised Learning (1909.11942)",
        2019,
        "encoder whose layers share one group of parameters, with narrow embeddings and a sentence-order head",
        "transformers, each head's class, float64, 1e-9",
    ),
    Spec(
        "distilbert",
        "formers.models.distilbert",
        "Sanh et al., DistilBERT, a distilled version of BERT (1910.01108)",
        2019,
        "encoder of half of BERT's layers, without token types and pooler",
        "transformers, each head's class, float64, 1e-9",
    ),
    Spec(
        "deberta",
        "formers.models.deberta",
        "He et al., DeBERTa: Decoding-enhanced BERT with Disentangled Attention (2006.03654)",
        2020,
        "encoder whose scores add up products of contents and distances, with a mask decoder that knows places",
        "transformers, each head's class, float64, 1e-9 with its float32 casts lifted, 5e-6 as it is",
    ),
    Spec(
        "deberta_v2",
        "formers.models.deberta_v2",
        "He et al., DeBERTaV3: Improving DeBERTa using ELECTRA-Style Pre-Training (2111.09543)",
        2021,
        "DeBERTa of versions 2 and 3: log buckets of distances, shared maps, and a convolution in the largest",
        "transformers, each head's class, float64, 1e-9 with its float32 casts lifted, 5e-6 as it is",
    ),
    Spec(
        "sparse_transformer",
        "formers.models.sparse_transformer",
        "Child et al., Generating Long Sequences with Sparse Transformers (1904.10509)",
        2019,
        "decoder of strided or fixed factorised attention, for text, bytes and images of thousands of tokens",
        "the paper's formulas and sets written out, float64, 1e-9",
    ),
    Spec(
        "wavenet",
        "formers.models.wavenet",
        "van den Oord et al., WaveNet: A Generative Model for Raw Audio (1609.03499)",
        2016,
        "decoder of dilated causal convolutions, gated, with skips: a baseline without attention",
        "the paper's formulas written out, float64, 1e-9",
    ),
    Spec(
        "reformer",
        "formers.models.reformer",
        "Kitaev et al., Reformer: The Efficient Transformer (2001.04451)",
        2020,
        "decoder or encoder of hashed and local attention in reversible layers, for texts of thousands of tokens",
        "transformers, each head's class, their hash seeds, float64, 1e-9",
    ),
    Spec(
        "transformer_xl",
        "formers.models.transformer_xl",
        "Dai et al., Transformer-XL: Attentive Language Models beyond a Fixed-Length Context (1901.02860)",
        2019,
        "decoder that reads in segments and remembers each layer's inputs, with attention by distance",
        "the authors' code, three segments with gradients, float64, 1e-9",
    ),
    Spec(
        "memorizing",
        "formers.models.memorizing",
        "Wu et al., Memorizing Transformers (2203.08913)",
        2022,
        "decoder in segments whose memory layers look up, by their queries, keys and values of long ago",
        "dense attention over the same entries, float64, 1e-9",
    ),
    Spec(
        "block_recurrent",
        "formers.models.block_recurrent",
        "Hutchins et al., Block-Recurrent Transformers (2203.07852)",
        2022,
        "decoder with a window whose recurrent layer reads state vectors, which take in block after block",
        "a loop over blocks in plain torch, forward and backward, float64, 1e-9",
    ),
    Spec(
        "melodi",
        "formers.models.melodi",
        "Chen et al., MELODI: Exploring Memory Compression for Long Contexts (2410.03156)",
        2024,
        "decoder in windows, each compressed to a few tokens for the next one and to a few keys and values for all that follow",
        "our reading of the authors' code written out, float64, 1e-9",
    ),
    Spec(
        "memory_mosaics",
        "formers.models.memory_mosaics",
        "Zhang et al., Memory Mosaics (2405.06394)",
        2024,
        "decoder of associative memories: of the context in place of attention, of learned pairs in place of feed-forwards",
        "the authors' nanoMosaics, logits and gradients, float64, 1e-9",
    ),
    Spec(
        "grafted",
        "formers.models.grafted",
        "Wu et al., Memorizing Transformers (2203.08913), section 4.3",
        2022,
        "any decoder of formers with a memory that changes nothing at first",
        "the decoder itself, bit for bit",
    ),
)


def specs() -> dict[str, Spec]:
    """Every built-in architecture by name."""
    return {spec.name: spec for spec in _SPECS}


def spec(name: str) -> Spec:
    """The spec of a name. Raises TargetError with a suggestion."""
    known = specs()
    if name not in known:
        raise TargetError(f"unknown architecture {name!r}", "one of " + ", ".join(known), suggest(name, known))
    return known[name]


def configure(name: str, preset: str | None = None, **overrides: Any) -> Any:
    """The config of an architecture: its defaults, changed by a preset, changed by overrides."""
    module = spec(name).load()
    if preset is not None and preset not in module.PRESETS:
        raise ConfigError(
            f"{name} has no preset {preset!r}", "one of " + ", ".join(module.PRESETS), suggest(preset, module.PRESETS)
        )
    settings = {} if preset is None else dict(module.PRESETS[preset])
    return replace(module.CONFIG(), **settings | overrides)


def build(name: str, preset: str | None = None, *, seed: int = 0, **overrides: Any) -> Any:
    """A new model with weights drawn from `seed`. Overrides are fields of its config."""
    return spec(name).load().MODEL(configure(name, preset, **overrides), seed=seed)


def of_config(config: Any) -> Spec:
    """The spec that a config belongs to."""
    return spec(config.architecture)
