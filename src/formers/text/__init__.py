"""Text to ids and back: byte, character, word-level, byte-level BPE, WordPiece and Unigram tokenizers, and batches of texts."""

from formers.text.base import END_OF_TEXT, TextStream, Tokenizer
from formers.text.byte import ByteTokenizer
from formers.text.byte_bpe import BPETokenizer
from formers.text.char import CharTokenizer
from formers.text.encoding import Encodings, encode_texts
from formers.text.foreign import CL100K_SPECIAL, GPT2_SPECIAL, gpt2, load_gpt2_files, load_tiktoken
from formers.text.load import load_tokenizer
from formers.text.patterns import split
from formers.text.sentencepiece import load_sentencepiece
from formers.text.train import train_tokenizer
from formers.text.unigram import UnigramTokenizer
from formers.text.word import WordLevelTokenizer
from formers.text.wordpiece import WordPieceTokenizer, load_vocab_txt

__all__ = [
    "CL100K_SPECIAL",
    "END_OF_TEXT",
    "GPT2_SPECIAL",
    "BPETokenizer",
    "ByteTokenizer",
    "CharTokenizer",
    "Encodings",
    "TextStream",
    "Tokenizer",
    "UnigramTokenizer",
    "WordLevelTokenizer",
    "WordPieceTokenizer",
    "encode_texts",
    "gpt2",
    "load_gpt2_files",
    "load_sentencepiece",
    "load_tiktoken",
    "load_tokenizer",
    "load_vocab_txt",
    "split",
    "train_tokenizer",
]
