"""Files of Galileo's encoders: reads weights, renames them to ours, and publishes them under the published names.

encoder.safetensors or encoder.pt   state dict under the published names
config.json, normalization.json     width, depth and so on; means and standard deviations of the bands
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from geomae.files import publish_dir, write_json
from geomae.models.convert.state_dicts import read_weights
from geomae.models.folder import save_tensors

SAFE, TORCH = "encoder.safetensors", "encoder.pt"  # the first is read where both exist
FILES = (TORCH, "config.json", "normalization.json")
CARRIED = ("config.json", "normalization.json", "LICENSE", "LICENSE.txt", "LICENSE.md")  # copied to an adapted folder
PROVENANCE = "provenance.json"  # of an adapted folder
PARTS = "qkv"  # projections of attention that timm stores as one


def weights_file(folder: Path) -> Path:
    """Return the path of the weights in a folder."""
    return folder / SAFE if (folder / SAFE).is_file() else folder / TORCH


def read_renamed(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a folder under our names, with query, key and value in one tensor, as in timm."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in read_weights(weights_file(folder)).items():
        name, part = our_name(key)
        found.setdefault(name, {})[part] = value
    return {
        name: parts[""] if "" in parts else torch.cat([parts.get(one, next(iter(parts.values()))[:0]) for one in PARTS])
        for name, parts in found.items()
    } | {name: parts[""][:1] for name, parts in found.items() if name == "pos_embed"}  # of the first date


def our_name(key: str) -> tuple[str, str]:
    """Return our name of a published weight, and its part of our tensor: q, k or v, or '' for the whole tensor."""
    name = key.replace(".backbone", "")
    for part in PARTS:
        if f".attn.{part}." in name:
            return name.replace(f".attn.{part}.", ".attn.qkv."), part
    if name.startswith("space_time_embed."):
        return name.replace("space_time_embed.", "embed.").replace(".proj.", "."), ""
    return {"month_embed.weight": "month_embed"}.get(name, name), ""


def publish(folder: Path, origin: Path, weights: Mapping[str, Tensor], provenance: Mapping[str, object]) -> None:
    """Publish `weights`, given under our names, at `folder`, in the layout of `origin`.

    Weights of `origin` that are not given are copied unchanged, and so are licence, configuration and normalisation.
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
