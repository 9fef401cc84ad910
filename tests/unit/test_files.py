"""Files are whole or absent, paths stay in their folder, digests name content, YAML is strict."""

import errno
import hashlib
import json
import os

import numpy as np
import pytest

from geomae.config import Masking
from geomae.errors import CatalogError, ConfigError, GeomaeError, StorageError, nearest
from geomae.files import (
    cache_folder,
    confine,
    digest,
    file_digest,
    file_name,
    file_names,
    publish_dir,
    publish_file,
    read_json,
    read_yaml,
    remove_unfinished,
    scene_names,
    storage_remedy,
    write_csv,
    write_json,
    write_text,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_the_place_of_the_old_one_in_one_step(tmp_path):
    path = tmp_path / "sub" / "a.tif"
    write_text(path, "old")
    with publish_file(path) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".tif"  # others choose the format by it
        assert temporary.parent == path.parent  # a rename within one file system
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(path.parent) == ["a.tif"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(error), publish_file(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "runs" / "step-1"
    with pytest.raises(ValueError, match="half"), publish_dir(path) as temporary:
        (temporary / "a").write_text("half")
        raise ValueError("half")
    assert names(path.parent) == []
    with publish_dir(path) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "a").write_text("whole")
        assert not path.exists()
    assert (path / "sub" / "a").read_text() == "whole"
    assert names(path.parent) == ["step-1"]
    assert path.stat().st_mode & 0o777 == 0o777 & ~current_umask()


def test_a_folder_that_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").write_text("mine")
    with pytest.raises(StorageError, match="cannot be written"), publish_dir(tmp_path / "a") as temporary:
        (temporary / "theirs").write_text("theirs")
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["mine"]


def test_what_cannot_be_written_is_said_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    for publish in (publish_file, publish_dir):
        wanted = r"file/x.*cannot be written.*another folder with --out"
        with pytest.raises(StorageError, match=wanted), publish(tmp_path / "file" / "x"):
            pass
    with pytest.raises(StorageError, match=r"No space left on device.*make room"), publish_file(tmp_path / "b"):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room"),
        (errno.ENAMETOOLONG, "shorten the name"),
        (errno.EACCES, "check the permissions"),
        (errno.ENOTDIR, "in the way"),
    ],
)
def test_the_remedy_is_that_of_the_error(tmp_path, number, remedy):
    with pytest.raises(StorageError, match=rf"; {remedy}|; something.*{remedy}"), publish_file(tmp_path / "b"):
        raise OSError(number, os.strerror(number))
    assert ("make room" in storage_remedy(OSError(number, ""))) == (number == errno.ENOSPC)


def test_a_name_as_long_as_file_systems_take_can_be_published(tmp_path):
    file, folder = tmp_path / f"{'é' * 125}.json", tmp_path / ("f" * 255)
    write_text(file, "whole")
    with publish_dir(folder) as temporary:
        (temporary / "a").write_text("whole")
    assert names(tmp_path) == sorted([file.name, folder.name])
    with pytest.raises(StorageError, match="shorten the name"):
        write_text(tmp_path / ("n" * 256), "")


def test_leftovers_of_a_killed_process_go(tmp_path):
    (tmp_path / ".unfinished-a").mkdir()
    (tmp_path / ".unfinished-a" / "b").write_text("")
    (tmp_path / ".unfinished-c.json").write_text("")
    (tmp_path / "kept").write_text("")
    remove_unfinished(tmp_path)
    assert names(tmp_path) == ["kept"]


def test_json_has_no_nan_and_knows_numpy(tmp_path):
    path = tmp_path / "a.json"
    value = {"a": float("nan"), "b": [float("inf"), np.float32(0.5)], 3: (np.arange(2), path), "c": Masking()}
    write_json(path, value)
    assert json.loads(path.read_text()) == {
        "a": None, "b": [None, 0.5], "3": [[0, 1], str(path)],
        "c": {"kind": "random", "ratio": 0.75, "groups": "consistent", "band_dropout": 0.0},
    }  # fmt: skip
    assert read_json(path)["b"] == [None, 0.5]
    path.write_text("{")
    with pytest.raises(GeomaeError, match=r"a\.json: is not valid JSON"):
        read_json(path)
    with pytest.raises(GeomaeError, match=r"absent\.json: cannot be read"):
        read_json(tmp_path / "absent.json")


