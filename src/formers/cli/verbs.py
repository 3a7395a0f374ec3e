"""The verbs, as data: name, module, one line. Help, dispatch, suggestions and the documentation test read this table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """`module` has ``main(arguments) -> exit code``; it is imported only when its verb is called."""

    name: str
    usage: str
    summary: str
    group: str

    @property
    def module(self) -> str:
        return "formers.cli." + self.name.replace(" ", "_").replace("-", "_")


START, WORK, LOOK, TRY = "Start", "Work", "Look", "Try a claim of a paper: data, a plot, a verdict"
LEARN = "Learn from labelled data: a figure, its interval, what needs no model"

_ALL = (
    Verb(
        "demo",
        "[--minutes M]",
        "three architectures trained as long on real text: which wins; samples, a report",
        START,
    ),
    Verb("doctor", "", "what this machine can do, what will be slow and why", START),
    Verb("new block", "NAME", "write a file of your own: a sublayer, a config, a recipe", START),
    Verb("data build", "SOURCE... --out DIR", "text files to token shards with a tokenizer of their own", WORK),
    Verb("data images", "FILE.npy --out DIR", "images to token shards, a byte a token, an image a document", WORK),
    Verb("train", "RECIPE [FILE...]", "train a recipe on shards, on files, or on the recipe's own text", WORK),
    Verb(
        "compare",
        "RECIPE... --budget B",
        "recipes at the same budget on the same text: which wins, or cannot tell",
        WORK,
    ),
    Verb("tune", "RECIPE --trials N", "search learning rate and sizes under a budget; says what mattered", WORK),
    Verb("eval", "RUN [--data DIR]", "bits per byte, perplexity and accuracy on validation text", WORK),
    Verb("generate", "RUN PROMPT", "continue a prompt", WORK),
    Verb(
        "pipe",
        "TASK --model M TEXT...",
        "a model at its task: fill-mask, ner, question-answering, translation, ..",
        WORK,
    ),
    Verb("convert", "SRC DST", "load a model and write it as a Hugging Face folder", WORK),
    Verb("push", "FOLDER REPO", "a model and its card, made from the run's own record, to the Hugging Face hub", WORK),
    Verb("graft", "RUN --out DIR", "give a trained decoder a memory that changes nothing until it is trained", WORK),
    Verb(
        "memorise", "RUN FILE... --out DIR", "read texts once, for every prompt of a model with a memory to find", WORK
    ),
    Verb(
        "plan",
        "RECIPE | RUN",
        "memory and time of a training before it begins, what would fit; of a run, against fact",
        LOOK,
    ),
    Verb("schedule", "RECIPE", "the learning rate of every step, drawn before anything is trained", LOOK),
    Verb("certify", "TARGET", "try the laws that every model must obey; exit code 1 where one fails", LOOK),
    Verb("diff", "A B", "two implementations or checkpoints: the first activation and gradient that differ", LOOK),
    Verb("show", "TARGET", "the tree of modules: shapes, parameters, sharing, bytes, cost", LOOK),
    Verb(
        "trace",
        "TARGET [TEXT]",
        "what goes into every module and comes out of it: names, shapes, types, range",
        LOOK,
    ),
    Verb("report", "RUN... --out FILE", "one self-contained HTML page from one or more runs", LOOK),
    Verb("lookups", "RUN FILE", "where each token of a text looked in a model's memory, as a page: hover a word", LOOK),
    Verb("runs", "[FOLDER]", "the runs in a folder, the newest first", LOOK),
    Verb("models", "", "the architectures and their presets", LOOK),
    Verb("crossover", "", "time and memory of each mechanism against length, and where it beats full attention", LOOK),
    Verb("experiment vocabulary", "", "tokenizers of many kinds and sizes on one corpus: bytes a token", LOOK),
    Verb("experiment recall", "", "pairs asked for far beyond the window, with a memory and without", TRY),
    Verb(
        "experiment grid",
        "RUN --vary A=1,2 B=3,4",
        "settings of one trained model in every combination: loss, work, time, bytes",
        TRY,
    ),
    Verb("experiment search", "RUN", "what share of the nearest approximate look-ups find, on a model's own keys", TRY),
    Verb("experiment memory-size", "RUN", "one model's loss on whole documents, against the size of its memory", TRY),
    Verb(
        "experiment memory",
        "--data DIR",
        "a small model with a memory, beside one without, a larger and a longer one",
        TRY,
    ),
    Verb("experiment duplication", "", "a word said again, by full attention and by rounds of hashing (Reformer)", TRY),
    Verb("experiment induction", "", "a sequence that comes again: one block of a mosaic, one and two of GPT-2", TRY),
    Verb("experiment moons", "", "three periods at once: three memories that share them, and one that waits", TRY),
    Verb("experiment packages", "", "write long documents to train on: this machine's Python packages", TRY),
    Verb("experiment entities", "DATA --init M", "named entities from words with tags: F1 on articles held out", LEARN),
    Verb("experiment sentiment", "DATA --init M", "negative, neutral, positive from rated texts: accuracy", LEARN),
    Verb(
        "experiment sentence-order",
        "",
        "encoders trained for the order of sentences or the next one: each asked both",
        TRY,
    ),
    Verb("experiment synopsis", "DATA", "a description's synopsis, by an encoder-decoder: ROUGE-L", LEARN),
    Verb("experiment translation", "DATA --pair en-de", "texts of one language in another: chrF and BLEU", LEARN),
)

VERBS: dict[str, Verb] = {verb.name: verb for verb in _ALL}
