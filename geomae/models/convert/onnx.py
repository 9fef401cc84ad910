"""Export the encoder, for tiles without invalid pixels, as an ONNX graph.

B batch, C bands, H W pixels of a tile, N patches, G tokens of a patch, X = C * P pixels of a patch in all bands,
D width
"""

import copy
import importlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geomae.errors import ModelError
from geomae.models.band_embedding import band_codes
from geomae.models.convert.state_dicts import ConversionReport
from geomae.models.convert.timm import export_grid, position_table, random_tiles, scaled, transformer
from geomae.models.folder import Model
from geomae.models.patches import patchify

INPUT, OUTPUTS = "pixels_BCHW", ("tile_BD", "patches_BND")
OPSET = 20  # the first with GELU as a single node; onnxruntime reads it since 1.17
LARGEST_DIFFERENCE = 1e-4
EXPORT = "export to ONNX"
LARGEST_BYTES = 1_900_000_000  # an ONNX file is one protobuf message, which is limited to 2 GiB
MISSING = "ONNX needs the packages onnx, onnxscript and onnxruntime; install them with `uv sync --extra onnx`"


class WholeTiles(nn.Module):
    """Maps tiles in physical units to (tile_BD, patches_BND), as `Encoder.embed` does for tiles without invalid pixels.

    The bands are fixed, so that every kind of patch embedding is one linear layer.
    """

    mean_C11: Tensor
    std_C11: Tensor
    kernel_GXD: Tensor
    places_GND: Tensor
    start_D: Tensor

    def __init__(self, model: Model, rows: int, cols: int) -> None:
        super().__init__()
        encoder, record = transformer(model, EXPORT), model.record
        self.patch = model.mae.architecture.patch
        kernel_GXD, bias_GD = _linear_maps(model)
        positions = position_table(model, rows, cols)
        groups = encoder.group_token.detach()[0] if hasattr(encoder, "group_token") else torch.zeros_like(bias_GD)
        for name, values in (("mean_C11", record.mean_C), ("std_C11", record.std_C)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32)[:, None, None])
        self.register_buffer("kernel_GXD", kernel_GXD)
        self.register_buffer("places_GND", positions[1:] + (bias_GD + groups)[:, None])
        self.register_buffer("start_D", positions[0] + encoder.cls_token.detach().flatten())
        self.blocks = copy.deepcopy(encoder.blocks)
        self.norm = copy.deepcopy(encoder.norm)

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (tile_BD, patches_BND) of tiles (B, C, H, W) in physical units, averaged over groups of bands."""
        patches_BNX = patchify((pixels_BCHW - self.mean_C11) / self.std_C11, self.patch).flatten(2)
        tokens_BGND = patches_BNX[:, None] @ self.kernel_GXD + self.places_GND
        x = torch.cat([self.start_D.expand(len(tokens_BGND), 1, -1), tokens_BGND.flatten(1, 2)], dim=1)
        for block in self.blocks:
            x = block(x)
        patches_BND = self.norm(x)[:, 1:].reshape(tokens_BGND.shape).mean(1)
        return patches_BND.mean(1), patches_BND


def write_onnx(model: Model, path: Path, tile: int | None = None) -> tuple[tuple[int, int], ConversionReport]:
    """Write the encoder for tiles of side `tile` pixels to `path`; returns their height and width, and the report.

    The metadata key `geomae` of the file holds bands, statistics and unit. Raises ModelError where a package is
    missing, and for a model that is too large for one ONNX file.
    """
    shape = model.mae.architecture
    size = 4 * sum(value.numel() for value in transformer(model, EXPORT).parameters())
    if size > LARGEST_BYTES:
        raise ModelError(f"the encoder has {size / 1e9:.1f} GB, and one ONNX file holds 2 GB; use --to safetensors")
    onnx = _package("onnx")
    _package("onnxscript")
    rows, cols = export_grid(model, tile)
    height, width = rows * shape.patch, cols * shape.patch
    # Two tiles, since the exporter treats an axis of length 1 as constant.
    example = torch.zeros(2, len(model.record.bands), height, width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        program = torch.onnx.export(
            WholeTiles(model, rows, cols).eval(),
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: "batch"},),
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise ModelError("torch.onnx.export returned no program; update torch and onnxscript")
    program.save(str(path))
    message = onnx.load(str(path))
    for node in [*message.graph.node, *(node for one in message.functions for node in one.node)]:
        node.ClearField("metadata_props")  # stack traces with paths of this machine
    message.metadata_props.add(key="geomae", value=json.dumps(model.record.to_dict()))
    onnx.checker.check_model(message)
    path.write_bytes(message.SerializeToString(deterministic=True))
    return (height, width), _report(model, rows, cols)


def check_onnx(
    path: Path, model: Model, size: tuple[int, int], embed: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> float | None:
    """Largest difference between the outputs of onnxruntime and of `embed` on random tiles; None without onnxruntime.

    Raises ModelError where it exceeds LARGEST_DIFFERENCE.
    """
    try:
        runtime = _package("onnxruntime")
    except ModelError:
        return None
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    difference = 0.0
    for tiles in (1, 3):  # other batch sizes than that of the export
        pixels_BCHW = random_tiles(model, tiles, size)
        outputs = session.run(None, {INPUT: pixels_BCHW.numpy()})
        for theirs, ours in zip(outputs, embed(pixels_BCHW), strict=True):
            difference = max(difference, float((torch.from_numpy(theirs) - ours.cpu()).abs().max()))
    if not difference <= LARGEST_DIFFERENCE:
        raise ModelError(f"onnxruntime's outputs differ from the model's by {difference:.2g}; update onnxruntime")
    return difference


@torch.no_grad()
def _linear_maps(model: Model) -> tuple[Tensor, Tensor]:
    """Kernels (G, X, D) and biases (G, D) of the patch embedding for valid pixels, computed from its outputs."""
    C, P = len(model.record.bands), model.mae.architecture.patch**2
    probes_BNCP = torch.cat([torch.zeros(1, C * P), torch.eye(C * P)]).reshape(1, -1, C, P)
    valid_BNCP = torch.ones_like(probes_BNCP, dtype=torch.bool)
    outputs = transformer(model, EXPORT).embedding.embed(probes_BNCP, valid_BNCP, band_codes(model.record.bands))
    outputs_GND = outputs.reshape(-1, 1 + C * P, outputs.shape[-1])
    return outputs_GND[:, 1:] - outputs_GND[:, :1], outputs_GND[:, 0]


def _report(model: Model, rows: int, cols: int) -> ConversionReport:
    record = model.record
    names = ", ".join(band.name for band in record.bands)
    report = ConversionReport(
        notes=[
            f"input {INPUT}: {names} of {record.name} in {record.unit}, without invalid pixels; the graph standardises",
            f"outputs {', '.join(OUTPUTS)}: the mean of the patch embeddings, and the patch embeddings",
        ]
    )
    for key in model.mae.state_dict():
        if key.startswith("decoder."):
            report.left.append(key)
        elif key.startswith("encoder.embedding."):
            report.adapted.append(f"{key} (one linear map of these bands)")
        elif key in ("encoder.cls_token", "encoder.positions.table", "encoder.group_token"):
            report.adapted.append(f"{key} (added to positions and biases)")
        else:
            report.taken.append(key)
    if model.mae.architecture.positions != "table":
        report.new.append(f"positions (sines and cosines of {rows} x {cols} patches{scaled(model)})")
    return report


def _package(name: str) -> Any:
    """Import a package of the extra `onnx`. Raises ModelError with the remedy where it is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        raise ModelError(f"{MISSING} ({error})") from error
