"""What users write to name an encoder: kinds, options and labels."""

import subprocess
import sys

import pytest

from geomae.encoders import parse_encoders
from geomae.encoders.specification import LABEL, parse_encoder
from geomae.errors import ConfigError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with two runs and a folder whose name looks like a label."""
    for name in ("runs/first/model", "runs/second/model", "other", "a=b"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def labels(*texts):
    return [one.label for one in parse_encoders(texts)]


def test_labels_are_the_names_of_runs_or_the_text(folder):
    assert labels("runs/first/model", str(folder / "runs/second/model"), "other") == ["first", "second", "other"]
    assert labels("mlflow:0af1", "models:/land/3") == ["mlflow-0af1", "models-land-3"]
    assert labels("baseline:random?seed=3", "timm:vit_base_patch16_224.mae") == [
        "baseline-random-seed-3",
        "timm-vit_base_patch16_224.mae",
    ]


def test_labels_are_unique_and_those_given_come_first(folder):
    assert labels("runs/first/model", "runs/first/model", "first-2=other") == ["first", "first-3", "first-2"]
    assert labels("baseline:rcf", "baseline-rcf=baseline:pixels") == ["baseline-rcf-2", "baseline-rcf"]
    with pytest.raises(ConfigError, match="mine=: two encoders have this label"):
        parse_encoders(["mine=other", "mine=baseline:rcf"])


def test_a_label_is_not_taken_for_a_path_nor_a_path_for_a_label(folder):
    plain, labelled, deep = parse_encoders(["a=b", "a=other", "mine=a=b"])
    assert (plain.label, plain.text) == ("a-b", "a=b")
    assert (labelled.label, labelled.text) == ("a", "other")
    assert (deep.label, deep.text) == ("mine", "a=b")
    assert all(LABEL.fullmatch(one.label) for one in (plain, labelled, deep))


def test_names_and_options(folder):
    (one,) = parse_encoders(["t=timm:vit_tiny_patch16_224?pretrained=false&checkpoint=/x=1/a&b.pth"])
    assert (one.label, one.kind, one.name) == ("t", "timm", "vit_tiny_patch16_224")
    assert dict(one.options) == {"pretrained": "false", "checkpoint": "/x=1/a&b.pth"}
    (two,) = parse_encoders(["torchgeo:dofa_base_patch16_224?checkpoint=my weights.pth"])
    assert dict(two.options) == {"checkpoint": "my weights.pth"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("baseline:statistic", "there is no baseline 'statistic'; did you mean 'statistics'?"),
        ("baseline:random?sed=1", "unknown option 'sed'; did you mean 'seed'?"),
        ("baseline:rcf?seed=1", "unknown option 'seed'; there are none"),
        ("baseline:random?seed=-1", "seed is '-1'; give a whole number"),
        ("baseline:random?seed", "write seed=VALUE once"),
        ("timm:", "names no model; write timm:NAME"),
        ("timm:resnet18?pretrained=no", "pretrained is 'no'; known: false, true"),
        ("tim:resnet18", "tim: is no kind of encoder; did you mean 'timm'?"),
        ("torchgeo:dofa?weights=a", "unknown option 'weights'; known: checkpoint"),
        ("runs/absent/model", "is neither a model folder nor an MLflow reference; check the path"),
        ("mine=absent", "absent: is neither a model folder"),
    ],
)
def test_what_is_unknown_is_refused_with_the_nearest(folder, text, message):
    with pytest.raises(ConfigError) as caught:
        parse_encoders([text])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_folder_of_a_run_is_refused_with_the_name_of_its_model(tmp_path):
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"mine: is the folder of a run; its model is \S+mine/model, name that"):
        parse_encoder(str(tmp_path / "mine"))


def test_names_of_encoders_are_checked_without_torch():
    code = (
        "import sys\nfrom geomae.encoders import parse_encoders\nparse_encoders(['baseline:pixels'])\n"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
