"""A small random Galileo in the published layout."""

import json

import torch

from geomae.encoders.galileo import GROUPS, NDVI

WIDTH, DEPTH = 32, 2


def published_layout():
    """Random weights under the published names, those of other modalities too."""
    rng = torch.Generator().manual_seed(0)

    def draw(*shape, std=0.1):
        return std * torch.randn(*shape, generator=rng)

    quarter = WIDTH // 4
    state = {"pos_embed": draw(24, quarter), "month_embed.weight": draw(12, quarter, std=1.0)}
    state |= {"s_t_channel_embed": draw(7, quarter, std=1.0), "sp_channel_embed": draw(3, quarter)}
    for group, count in {"S1": 2, **{group: len(bands) for group, (_, bands) in GROUPS.items()}, NDVI: 1}.items():
        state[f"space_time_embed.{group}.proj.weight"] = draw(WIDTH, count, 8, 8)
        state[f"space_time_embed.{group}.proj.bias"] = draw(WIDTH)
    maps = {f"attn.{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "proj")}
    maps |= {"mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH)}
    for block in (f"blocks.{number}" for number in range(DEPTH)):
        for name, shape in maps.items():
            state[f"{block}.{name}.weight"], state[f"{block}.{name}.bias"] = draw(*shape, std=0.3), draw(shape[0])
        for name in ("norm1", "norm2"):
            state[f"{block}.{name}.weight"], state[f"{block}.{name}.bias"] = 1 + draw(WIDTH), draw(WIDTH)
    return state | {"norm.weight": 1 + draw(WIDTH), "norm.bias": draw(WIDTH), "time_embed.ERA5.weight": draw(WIDTH, 2)}


def write_galileo(folder, state, **changed):
    """A folder with the published files; `changed` are keys of the configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = {"embedding_size": WIDTH, "depth": DEPTH, "num_heads": 4, "mlp_ratio": 4, "max_patch_size": 8} | changed
    (folder / "config.json").write_text(json.dumps({"model": {"encoder": shape}}))
    figures = {"mean": [1500.0 + 10 * place for place in range(13)], "std": [900.0 + place for place in range(13)]}
    (folder / "normalization.json").write_text(json.dumps({"total_n": 1, "13": figures}))
    torch.save(state, folder / "encoder.pt")
    return folder
