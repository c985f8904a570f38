"""Concept erasure during image generation: EIUP (arXiv 2408.01014).

Everything here but ``eiup.webui`` runs without the webui.
"""

__version__ = "0.1.0"
