"""`compile=true` changes how the blocks are computed, and neither what they compute nor what is saved."""

import pytest
from helpers import SMALL, losses, options, state


@pytest.mark.slow
def test_compiled_blocks_learn_the_same(geomae, tiny_catalog, tracking_uri, tmp_path):
    asked = ("pretrain", "--catalog", tiny_catalog, *options(*SMALL, "steps=4"), "--precision", "32")
    asked += ("--tracking-uri", tracking_uri, "--quiet")
    for name, more in (("plain", ()), ("compiled", options("compile=true"))):
        done = geomae(*asked, *more, "--out", name, cwd=tmp_path, timeout=600)
        assert done.returncode == 0, done.stderr
    plain, compiled = (losses(tmp_path / name) for name in ("plain", "compiled"))
    assert list(compiled.values()) == pytest.approx(list(plain.values()), rel=1e-4)
    sizes = [{name: len(content) for name, content in state(tmp_path / one).items()} for one in ("plain", "compiled")]
    assert sizes[0] == sizes[1]
