"""Alignments cure the shifts that they are made for, and leave label shift alone."""

import numpy as np
import pytest
import sklearn
from scipy.linalg import expm

from geomae.errors import ConfigError, ModelError
from geomae.evaluation import probe_predictions
from geomae.evaluation.alignment import ALIGNMENTS, NONE, SOURCE, STANDARDISE, TARGET, Alignment
from geomae.evaluation.alignment_choice import Evidence, Rule, choose
from geomae.evaluation.choice_scores import CIRCULAR, MIXED, circular_validation
from geomae.evaluation.folds import FoldPlan, Labelled
from geomae.evaluation.linear_probe import fit_linear
from geomae.evaluation.probe_predictions import STRENGTH, PredictionKey, Target, classify, classify_aligned
from geomae.evaluation.share_estimation import LabelShift

CLASSES, FEATURES = 3, 12
STACKED = "standardise+coral"
CENTRES = 0.7 * np.random.default_rng(3).normal(size=(CLASSES, FEATURES))
MIX = np.random.default_rng(4).normal(size=(FEATURES, FEATURES)) / 2  # features of one class go together


def draw(shares, rows, seed):
    """Embeddings and labels of a domain whose classes are as frequent as `shares` say."""
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.repeat(np.arange(CLASSES), np.round(np.array(shares) * rows).astype(int)))
    return CENTRES[label] + rng.normal(size=(len(label), FEATURES)) @ MIX, label


EVEN, FEW = (0.5, 0.3, 0.2), (0.1, 0.2, 0.7)
SOURCE_ND, LABEL_N = draw(EVEN, 300, 0)
TARGET_MD, LABEL_M = draw(EVEN, 260, 1)
FOLD_N = np.arange(len(LABEL_N)) % 3
FOLDS = [(np.flatnonzero(one != FOLD_N), np.flatnonzero(one == FOLD_N)) for one in range(3)]
SKEW = np.random.default_rng(5).normal(size=(FEATURES, FEATURES))
ROTATION = expm(0.6 * (SKEW - SKEW.T) / np.abs(np.linalg.eigvals(SKEW - SKEW.T)).max())  # by 0.6 rad at most


def balanced(name, target_MD, label_M):
    """What a probe of the source scores on the target behind an alignment."""
    found = Alignment.fit(name, SOURCE_ND, target_MD)
    probe = fit_linear(found.transform(SOURCE_ND, SOURCE), LABEL_N, CLASSES, 1.0)
    right = probe.predict(found.transform(target_MD, TARGET)) == label_M
    return np.mean([right[label_M == code].mean() for code in range(CLASSES)])


def evidence(target_MD, names=tuple(ALIGNMENTS)):
    """The answers of one encoder behind every alignment."""
    plan = FoldPlan(np.arange(len(LABEL_N)), FOLDS, {"test": np.arange(len(target_MD))})
    labelled = Labelled(LABEL_N, np.arange(len(LABEL_N)), ("a", "b", "c"))
    targets = {"test": Target(target_MD, np.arange(len(target_MD)), False)}
    answers = classify([plan], SOURCE_ND, labelled, {"test": target_MD}, None, 0)
    classify_aligned(answers, [plan], SOURCE_ND, labelled, targets, names, None)
    return answers


def test_standardising_cures_gain_and_offset_of_every_feature():
    gain, offset = np.linspace(0.3, 4, FEATURES), np.linspace(-9, 9, FEATURES)
    without = balanced(NONE, TARGET_MD, LABEL_M)
    shifted_MD = TARGET_MD * gain + offset
    assert balanced(NONE, shifted_MD, LABEL_M) < without - 0.2
    assert abs(balanced(STANDARDISE, shifted_MD, LABEL_M) - without) <= 0.02


def test_coral_cures_a_rotation_of_features():
    without = balanced(NONE, TARGET_MD, LABEL_M)
    rotated_MD = TARGET_MD @ ROTATION
    assert balanced(NONE, rotated_MD, LABEL_M) < without - 0.08
    assert max(balanced(name, rotated_MD, LABEL_M) for name in ("coral", "subspace")) >= without - 0.02


def test_the_strength_of_several_fits_is_their_median(monkeypatch):
    """As without alignment: the mean of strengths from 0.001 to 10 is near the largest."""
    answers, strengths = evidence(TARGET_MD, (NONE,)), iter((0.001, 0.01, 10.0))

    def scored(name, moved, C_values):
        return {CIRCULAR: 0.5, STRENGTH: next(strengths)}, None

    monkeypatch.setattr(probe_predictions, "_score_method", scored)
    plans = [FoldPlan(np.arange(len(LABEL_N)), FOLDS, {"test": np.arange(9)})] * 3
    answers.C_values = [1.0] * 3
    targets = {"test": Target(TARGET_MD, np.arange(len(TARGET_MD)), False)}
    labelled = Labelled(LABEL_N, np.arange(len(LABEL_N)), ("a", "b", "c"))
    classify_aligned(answers, plans, SOURCE_ND, labelled, targets, (NONE,), None)
    assert answers.evidence["test"].scores[NONE][STRENGTH] == 0.01


def test_the_rule_takes_the_cure():
    answers = evidence(TARGET_MD * np.linspace(0.3, 4, FEATURES) + np.linspace(-9, 9, FEATURES))
    assert choose(answers.evidence["test"]).align != NONE


def test_pure_label_shift_is_left_alone():
    target_MD, _ = draw(FEW, 300, 6)
    found = evidence(target_MD).evidence["test"]
    assert found.shift == pytest.approx(0.5, abs=0.05)
    assert found.explained > 0.9
    choice = choose(found)
    assert choice.align == NONE
    assert "classes seem to differ in frequency" in choice.why


