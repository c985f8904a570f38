"""Replacements of the U-Net. Extensions look at ``current_unet``; this host never sets it."""

from __future__ import annotations

current_unet = None
current_unet_option = None


def apply_unet(option=None) -> None:
    """Called before sampling, where the real host would activate a replacement."""
