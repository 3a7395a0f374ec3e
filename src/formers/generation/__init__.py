"""Text from models: prefill, step and stop; samplers; streams of text; scores.

ids = generate(model, input_ids, max_new_tokens=64, top_k=50)
best = beam_search(model, input_ids, num_beams=4)
done = generate_text(model, tokenizer, ["Once upon a time"], temperature=0.8)
"""

from __future__ import annotations

from formers.generation.beam import BeamSettings, Hypothesis, beam_search
from formers.generation.loop import Generation, Step, complete, generate, generate_stream
from formers.generation.prompt_cache import PromptCache
from formers.generation.samplers import Sampler, SampleSettings
from formers.generation.scores import score, token_log_probs
from formers.generation.settings import GenerateSettings
from formers.generation.text import Completion, Piece, generate_text, stream_text

__all__ = [
    "BeamSettings",
    "Completion",
    "GenerateSettings",
    "Generation",
    "Hypothesis",
    "Piece",
    "PromptCache",
    "SampleSettings",
    "Sampler",
    "Step",
    "beam_search",
    "complete",
    "generate",
    "generate_stream",
    "generate_text",
    "score",
    "stream_text",
    "token_log_probs",
]
