"""The search path of models: which file a name leads to."""

import os
from pathlib import Path

import pytest

from singlestrip.errors import ModelError
from singlestrip.networks import model_files
from singlestrip.networks.model_files import MODELS_VARIABLE, find_model
from singlestrip.networks.model_header import AUTOENCODER, CASCADE, KINDS


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Puts an empty file into the folder `first` or `second` of the search path, `box`, the shipped one, or
    `work`, the working folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv(MODELS_VARIABLE, os.pathsep.join([str(tmp_path / "first"), "", str(tmp_path / "second")]))
    monkeypatch.setattr(model_files, "shipped_folder", lambda: tmp_path / "box")

    def put(folder: str, name: str) -> Path:
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        return path

    return put


def test_folders_come_in_the_order_of_the_variable_and_the_shipped_one_last(place, tmp_path):
    assert model_files.model_folders() == [tmp_path / "first", tmp_path / "second", tmp_path / "box"]
    for folder in ("box", "second", "first"):
        path = place(folder, "mouse.safetensors")
        assert find_model("mouse") == find_model("mouse.safetensors") == path


def test_the_default_is_found_when_the_variable_names_folders_without_it(place):
    place("first", "mouse.safetensors")
    shipped = place("box", "singlestrip.safetensors"), place("box", "quality.safetensors")
    assert (find_model(None), find_model(None, AUTOENCODER.shipped)) == shipped
    ahead = place("second", "singlestrip.safetensors")
    assert find_model(None) == find_model("singlestrip") == ahead


def test_a_file_comes_before_a_name_but_the_default_is_a_name(place):
    named, here = place("first", "singlestrip.safetensors"), place("work", "singlestrip.safetensors")
    assert find_model("singlestrip.safetensors").resolve() == here
    assert find_model(None) == find_model("singlestrip") == named


def test_without_the_variable_there_is_the_shipped_folder_alone(place, tmp_path, monkeypatch):
    monkeypatch.delenv(MODELS_VARIABLE)
    assert model_files.model_folders() == [tmp_path / "box"]


def test_relative_folders_start_from_the_working_folder(place, monkeypatch):
    monkeypatch.setenv(MODELS_VARIABLE, "../first")
    path = place("first", "mouse.nii")
    assert find_model("mouse.nii").samefile(path)


def test_all_models_with_a_name_are_listed_once(place, tmp_path):
    first, other = place("first", "mouse.safetensors"), place("second", "rat.v2.safetensors")
    place("box", "mouse.safetensors"), place("box", ".partial.safetensors"), place("box", "notes.md")
    (tmp_path / "box/folder.safetensors").mkdir()
    os.mkfifo(tmp_path / "box/fifo.safetensors")
    assert model_files.list_models() == {"mouse": first, "rat.v2": other}


def test_what_is_missing_is_told_with_all_folders(place, tmp_path):
    for name, network in (("cat", CASCADE), (None, CASCADE), (None, AUTOENCODER)):
        with pytest.raises(ModelError) as caught:
            find_model(name, network.shipped)
        assert all(str(tmp_path / folder) in str(caught.value) for folder in ("first", "second", "box"))


def test_the_shipped_folder_has_the_models_that_come_with_singlestrip():
    assert {kind.shipped for kind in KINDS} <= {path.name for path in model_files.shipped_folder().iterdir()}