def test_digests(tmp_path):
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": (1, 2), "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest([1, [2]]) != digest([[1], 2])
    assert len(digest(None)) == 32
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_paths_stay_in_their_folder(tmp_path):
    root = tmp_path / "data"
    (root / "in").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (root / "link").symlink_to(tmp_path / "other")
    (root / "inside").symlink_to(root / "in")
    assert confine("in/a.tif", root, outside=False, where="c") == root / "in" / "a.tif"
    assert confine("in/../in/a.tif", root, outside=False, where="c") == root / "in" / "a.tif"
    assert confine("inside/a.tif", root, outside=False, where="c") == root / "in" / "a.tif"
    for bad in ("../other/a.tif", "in/../../other", tmp_path / "other" / "a.tif", "link/a.tif", "../data2"):
        with pytest.raises(CatalogError, match=r"^c:3: .* leaves the catalogue's folder .*; add `outside: true`"):
            confine(bad, root, outside=False, where="c:3")
        assert confine(bad, root, outside=True, where="c").is_absolute()


def test_the_cache_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMAE_CACHE", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("GEOMAE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "geomae"


def test_a_name_that_is_no_utf8_is_written_and_read_back(tmp_path):
    name = os.fsdecode(b"caf\xe9.tif")
    write_json(tmp_path / "a.json", {name: name})
    assert read_json(tmp_path / "a.json") == {name: name}
    write_csv(tmp_path / "a.csv", ["file"], [{"file": name}])
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == "file\ncaf\\udce9.tif\n"


