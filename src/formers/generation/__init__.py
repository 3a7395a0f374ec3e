"""Text from models: prefill, step and stop; samplers; streams; scores."""
