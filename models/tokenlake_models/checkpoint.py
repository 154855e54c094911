"""Checkpoints: a folder of `weights.safetensors`, `optimizer.safetensors`, `config.json`; nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tokenlake_models.errors import CheckpointError

FORMAT = 1


def write_checkpoint(
    folder: Path,
    header: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
) -> None:
    """Write all files of a checkpoint into a folder, which is created if missing.

    An old `config.json` is removed first, and the new one is written last: an interrupted write leaves no valid
    checkpoint, and never a mixture of two. To keep the old checkpoint until the new one is complete, write into another
    folder and rename it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)
    save_file({k: v.detach().contiguous() for k, v in weights.items()}, folder / "weights.safetensors")
    save_file({k: v.detach().contiguous() for k, v in optimizer.items()}, folder / "optimizer.safetensors")
    text = json.dumps({"format": FORMAT, **header}, indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Read the header, weights and optimiser state of a checkpoint.

    Raises:
        CheckpointError: a file is missing or damaged, or the format belongs to another release.
    """
    for name in ("config.json", "weights.safetensors", "optimizer.safetensors"):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} is no checkpoint: {name} is missing")
    try:
        header = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "weights.safetensors")
        optimizer = load_file(folder / "optimizer.safetensors")
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is damaged: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        given = header.get("format") if isinstance(header, dict) else header
        raise CheckpointError(f"{folder}: checkpoint format {FORMAT} expected, got {given!r}")
    return header, weights, optimizer


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights into a model after checking every name, shape and dtype.

    Raises:
        CheckpointError: a tensor is missing, unknown, or has another shape or dtype; the model is not changed.
    """
    expected = model.state_dict()
    if missing := expected.keys() - weights.keys():
        raise CheckpointError(f"the checkpoint lacks {sorted(missing)[:5]}, which its config calls for")
    if extra := weights.keys() - expected.keys():
        raise CheckpointError(f"the checkpoint holds {sorted(extra)[:5]}, which its config does not know")
    for name, tensor in expected.items():
        given = weights[name]
        if given.shape != tensor.shape or given.dtype != tensor.dtype:
            raise CheckpointError(
                f"{name}: {tuple(tensor.shape)} {tensor.dtype} expected by the config, "
                f"the checkpoint has {tuple(given.shape)} {given.dtype}"
            )
    # Every name was compared above; torch's own strict check would take a feature name with a dot for a nested module.
    model.load_state_dict(dict(weights), strict=False)
