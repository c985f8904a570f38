"""The VAE is the checkpoint's own."""

from __future__ import annotations

loaded_vae_file = None


def get_loaded_vae_name() -> str | None:
    return None


def get_loaded_vae_hash() -> str | None:
    return None
