"""`torch.compile` of a model: what it costs and gains, tests/benchmarks/training_step.py --compile prints."""

from geomae.models.mae import MaskedAutoencoder


def compile_in_place(mae: MaskedAutoencoder) -> None:
    """Have the blocks compiled when they are first called; names of weights and what is computed stay the same."""
    for block in [*mae.encoder.blocks, *(mae.decoder.blocks if mae.decoder else [])]:
        block.compile()
