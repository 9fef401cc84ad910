"""A convolutional autoencoder trains, goes on and adds up as a masked autoencoder does."""

import shutil

import pytest
from helpers import losses, state

from geomae.commands.pretrain import PretrainOptions, run

SHORT = ("batch=8", "steps=4", "save_every=2", "log_every=1", "target=patch-band")


@pytest.fixture(scope="module")
def trained(tiny_catalog, tracking_uri, tmp_path_factory):
    """The folder of a training of four steps, in so many passes each; made once."""
    folder = tmp_path_factory.mktemp("cae")

    def train(passes):
        out = folder / f"in-{passes}"
        request = PretrainOptions(
            catalog=tiny_catalog, config="cae", changes=(*SHORT, f"accumulate={passes}"), out=out, precision="32",
            tracking_uri=tracking_uri, quiet=True,
        )  # fmt: skip
        assert out.exists() or run(request) == 0
        return out

    return train


def test_going_on_gives_the_same_bytes(trained, tracking_uri, tmp_path):
    folder = shutil.copytree(trained(1), tmp_path / "run")
    (folder / "summary.json").unlink()  # as if it had been killed after its second step
    shutil.rmtree(folder / "model")
    shutil.rmtree(folder / "checkpoints" / "step-00000004")
    assert run(PretrainOptions(resume=folder, tracking_uri=tracking_uri, quiet=True)) == 0
    assert state(folder) == state(trained(1))


def test_several_passes_give_the_losses_of_one(trained):
    once, often = losses(trained(1)), losses(trained(4))
    assert often == pytest.approx(once, rel=1e-5, abs=0)
    assert len(once) == 4