def yaml_of(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(path)


def test_yaml_is_plain_values_with_their_lines(tmp_path):
    document = yaml_of(tmp_path, "# first\na: 1\nb:\n  - x: yes\n    y: 1e-4\n  - 010\nc: {d: ~, e: 'no'}\n")
    assert document.values == {"a": 1, "b": [{"x": "yes", "y": 1e-4}, 10], "c": {"d": None, "e": "no"}}
    kinds = (document.values["a"], document.values["b"][0]["y"], document.values["c"]["e"], document.values["b"])
    assert [type(one) for one in kinds] == [int, float, str, list]
    path = tmp_path / "c.yaml"
    assert document.where(["b", 0, "y"]) == f"{path}:5"
    assert document.where(["b", 1]) == f"{path}:6"
    assert document.where(["c", "absent"]) == f"{path}:7"
    assert document.where(["absent"]) == document.where() == str(path)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 'duplicate key "a".*; keep one of the two'),
        ("a:\n  b: 1\n  c: 1\n  b: 2\n", 4, 'duplicate key "b".*; keep one of the two'),
        ("a: 1\n b: 2\n", 2, "; correct the YAML"),
        ("a: [1, 2\n", 2, "; correct the YAML"),
        ("a:\n\t- b\n", 2, "cannot start any token; correct the YAML"),
        ("a: 1\n---\nb: 2\n", 2, "another document; correct the YAML"),
        ("x: 1\na: !!python/object/apply:os.system ['echo hi']\n", 2, "a tag .* is not read here; write plain values"),
        ("x: 1\n\na: !foo bar\n", 3, "a tag .* is not read here; write plain values"),
        ("a: !!binary aGVsbG8=\n", 1, "a tag .* is not read here; write plain values"),
    ],
)
def test_broken_yaml_names_file_line_and_remedy(tmp_path, text, line, message):
    with pytest.raises(ConfigError, match=rf"c\.yaml:{line}: .*{message}") as caught:
        yaml_of(tmp_path, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "1" * 5000, r"c\.yaml: a value cannot be read \(Exceeds the limit \(4300 digits\).*put it in quotes"),
        ("a: 2020-02-30", r"c\.yaml: a value cannot be read \(day is out of range for month\); correct it, or"),
        ('a: 1\nb: ["x", "y\\0"]', r"c\.yaml:2: '\\x00' stands for no character; write the character that is meant"),
        ('"\\ud83d": 1', r"c\.yaml: '\\ud83d' stands for no character"),
    ],
)
def test_values_that_cannot_be_are_one_line(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        yaml_of(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_aliases_that_multiply_are_refused_before_they_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("geomae.files.MOST_VALUES", 5_000)
    others = [f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, 12)]
    few = yaml_of(tmp_path, "".join(["x0: &x0 [1, 2]\n", *others[:3]])).values
    assert few["x3"][8][8][8] == [1, 2]
    with pytest.raises(ConfigError, match=r"c\.yaml: its aliases .* stand for more than 5,000 values; use fewer"):
        yaml_of(tmp_path, "".join(["x0: &x0 [1, 2]\n", *others]))
    with pytest.raises(ConfigError, match="stand for more than 5,000 values"):  # not the key with all it stands for
        yaml_of(tmp_path, "".join(["x0: &x0 [1, 2]\n", *others, others[-1]]))
    assert yaml_of(tmp_path, "a: &a [1, *a]\n").values == {"a": [1, None]}
    monkeypatch.setattr("geomae.files.MOST_VALUES", 10)
    assert len(yaml_of(tmp_path, f"a: [{', '.join(['1'] * 50)}]").values["a"]) == 50  # written out


def test_of_two_anchors_of_one_name_the_later_counts_without_a_warning(tmp_path):
    assert yaml_of(tmp_path, "a: &x 1\nb: &x 2\nc: *x\n").values == {"a": 1, "b": 2, "c": 2}


def test_exclamation_marks_are_no_tags(tmp_path):
    assert yaml_of(tmp_path, "a: 'x != 1'  # !no\nb: y!\n").values == {"a": "x != 1", "b": "y!"}


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text\n"])
def test_yaml_must_be_a_mapping(tmp_path, text):
    with pytest.raises(ConfigError, match=r"c\.yaml: must be a mapping of keys to values"):
        yaml_of(tmp_path, text)


def test_files_that_are_no_text(tmp_path):
    with pytest.raises(ConfigError, match=r"c\.yaml: is not UTF-8 text .*; save it as UTF-8"):
        yaml_of(tmp_path, b"a: \xff\xfe\n")
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read .*; check the path"):
        read_yaml(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="is nested too deep"):
        yaml_of(tmp_path, "a: " + "[" * 500 + "]" * 500)


def test_the_nearest_known_name_is_the_remedy():
    assert nearest("stpes", ["steps", "batch"]) == "did you mean 'steps'?"
    assert nearest("NIR", ["nir", "red"]) == "did you mean 'nir'?"
    assert nearest("xyz", ["nir", "red"]) == "known: nir, red"
    assert nearest("xyz", ["nir", "red", "nir"]) == "known: nir, red"  # of a table, and of every tile
    assert nearest("x", []) == "there are none"
    assert nearest("zzz", [f"name{i:02}" for i in range(25)]).endswith("name19 and 5 more")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("東京", "東京"),
        ("école/é", "école_é"),
        ("e\u0301", "é"),
        ("दिल्ली", "दिल्ली"),
        ("hls[season=green]@test", "hls_season_green_test"),
        ("S2A.SAFE/T33 (1)", "S2A.SAFE_T33_1"),
        ("../a\0b\n", ".._a_b"),
        ("!?", "_"),
    ],
)
def test_a_text_is_recognised_in_its_file_name(text, name):
    assert file_name(text) == name
    assert file_name(name) == name


def test_a_long_name_fits_a_file_system_and_keeps_both_ends(tmp_path):
    name = file_name("start/" + "東" * 200 + "/end")
    assert name.startswith("start_東")
    assert name.endswith("東_end")
    write_text(tmp_path / f"error_by_ratio_{name}_random-step-00000001.png", "")


def test_no_two_texts_have_one_file_name():
    assert file_names(["a b", "a/b", "a_b", "c"]) == ["a_b-2", "a_b-3", "a_b", "c"]  # what is written so keeps it
    assert file_names(["x", "X", "x-2"]) == ["x", "X-3", "x-2"]  # some disks do not tell capitals apart
    assert file_names(["é", "e\u0301", "è"]) == ["é", "é-2", "è"]
    assert file_names(["東京", "大阪"]) == ["東京", "大阪"]
    long = file_names(["a" * 300, "a" * 301, "a" * 302])
    assert len(set(long)) == 3


def test_scenes_are_named_with_their_data_set_only_where_two_data_sets_share_a_name():
    assert scene_names([("one", "s0"), ("two", "s0"), ("two", "s1")]) == ["one_s0", "two_s0", "s1"]
    assert scene_names([("one", "a/b"), ("one", "a_b"), ("one", "a b")]) == ["a_b-2", "a_b", "a_b-3"]
    assert scene_names([("one", "S"), ("two", "s"), ("three", "one_S")]) == ["one_S", "two_s", "one_S-2"]
