"""Text from models: prefill, step and stop; samplers; streams of text; scores.

ids = generate(model, input_ids, max_new_tokens=64, top_k=50)
best = beam_search(model, input_ids, num_beams=4)
done = generate_text(model, tokenizer, ["Once upon a time"], temperature=0.8)
found = search_text(model, tokenizer, ["Once upon a time"], num_beams=4)
"""

from __future__ import annotations

from formers.generation.beam import BeamSettings, Hypothesis, beam_search
from formers.generation.loop import Generation, Step, complete, generate, generate_stream
from formers.generation.prompt_cache import PromptCache
from formers.generation.samplers import Sampler, SampleSettings
from formers.generation.scores import score, token_log_probs
from formers.generation.settings import GenerateSettings
from formers.generation.steering import Chosen, choose, generate_allowed, generate_between, generate_toward
from formers.generation.text import Completion, Found, Piece, generate_text, search_text, stream_text

__all__ = [
    "BeamSettings",
    "Chosen",
    "Completion",
    "Found",
    "GenerateSettings",
    "Generation",
    "Hypothesis",
    "Piece",
    "PromptCache",
    "SampleSettings",
    "Sampler",
    "Step",
    "beam_search",
    "choose",
    "complete",
    "generate",
    "generate_allowed",
    "generate_between",
    "generate_stream",
    "generate_text",
    "generate_toward",
    "score",
    "search_text",
    "stream_text",
    "token_log_probs",
]