def test_none_is_the_probe_without_alignment():
    answers = evidence(TARGET_MD, names=(NONE, STANDARDISE))
    assert {asked.align for asked in answers.predicted} == {NONE, STANDARDISE}
    probe = fit_linear(SOURCE_ND, LABEL_N, CLASSES, answers.C_values[0])
    assert np.array_equal(answers.predicted[PredictionKey("test", "linear")][0], probe.predict(TARGET_MD))
    assert answers.evidence["test"].scores[NONE]["strength"] == answers.C_values[0]
    assert PredictionKey("test", "linear", 5, STANDARDISE) not in answers.predicted


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_an_alignment_is_the_same_after_it_was_saved(name, tmp_path):
    found = Alignment.fit(name, SOURCE_ND, TARGET_MD)
    found.save(tmp_path / "kept", {"source": "a"})
    again = Alignment.load(tmp_path / "kept")
    for domain in (SOURCE, TARGET):
        assert np.array_equal(found.transform(TARGET_MD, domain), again.transform(TARGET_MD, domain))


def test_affine_maps_are_those_of_skada():
    from geomae.evaluation.alignment import skada_settings

    with skada_settings():
        from skada import CORALAdapter

        adapter = CORALAdapter(reg="auto")
        domain = np.repeat([1, -1], [len(SOURCE_ND), len(TARGET_MD)])
        mapped = adapter.fit_transform(np.concatenate([SOURCE_ND, TARGET_MD]), sample_domain=domain)
    found = Alignment.fit("coral", SOURCE_ND, TARGET_MD)
    np.testing.assert_allclose(found.transform(SOURCE_ND, SOURCE), mapped[domain == 1], atol=1e-9)
    np.testing.assert_allclose(found.transform(TARGET_MD, TARGET), mapped[domain == -1], atol=1e-9)


def test_scikit_learn_keeps_its_configuration():
    before = sklearn.get_config()
    Alignment.fit("coral", SOURCE_ND, TARGET_MD)
    assert sklearn.get_config() == before


def test_circular_validation_finds_classes_that_landed_on_the_wrong_tiles():
    names = (SOURCE_ND, LABEL_N)
    good = circular_validation(*names, TARGET_MD, CLASSES, [1.0])[1.0]
    bad = circular_validation(*names, TARGET_MD[:, ::-1], CLASSES, [1.0])[1.0]
    assert good > 0.95
    assert bad < good - 0.2


def _known(gain, *, paired=False, shift=0.0, explained=0.0):
    scores = {
        NONE: {CIRCULAR: 0.7, MIXED: 0.9},
        STACKED: {CIRCULAR: 0.7 + gain, MIXED: 0.4},
        "subspace": {CIRCULAR: 1.0, MIXED: 1.0},
    }
    shares = np.array([0.5, 0.5]), np.array([0.5 + shift, 0.5 - shift])
    return Evidence(scores, [LabelShift(*shares, explained)], paired)


def test_the_rule_asks_for_a_margin_and_for_equal_class_shares():
    rule = Rule(candidates=(STACKED,), margin=0.05)
    for gain, differing, align in (
        (0.06, {}, STACKED),
        (0.04, {}, NONE),
        (0.04, {"paired": True}, NONE),
        (0.06, {"shift": 0.3, "explained": 0.9}, NONE),
        (0.06, {"shift": 0.3, "explained": 0.9, "paired": True}, STACKED),
        (0.06, {"shift": 0.3, "explained": 0.1}, STACKED),
    ):
        assert choose(_known(gain, **differing), rule).align == align


def test_of_those_that_pass_by_one_score_another_score_chooses():
    rule = Rule(candidates=("coral", STACKED, "standardise"), margin=0.05)
    evidence = _known(0.2)
    evidence.scores["coral"] = {CIRCULAR: 0.8, MIXED: 0.6}
    evidence.scores["standardise"] = {CIRCULAR: 0.74, MIXED: 0.9}  # does not pass
    choice = choose(evidence, rule)
    assert choice.align == "coral"
    assert "gives 0.800 for coral" in choice.why
    assert choice.why.endswith(f"; the same is true of {STACKED}, and mixed validation prefers coral")
    evidence.scores["coral"][CIRCULAR] = evidence.scores[STACKED][CIRCULAR] = 0.72
    choice = choose(evidence, rule)
    assert choice.align == NONE
    assert "gives 0.740 for standardise and 0.700 for none, not more" in choice.why


def test_bad_embeddings_and_names_are_refused(tmp_path):
    broken_MD = TARGET_MD.copy()
    broken_MD[3, 2] = np.nan
    with pytest.raises(ConfigError, match="1 of 260 target embeddings are not finite"):
        Alignment.fit("coral", SOURCE_ND, broken_MD)
    with pytest.raises(ConfigError, match="needs at least 2"):
        Alignment.fit("coral", SOURCE_ND, TARGET_MD[:1])
    with pytest.raises(ConfigError, match="coral"):
        Alignment.fit("corral", SOURCE_ND, TARGET_MD)
    with pytest.raises(ConfigError, match="target"):
        Alignment.fit(NONE, SOURCE_ND, TARGET_MD).transform(TARGET_MD, "there")
    with pytest.raises(ModelError, match="holds no alignment"):
        Alignment.load(tmp_path)
    found = Alignment.fit("coral", SOURCE_ND, TARGET_MD)
    found.save(tmp_path / "kept", {})
    Alignment.fit(STANDARDISE, SOURCE_ND, TARGET_MD).save(tmp_path / "other", {})
    (tmp_path / "other" / "alignment.json").write_bytes((tmp_path / "kept" / "alignment.json").read_bytes())
    with pytest.raises(ModelError, match="is not the one"):
        Alignment.load(tmp_path / "other")
