"""Files of Galileo's encoders: weights under the published names and under ours, read and published again.

encoder.safetensors or encoder.pt   state dict under the published names
config.json, normalization.json     width, depth and so on; what reflectances are scaled by
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from geomae.files import publish_dir, write_json
from geomae.models.convert.state_dicts import read_weights
from geomae.models.folder import save_tensors

SAFE, TORCH = "encoder.safetensors", "encoder.pt"  # the first is taken where both are there
FILES = (TORCH, "config.json", "normalization.json")
CARRIED = ("config.json", "normalization.json", "LICENSE", "LICENSE.txt", "LICENSE.md")  # to an adapted folder
PROVENANCE = "provenance.json"  # of an adapted folder
PARTS = "qkv"  # maps of attention that timm has as one


def weights_file(folder: Path) -> Path:
    """Where the weights of a folder are."""
    return folder / SAFE if (folder / SAFE).is_file() else folder / TORCH


def read_renamed(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder under our names: query, key and value in one map, as timm has them."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in read_weights(weights_file(folder)).items():
        name, part = our_name(key)
        found.setdefault(name, {})[part] = value
    return {
        name: parts[""] if "" in parts else torch.cat([parts.get(one, next(iter(parts.values()))[:0]) for one in PARTS])
        for name, parts in found.items()
    } | {name: parts[""][:1] for name, parts in found.items() if name == "pos_embed"}  # of the first date


def our_name(key: str) -> tuple[str, str]:
    """What we call a published weight, and which part of ours it is: q, k, v, or all of it ('')."""
    name = key.replace(".backbone", "")
    for part in PARTS:
        if f".attn.{part}." in name:
            return name.replace(f".attn.{part}.", ".attn.qkv."), part
    if name.startswith("space_time_embed."):
        return name.replace("space_time_embed.", "embed.").replace(".proj.", "."), ""
    return {"month_embed.weight": "month_embed"}.get(name, name), ""


def publish(folder: Path, origin: Path, weights: Mapping[str, Tensor], provenance: Mapping[str, object]) -> None:
    """Publish `weights` (under our names) at `folder` as those in `origin` are: what they lack stays as it is there.

    Licence, configuration and normalisation are carried along.
    """
    changed: dict[str, Tensor] = {}
    for key, value in read_weights(weights_file(origin)).items():
        name, part = our_name(key)
        ours = weights.get(name, value)
        new = ours.chunk(3)[PARTS.index(part)] if part else ours
        changed[key] = (new if new.shape == value.shape else value).detach().float().cpu().contiguous().clone()
    with publish_dir(folder) as temporary:
        save_tensors(changed, temporary / SAFE)
        for name in CARRIED:
            if (origin / name).is_file():
                shutil.copyfile(origin / name, temporary / name)
        write_json(temporary / PROVENANCE, dict(provenance))
