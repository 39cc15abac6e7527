"""Training the relation verifier: low-rank changes of the packaged encoder, and a head."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from memedit.encoders import packaged_folder
from memedit.scope.relation import HEAD, PREFIX, mean_of, padded, pair_ids, token_ids

RANK, ALPHA = 16, 32
STEPS, BATCH, RATE = 5_000, 64, 1e-3
SMOOTHING = 0.01
MOST = 32.0
REST = 0.15
"""How often a pair is drawn that was answered without error when it was last seen, beside one that
was answered wrong, or not yet."""

TARGETS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
"""The matrices of each layer that get a change."""

_AT_ONCE = 4
# Batches drawn together and then sorted by length, so that little is padded.


class LowRank(nn.Module):  # type: ignore[misc]
    """A linear layer that stays as it is, and a change of rank :data:`RANK` beside it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(
            torch.randn(RANK, linear.in_features) / math.sqrt(linear.in_features)
        )
        self.up = nn.Parameter(torch.zeros(linear.out_features, RANK))

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        change = nn.functional.linear(nn.functional.linear(inputs, self.down), self.up)
        out: Tensor = self.linear(inputs) + change * (ALPHA / RANK)
        return out


class Learner(nn.Module):  # type: ignore[misc]
    """The encoder with its changes and the head; what :mod:`memedit.scope.relation` later merges.

    Args:
        seed: of the changes and of what is left out in training.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        base = packaged_folder()
        self.tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        self.model = AutoModel.from_pretrained(base, local_files_only=True, dtype=torch.float32)
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        self.changes: dict[str, LowRank] = {}
        for name, module in list(self.model.named_modules()):
            if isinstance(module, nn.Linear) and any(
                name.endswith(f"{i}.{target}") for target in TARGETS for i in range(99)
            ):
                changed = LowRank(module)
                self.model.set_submodule(name, changed)
                self.changes[name] = changed
        self.head = nn.Linear(self.model.config.hidden_size, 1)
        nn.init.normal_(self.head.weight, std=0.02)
        self._ids: dict[str, tuple[int, ...]] = {}

    def forward(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        """The log-odds of each pair, shape (pairs,)."""
        rows = [pair_ids(self._tokens(query), self._tokens(key)) for query, key in pairs]
        ids, types, mask = padded(torch, rows, "cpu")
        states = self.model(
            input_ids=ids, token_type_ids=types, attention_mask=mask
        ).last_hidden_state
        out: Tensor = self.head(mean_of(states, mask).float()).squeeze(-1)
        return out

    def _tokens(self, text: str) -> tuple[int, ...]:
        if text not in self._ids:
            self._ids[text] = token_ids(self.tokenizer, text)
        return self._ids[text]

    def save(self, folder: Path) -> None:
        """Writes the changes and the head in the layout of a PEFT adapter, in 16 bits."""
        from safetensors.torch import save_file

        tensors = {}
        for name, change in self.changes.items():
            tensors[f"{PREFIX}{name}.lora_A.weight"] = change.down
            tensors[f"{PREFIX}{name}.lora_B.weight"] = change.up
        for name, tensor in zip(HEAD, (self.head.weight, self.head.bias), strict=True):
            tensors[PREFIX + name] = tensor
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: t.detach().to(torch.float16).contiguous() for name, t in tensors.items()},
            str(folder / "adapter_model.safetensors"),
            metadata={"format": "pt"},
        )
        config = {
            "peft_type": "LORA",
            "base_model_name_or_path": "sentence-transformers/all-MiniLM-L6-v2",
            "task_type": "FEATURE_EXTRACTION",
            "r": RANK,
            "lora_alpha": ALPHA,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": list(TARGETS),
            "inference_mode": True,
        }
        text = json.dumps(config, indent=2) + "\n"
        (folder / "adapter_config.json").write_text(text, encoding="utf-8")


def learn(
    counts: Mapping[tuple[str, str], Sequence[float]],
    seed: int,
    *,
    steps: int = STEPS,
    say: Callable[[str], None] = print,
) -> tuple[Learner, list[float]]:
    """A learner trained on pairs.

    A pair is drawn by the square root of how often it was counted, at most :data:`MOST` times, and
    the more often the further its last answer was off; what it is to say is the share of its counts
    that are in scope. Source of the second: prioritised sampling, Schaul et al. 2016
    (arXiv:1511.05952), without its correction, as the probabilities are calibrated afterwards.

    Args:
        counts: for each pair of texts how often it was in scope, and out of it.
        seed: of the initial values and of the order.
        steps: batches of :data:`BATCH` pairs.
        say: is told of the progress, a line a hundred steps.

    Returns:
        The learner, and the mean loss of each hundred steps, in nats, of the pairs as drawn.
    """
    learner = Learner(seed)
    pairs = list(counts)
    both = np.array([counts[pair] for pair in pairs])
    target = both[:, 0] / both.sum(axis=1) * (1 - 2 * SMOOTHING) + SMOOTHING
    count = np.sqrt(np.minimum(both.sum(axis=1), MOST))
    error = np.ones(len(pairs))
    lengths = np.array([len(query) + len(key) for query, key in pairs])
    parameters = [p for p in learner.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=steps, pct_start=0.08
    )
    random = np.random.default_rng(seed)
    waiting: list[NDArray[np.int64]] = []
    losses: list[float] = []
    total, started = 0.0, time.monotonic()
    learner.train()
    for step in range(1, steps + 1):
        if not waiting:
            chance = count * np.maximum(error, REST)
            drawn = random.choice(len(pairs), BATCH * _AT_ONCE, p=chance / chance.sum())
            drawn = drawn[np.argsort(lengths[drawn], kind="stable")]
            waiting = [drawn[i : i + BATCH] for i in range(0, len(drawn), BATCH)]
            waiting = [waiting[i] for i in random.permutation(len(waiting))]
        batch = waiting.pop()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = learner([pairs[i] for i in batch])
        wanted = torch.tensor(target[batch], dtype=torch.float32)
        loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), wanted)
        error[batch] = (logits.detach().float().sigmoid() - wanted).abs().numpy()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        total += loss.item()
        if step % 100 == 0 or step == steps:
            losses.append(round(total / (step % 100 or 100), 4))
            total = 0.0
            seconds = time.monotonic() - started
            say(f"step {step} of {steps}: loss {losses[-1]}, {seconds:.0f} s")
    learner.eval()
    return learner, losses
