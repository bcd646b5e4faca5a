"""Data: prompts, corpora, latents."""
