"""Text files of others are read within bounds, or named as what they are."""

import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from singlestrip.errors import InputError
from singlestrip.io.text.textfile import FEW_BYTES, LINE_LIMIT, MIB, TEXT_LIMIT, named_path, read_text


@pytest.fixture
def path(tmp_path):
    return tmp_path / "list.txt"


def refused(path, why, **how):
    with pytest.raises(InputError, match=rf"{path}: cannot be read as a list \(.*{why}"):
        read_text(path, "a list", **how)


@pytest.mark.parametrize("pipe", [False, True])
def test_devices_never_end(pipe):
    refused(Path("/dev/zero"), "a device", pipe=pipe)


def test_a_folder_and_what_is_not_there(tmp_path):
    refused(tmp_path, "a folder")
    refused(tmp_path / "gone", "no such file")
    refused(tmp_path / "nul\0", "null")
    (tmp_path / "loop").symlink_to("loop")
    refused(tmp_path / "loop", "symbolic links")


def test_large_files(path):
    path.touch()
    os.truncate(path, TEXT_LIMIT + 1)  # takes no room on the disk
    refused(path, "larger than 64 MiB")
    os.truncate(path, 2 * MIB)
    refused(path, "larger than 1 MiB", limit=MIB)
    path.write_bytes(b"\n" * (LINE_LIMIT + 1))
    refused(path, "more than 500000 lines")


def test_what_is_no_text(path):
    path.write_bytes("a.nii\n".encode("utf-16"))
    refused(path, "UTF-16")
    path.write_bytes(bytes(range(256)) * (FEW_BYTES // 128))
    refused(path, "binary")


def test_text_of_any_encoding(path):
    path.write_bytes(b"\xef\xbb\xbfM\xc3\xbcller caf\xe9\r\n")
    assert os.fsencode(read_text(path, "a list")) == b"M\xc3\xbcller caf\xe9\r\n"


def feed(path, data):
    """Write to a FIFO when somebody reads it, as far as they read."""

    def write():
        with suppress(BrokenPipeError), path.open("wb") as file:
            file.write(data)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    return writer


def test_pipes(path):
    os.mkfifo(path)
    refused(path, "a FIFO")
    writer = feed(path, b"a.nii\nb.nii\n")
    assert read_text(path, "a list", pipe=True) == "a.nii\nb.nii\n"
    writer.join()
    writer = feed(path, bytes(MIB + 100_000))
    refused(path, "larger than 1 MiB", pipe=True, limit=MIB)
    writer.join()


def test_named_paths(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert named_path("~/a.nii") == Path("/home/me/a.nii")
    assert named_path("~nobody-of-that-name/a.nii") == Path("~nobody-of-that-name/a.nii")
