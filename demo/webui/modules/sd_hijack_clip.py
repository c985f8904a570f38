"""The text encoder: prompts of any length in chunks of 75 tokens, with emphasis and embeddings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from modules import devices, prompt_parser, sd_emphasis
from modules.shared import opts


@dataclass
class PromptChunk:
    """77 tokens with BOS and EOS, a multiplier for each, and the embeddings that replace some of them."""

    tokens: list[int] = field(default_factory=list)
    multipliers: list[float] = field(default_factory=list)
    fixes: list[PromptChunkFix] = field(default_factory=list)


class PromptChunkFix(NamedTuple):
    """Textual inversion vectors that go in place of the tokens from ``offset`` on (BOS not counted)."""

    offset: int
    embedding: object


class _ChunkBuilder:
    """Collects tokens and closes a chunk when it is full."""

    def __init__(self, encoder: FrozenCLIPEmbedderWithCustomWords):
        self.encoder = encoder
        self.closed: list[PromptChunk] = []
        self.current = PromptChunk()
        self.after_comma: int | None = None
        """How many tokens of the current chunk reach up to its last comma."""

    @property
    def room(self) -> int:
        return self.encoder.chunk_length - len(self.current.tokens)

    def close(self) -> None:
        encoder, chunk = self.encoder, self.current
        padding = self.room
        chunk.tokens = [encoder.id_start, *chunk.tokens, *[encoder.id_end] * (padding + 1)]
        chunk.multipliers = [1.0, *chunk.multipliers, *[1.0] * (padding + 1)]
        self.closed.append(chunk)
        self.current = PromptChunk()
        self.after_comma = None

    def _wrap_after_comma(self) -> None:
        """Move what follows a recent comma into the next chunk, so that the phrase is not torn."""
        chunk, cut = self.current, self.after_comma
        fixes = [PromptChunkFix(fix.offset - cut, fix.embedding) for fix in chunk.fixes if fix.offset >= cut]
        moved = PromptChunk(chunk.tokens[cut:], chunk.multipliers[cut:], fixes)
        del chunk.tokens[cut:], chunk.multipliers[cut:]
        chunk.fixes = [fix for fix in chunk.fixes if fix.offset < cut]
        self.close()
        self.current = moved

    def make_room(self, token: int) -> None:
        """Prepare for one more token."""
        if token == self.encoder.comma_token:
            self.after_comma = len(self.current.tokens) + 1
        elif self.room == 0 and self.after_comma is not None:
            since_comma = len(self.current.tokens) - self.after_comma
            if since_comma < opts.comma_padding_backtrack:
                self._wrap_after_comma()
        if self.room == 0:
            self.close()

    def add(self, tokens: list[int], weight: float) -> None:
        self.current.tokens += tokens
        self.current.multipliers += [weight] * len(tokens)


class FrozenCLIPEmbedderWithCustomWords(nn.Module):
    """Wraps the checkpoint's text encoder (``wrapped``: tokenizer and CLIP ``transformer``)."""

    def __init__(self, wrapped: nn.Module, hijack):
        super().__init__()
        self.wrapped = wrapped
        self.hijack = hijack
        self.chunk_length = 75
        self.is_trainable = False
        self.input_key = "txt"
        self.return_pooled = False
        self.tokenizer = wrapped.tokenizer
        self.comma_token = self.tokenizer.get_vocab().get(",</w>")
        self.id_start: int = self.tokenizer.bos_token_id
        self.id_end: int = self.tokenizer.eos_token_id
        self.id_pad = self.id_end

    def empty_chunk(self) -> PromptChunk:
        builder = _ChunkBuilder(self)
        builder.close()
        return builder.closed[0]

    def get_target_prompt_token_count(self, token_count: int) -> int:
        """Room for tokens in the chunks that this many tokens need."""
        return math.ceil(max(token_count, 1) / self.chunk_length) * self.chunk_length

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """Token ids without BOS, EOS and padding, however many there are."""
        return self.tokenizer(texts, truncation=False, add_special_tokens=False)["input_ids"]

    def tokenize_line(self, line: str) -> tuple[list[PromptChunk], int]:
        """The chunks of a prompt, and its number of tokens (full chunks count 75)."""
        parsed = prompt_parser.parse_prompt_attention(line) if opts.emphasis != "None" else [[line, 1.0]]
        builder = _ChunkBuilder(self)
        for tokens, (text, weight) in zip(self.tokenize([text for text, _ in parsed]), parsed, strict=True):
            if text == "BREAK" and weight == -1:
                builder.close()
                continue
            position = 0
            while position < len(tokens):
                builder.make_room(tokens[position])
                embedding, length = self.hijack.embedding_db.find_embedding_at_position(tokens, position)
                if embedding is None:
                    builder.add([tokens[position]], weight)
                    position += 1
                    continue
                if embedding.vectors > builder.room:
                    builder.close()
                builder.current.fixes.append(PromptChunkFix(len(builder.current.tokens), embedding))
                builder.add([0] * embedding.vectors, weight)
                position += length
        token_count = self.chunk_length * len(builder.closed) + len(builder.current.tokens)
        if builder.current.tokens or not builder.closed:
            builder.close()
        return builder.closed, token_count

    def process_texts(self, texts: list[str]) -> tuple[list[list[PromptChunk]], int]:
        """The chunks of each text, and the largest number of tokens."""
        lines = {text: self.tokenize_line(text) for text in dict.fromkeys(texts)}
        return [lines[text][0] for text in texts], max((count for _, count in lines.values()), default=0)

    def forward(self, texts: list[str]) -> Tensor:
        """Encoded prompts ``[B, 77 * chunks, C]``."""
        batch, _ = self.process_texts(texts)
        encoded = []
        for index in range(max(len(chunks) for chunks in batch)):
            column = [chunks[index] if index < len(chunks) else self.empty_chunk() for chunks in batch]
            self.hijack.fixes = [chunk.fixes for chunk in column]
            encoded.append(
                self.process_tokens(
                    [chunk.tokens for chunk in column], [chunk.multipliers for chunk in column]
                )
            )
        self._add_infotext(texts, batch)
        return torch.hstack(encoded)

    def _add_infotext(self, texts: list[str], batch: list[list[PromptChunk]]) -> None:
        fixes = [fix for chunks in batch for chunk in chunks for fix in chunk.fixes]
        hashes = {fix.embedding.name: fix.embedding.shorthash for fix in fixes}
        if hashes:
            self.hijack.extra_generation_params["TI hashes"] = ", ".join(
                f"{k}: {v}" for k, v in hashes.items()
            )
        if opts.emphasis != "Original" and any("(" in text or "[" in text for text in texts):
            self.hijack.extra_generation_params["Emphasis"] = opts.emphasis

    def process_tokens(
        self, remade_batch_tokens: list[list[int]], batch_multipliers: list[list[float]]
    ) -> Tensor:
        """One chunk of each prompt, encoded and emphasised: ``[B, 77, C]``."""
        emphasis = sd_emphasis.get_current_option(opts.emphasis)()
        emphasis.tokens = remade_batch_tokens
        emphasis.multipliers = torch.tensor(batch_multipliers, device=devices.device)
        emphasis.z = self.encode_with_transformers(torch.tensor(remade_batch_tokens, device=devices.device))
        emphasis.after_transformers()
        return emphasis.z

    def encode_with_transformers(self, tokens: Tensor) -> Tensor:
        """CLIP's output for token ids ``[B, 77]``, from an earlier layer with clip skip."""
        skip = opts.CLIP_stop_at_last_layers
        output = self.wrapped.transformer(input_ids=tokens, output_hidden_states=skip > 1)
        if skip <= 1:
            return output.last_hidden_state
        return self.wrapped.transformer.text_model.final_layer_norm(output.hidden_states[-skip])

    def encode_embedding_init_text(self, init_text: str, nvpt: int) -> Tensor:
        """Token embeddings ``[at most nvpt, C]`` of a text, before the transformer."""
        ids = torch.tensor(self.tokenize([init_text])[0][:nvpt], dtype=torch.long, device=devices.device)
        return self.wrapped.transformer.text_model.embeddings.token_embedding.wrapped(ids)
