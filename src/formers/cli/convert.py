"""`formers convert`: load, then save."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from formers.cli.console import emit, remark, stdout
from formers.cli.parse import Flag, parse
from formers.hub import targets


@dataclass(frozen=True)
class Options:
    """Read a model, check every tensor and setting, and write it as a Hugging Face folder with its tokenizer."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """A run, a checkpoint folder, a hub name, or an architecture such as gpt2.tiny."""
    destination: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST")]
    """The folder to write."""
    long: int | None = None
    """Tokens of the longest text, for a bert or a longformer made into a longer longformer (formers.lengthen)."""
    windows: int | None = None
    """How many tokens around its own a token of a longformer, or of a t5's encoder, sees, where that is to change."""
    code: str | None = None
    """file.py:function, for a run of a model of your own."""
    max_shard_size: str = "50GB"
    """Of one weight file, such as 500MB or 5GiB; more is cut into shards with an index."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> None:
    options = parse(Options, arguments, "convert")
    targets.parse(options.source)
    from formers.hub import lengthen, save, user_code
    from formers.hub.folders import kept_settings
    from formers.tasks.opening import SENTENCE_FILES

    found = targets.resolve(options.source, code=options.code)
    remark(found.note)
    code = options.code or (options.source if found.kind == "code" else None)
    model = found.model
    if options.long is not None or options.windows is not None:
        model = lengthen(model, max_length=options.long, windows=options.windows)
    written = save(
        model,
        options.destination,
        tokenizer=found.tokenizer,
        code=None if code is None else user_code.record(code),
        settings=kept_settings(found.folder),
        max_shard_size=options.max_shard_size,
    )
    left = [name for name in SENTENCE_FILES if found.folder is not None and (found.folder / name).is_file()]
    if left:
        remark(f"not taken along: {', '.join(left)}; pipelines read there how vectors are made of a text")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    files = sorted(path.name for path in written.iterdir())
    if options.json:
        return emit({"folder": written, "parameters": parameters, "files": files})
    stdout().print(f"written: {written} ({parameters:,} parameters; {', '.join(files)})", markup=False)
    return None
