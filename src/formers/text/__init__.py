"""Text to ids and back: byte, character and byte-level BPE tokenizers."""

from formers.text.base import END_OF_TEXT, TextStream, Tokenizer
from formers.text.byte import ByteTokenizer
from formers.text.char import CharTokenizer
from formers.text.load import load_tokenizer
from formers.text.train import train_tokenizer

__all__ = [
    "END_OF_TEXT",
    "ByteTokenizer",
    "CharTokenizer",
    "TextStream",
    "Tokenizer",
    "load_tokenizer",
    "train_tokenizer",
]
