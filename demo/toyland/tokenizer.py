"""Toyland's tokenizer: a small byte-level BPE vocabulary in CLIP's own format."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from .world import WORDS

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77


def write_tokenizer(folder: Path) -> int:
    """Write ``vocab.json`` and ``merges.txt``; every word of the world becomes one token.

    Returns the number of entries. BOS and EOS are the last two ids, as in CLIP.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,
        min_frequency=1,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator([[word] for word in WORDS], trainer)
    trained = json.loads(bpe.to_str())["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in trained["merges"]]
    # CLIP's order: every byte, every byte that ends a word, the merges, BOS, EOS.
    tokens = alphabet + [f"{byte}</w>" for byte in alphabet] + ["".join(m.split(" ")) for m in merges]
    tokens = list(dict.fromkeys(tokens)) + [BOS, EOS]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    special = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"model_max_length": LENGTH, "tokenizer_class": "CLIPTokenizer", **special}, indent=2)
        + "\n"
    )
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    split = [w for w in WORDS if len(tokenizer.tokenize(w)) != 1]
    if split:
        raise RuntimeError(f"words that are more than one token: {split}")
    return len(tokens)
