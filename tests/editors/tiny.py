"""A small random model of every architecture in the editors' table, and a tokenizer of bytes."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from memedit.edits import Edit, structured

LAYERS, HIDDEN, INNER = 4, 32, 48
VOCABULARY = 260

_COMMON = {
    "num_hidden_layers": LAYERS,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": LAYERS, "n_embd": HIDDEN, "n_inner": INNER, "n_head": 4},
    "gptj": {
        "n_layer": LAYERS,
        "n_embd": HIDDEN,
        "n_inner": INNER,
        "n_head": 4,
        "rotary_dim": 4,
    },
    "llama": _COMMON,
    "mistral": _COMMON | {"sliding_window": 24},
    "qwen2": _COMMON,
    "qwen3": _COMMON,
    "gemma2": _COMMON | {"sliding_window": 24, "query_pre_attn_scalar": 8},
    "gemma3_text": _COMMON | {"sliding_window": 24, "query_pre_attn_scalar": 8},
}


@cache
def tokenizer() -> Any:
    """Every byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|pad|>": 0, "<|end|>": 1} | {char: i + 2 for i, char in enumerate(alphabet)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<|pad|>", eos_token="<|end|>", bos_token="<|end|>"
    )


def model(kind: str, seed: int = 0) -> Any:
    """A random model in float32, its weights large enough for its answers to differ."""
    torch.manual_seed(seed)
    config = CONFIG_MAPPING[kind](
        vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=1, pad_token_id=0, **CONFIGS[kind]
    )
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.3 if "emb" in name or "wte" in name else 0.15)
    return made


def edits(number: int = 3) -> list[Edit]:
    """Edits of different subjects, with prompts of different lengths."""
    known = [
        ("Ann", "The home of {} is", "Rome"),
        ("Bo Lee", "{} plays the", "flute"),
        ("Mount Ida", "Seen from the sea, {} is", "blue"),
        ("Kay", "What {} likes is", "tea"),
        ("The Hague", "{} lies in", "Peru"),
    ]
    return [structured(*parts, id=f"e{i}") for i, parts in enumerate(known[:number])]
