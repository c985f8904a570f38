"""Puts the host's text encoder around the checkpoint's own."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from modules import shared
from modules.textual_inversion.textual_inversion import EmbeddingDatabase


class EmbeddingsWithFixes(nn.Module):
    """CLIP's token embedding, with textual inversion vectors put in where a prompt asks for them."""

    def __init__(self, wrapped: nn.Embedding, hijack: StableDiffusionModelHijack):
        super().__init__()
        self.wrapped = wrapped
        self.embeddings = hijack

    def forward(self, input_ids: Tensor) -> Tensor:
        fixes, self.embeddings.fixes = self.embeddings.fixes, None
        vectors = self.wrapped(input_ids)
        for row, row_fixes in enumerate(fixes or []):
            for offset, embedding in row_fixes:
                # One more for BOS, which offsets do not count.
                vectors[row, offset + 1 : offset + 1 + embedding.vectors] = embedding.vec
        return vectors


class StableDiffusionModelHijack:
    def __init__(self):
        self.fixes: list | None = None
        self.comments: list[str] = []
        self.extra_generation_params: dict = {}
        self.clip: nn.Module | None = None
        self.embedding_db = EmbeddingDatabase()
        self.embedding_db.add_embedding_dir(shared.cmd_opts.embeddings_dir)

    def hijack(self, m: nn.Module) -> None:
        from modules import sd_hijack_clip

        embeddings = m.cond_stage_model.transformer.text_model.embeddings
        embeddings.token_embedding = EmbeddingsWithFixes(embeddings.token_embedding, self)
        m.cond_stage_model = sd_hijack_clip.FrozenCLIPEmbedderWithCustomWords(m.cond_stage_model, self)
        self.clip = m.cond_stage_model

    def clear_comments(self) -> None:
        self.comments = []
        self.extra_generation_params = {}

    def get_prompt_lengths(self, text: str) -> tuple[int | str, int | str]:
        """Number of tokens, and how many fit into the chunks that they need."""
        if self.clip is None:
            return "-", "-"
        _, count = self.clip.process_texts([text])
        return count, self.clip.get_target_prompt_token_count(count)

    def load_embeddings(self) -> None:
        if os.path.isdir(shared.cmd_opts.embeddings_dir):
            with torch.no_grad():
                self.embedding_db.load_textual_inversion_embeddings()


model_hijack = StableDiffusionModelHijack()
