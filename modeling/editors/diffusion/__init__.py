"""Editors that are diffusion models (paper Sec. 5.1), on Hugging Face diffusers.

One file per method; `core.py` holds what they share: options, loading, batches, seeds, failures.
"""
