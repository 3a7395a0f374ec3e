"""Text to ids and back: byte, character and byte-level BPE tokenizers."""

from formers.text.base import END_OF_TEXT, TextStream, Tokenizer
from formers.text.byte import ByteTokenizer
from formers.text.byte_bpe import BPETokenizer
from formers.text.char import CharTokenizer
from formers.text.foreign import CL100K_SPECIAL, GPT2_SPECIAL, gpt2, load_gpt2_files, load_tiktoken
from formers.text.load import load_tokenizer
from formers.text.patterns import split
from formers.text.train import train_tokenizer

__all__ = [
    "CL100K_SPECIAL",
    "END_OF_TEXT",
    "GPT2_SPECIAL",
    "BPETokenizer",
    "ByteTokenizer",
    "CharTokenizer",
    "TextStream",
    "Tokenizer",
    "gpt2",
    "load_gpt2_files",
    "load_tiktoken",
    "load_tokenizer",
    "split",
    "train_tokenizer",
]
