"""Textual inversion embeddings: ``NAME.safetensors`` or ``NAME.pt`` in the embeddings folder."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field

import torch
from safetensors.torch import load_file
from torch import Tensor

from modules import errors, shared


@dataclass(eq=False)
class Embedding:
    """Vectors ``vec [vectors, C]`` that stand for ``name`` in a prompt."""

    vec: Tensor
    name: str
    filename: str = ""
    shorthash: str = ""
    step: int | None = None
    sd_checkpoint: str | None = None
    sd_checkpoint_name: str | None = None
    vectors: int = field(init=False)
    shape: int = field(init=False)

    def __post_init__(self):
        self.vectors, self.shape = self.vec.shape


def read_vectors(path: str) -> Tensor:
    """Vectors ``[n, C]`` of a file in one of the three usual layouts; ``ValueError`` for another one."""
    if path.endswith(".safetensors"):
        data = load_file(path)
    else:
        data = torch.load(path, map_location="cpu", weights_only=True)
    data = data.get("string_to_param", data)
    tensors = [value for value in data.values() if isinstance(value, Tensor)]
    if len(tensors) != 1:
        raise ValueError(f"{path} holds {len(tensors)} tensors where an embedding of this model has one")
    vec = tensors[0].detach().float()
    return vec if vec.dim() == 2 else vec.unsqueeze(0)


class EmbeddingDatabase:
    def __init__(self):
        self.word_embeddings: dict[str, Embedding] = {}
        self.skipped_embeddings: dict[str, Embedding] = {}
        self.embedding_dirs: dict[str, str] = {}
        self.ids_lookup: dict[int, list[tuple[list[int], Embedding]]] = {}
        self._seen: dict[str, float] | None = None

    def add_embedding_dir(self, path: str) -> None:
        self.embedding_dirs[path] = path

    def _files(self) -> dict[str, float]:
        return {
            entry.path: entry.stat().st_mtime
            for folder in self.embedding_dirs if os.path.isdir(folder)
            for entry in os.scandir(folder) if entry.name.endswith((".pt", ".safetensors", ".bin"))
        }  # fmt: skip

    def load_textual_inversion_embeddings(self, force_reload: bool = False) -> None:
        """Read the folders when they changed; a file that cannot be read is reported and left out."""
        files = self._files()
        if files == self._seen and not force_reload:
            return
        self._seen = files
        for known in (self.word_embeddings, self.skipped_embeddings, self.ids_lookup):
            known.clear()
        model = shared.sd_model.cond_stage_model
        width = model.encode_embedding_init_text(",", 1).shape[1]
        for path in sorted(files):
            name = os.path.splitext(os.path.basename(path))[0]
            try:
                with open(path, "rb") as file:
                    digest = hashlib.sha256(file.read()).hexdigest()[:12]
                embedding = Embedding(read_vectors(path), name, path, digest)
                if embedding.shape == width:
                    self.register_embedding(embedding, shared.sd_model)
                else:
                    self.skipped_embeddings[name] = embedding
            except Exception:
                errors.report(f"Error loading embedding {os.path.basename(path)}", exc_info=True)

    def register_embedding(self, embedding: Embedding, model) -> None:
        """Make the embedding's name mean its vectors."""
        self.word_embeddings[embedding.name] = embedding
        ids = model.cond_stage_model.tokenize([embedding.name])[0]
        matches = self.ids_lookup.setdefault(ids[0], [])
        matches.append((ids, embedding))
        matches.sort(key=lambda match: len(match[0]), reverse=True)

    def find_embedding_at_position(
        self, tokens: list[int], offset: int
    ) -> tuple[Embedding | None, int | None]:
        """The embedding whose name starts here, and how many tokens its name has."""
        for ids, embedding in self.ids_lookup.get(tokens[offset], []):
            if tokens[offset : offset + len(ids)] == ids:
                return embedding, len(ids)
        return None, None
