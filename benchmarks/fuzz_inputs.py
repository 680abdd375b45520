"""Damaged inputs for fuzz.py: each kind is a function that writes one into a folder and returns how to run it."""

from __future__ import annotations

import copy
import gzip
import json
import math
import os
import shutil
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel.freesurfer.mghformat import header_dtype as MGH_HEADER
from nibabel.nifti1 import header_dtype as NIFTI1_HEADER
from nibabel.nifti2 import header_dtype as NIFTI2_HEADER
from tiny import SIZE, make_images, make_models

from singlestrip.cli.main import main

Random = np.random.Generator

WHOLE_NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    8,
    16,
    64,
    127,
    128,
    255,
    256,
    348,
    352,
    512,
    1024,
    2048,
    4096,
    32767,
    65535,
    65536,
)
LARGE_NUMBERS = (-(2**15), 2**31 - 1, -(2**31), 2**32, 2**62, 2**63 - 1, -(2**63), 10**18, 10**30)
FRACTIONS = (
    0.0,
    -0.0,
    0.5,
    1.0,
    -1.0,
    1e-45,
    1e-38,
    1e-20,
    1e-6,
    1e-3,
    1e3,
    1e6,
    1e9,
    1e20,
    3.4e38,
    -3.4e38,
    1e300,
)
NOT_FINITE = (float("nan"), float("inf"), float("-inf"))
TEXTS = (
    "",
    "a",
    "volume",
    "0",
    "-1",
    "1e999",
    "nan",
    "../../x",
    "/etc/passwd",
    "\0",
    "\x1b[2J",
    "é\u202e",
    "=1+1",
    "x" * 5000,
)


FIT = "fit-gmm -i image.nii -m mask.nii -o fitted.nii --inside 3 --outside 3"
TRAIN = "train -l labels.nii --init untrained -o trained.safetensors --amp off --batch 1 --no-quality"
SELF_TRAIN = (
    "self-train -i image.nii -m mask.nii --list scans.txt -o run --model untrained --qc-model quality "
    "--rounds 1 --keep 1 --steps 1 --batch 1 --threshold 1e-6"
)


@dataclass(frozen=True)
class Trial:
    """How to run one case. image: the input whose grid the outputs have, None if there are several; outputs: files
    that have to be there when the status is 0."""

    arguments: list[str]
    image: str | None = None
    outputs: Sequence[str] = field(default_factory=tuple)


def prepare(folder: Path) -> None:
    """What all cases begin with: images, models, a checkpoint, a finished run of self-training."""
    folder.mkdir()
    make_models(folder / "models")
    make_images(folder)
    os.chdir(folder)
    (folder / "scans.txt").write_text("image.nii\n")
    for line in (FIT, f"{TRAIN} --steps 1 --quiet", f"{SELF_TRAIN} --quiet"):
        if main(line.split()) != 0:
            raise SystemExit(f"what all cases begin with could not be made: {line}")


# Damage to bytes and to JSON


def one_of(random: Random, choices: Sequence) -> Any:
    return choices[int(random.integers(len(choices)))]


def odd_number(random: Random) -> int | float:
    kind = random.random()
    if kind < 0.4:
        return one_of(random, WHOLE_NUMBERS)
    if kind < 0.55:
        return one_of(random, LARGE_NUMBERS)
    if kind < 0.85:
        return one_of(random, FRACTIONS)
    if kind < 0.95:
        return float(np.exp(random.uniform(-30, 30)) * random.choice([-1, 1]))
    return one_of(random, NOT_FINITE)


def damage(random: Random, data: bytes, within: int | None = None) -> bytes:
    """Bits flipped, bytes overwritten, cut short, repeated, or more behind. within: the first bytes only."""
    changed = bytearray(data)
    end = min(within or len(data), len(data))
    kind = random.random()
    if not data or kind < 0.1:
        return bytes(changed) + random.bytes(int(random.integers(1, 3000)))
    if kind < 0.25:
        return bytes(changed[: int(random.integers(end))])
    if kind < 0.35:
        start, stop = sorted(int(n) for n in random.integers(0, end, 2))
        return bytes(changed[:stop] + changed[start:])
    for _ in range(int(random.integers(1, 12))):
        at = int(random.integers(end))
        if random.random() < 0.7:
            changed[at] ^= 1 << int(random.integers(8))
        else:
            changed[at : at + 4] = random.bytes(4)
    return bytes(changed[: max(len(data), 1)])


def damaged_json(random: Random, values: Any) -> Any:
    """A copy with one to three values anywhere in it changed, removed, nested or of another type."""
    values = copy.deepcopy(values)
    for _ in range(int(random.integers(1, 4))):
        places = list(_places(values))
        if not places:
            return values
        parent, key = one_of(random, places)
        _change_value(random, parent, key)
    return values


def _places(values: Any):
    """All pairs of a dict or list within `values` and a key of it."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        yield values, key
        yield from _places(value)


def _change_value(random: Random, parent: Any, key: Any) -> None:
    kind = random.random()
    if kind < 0.45:
        parent[key] = odd_number(random)
    elif kind < 0.6:
        parent[key] = one_of(random, TEXTS)
    elif kind < 0.7:
        del parent[key]
    elif kind < 0.8:
        parent[key] = one_of(random, (None, True, [], {}, [[]], {"a": 1}))
    elif kind < 0.9:
        parent[key] = [parent[key]] * int(one_of(random, (1, 2, 100, 10_000)))
    elif isinstance(parent, dict):
        parent[one_of(random, ("unknown", "", "\0"))] = parent[key]
    else:
        parent.append(parent[key])


# Images


def _use_image(random: Random, folder: Path, image: str) -> Trial:
    """A command line that reads an image, as such or as a mask, a label map or an image of several."""
    for name in ("image.nii", "mask.nii"):
        if not (folder / name).exists():
            shutil.copy(BASE / name, folder / name)
    suffix = one_of(random, (".nii.gz", ".nii", ".mgz", ".mgh", ".img"))
    mask, brain, sdt = (f"out_{kind}{suffix}" for kind in ("mask", "brain", "sdt"))
    kind = random.random()
    if kind < 0.45:
        return Trial(["strip", "-i", image, "-m", mask, "-o", brain], image, (mask, brain))
    if kind < 0.5:
        return Trial(["strip", "-i", image, "-m", mask, "-d", sdt, "-b", "3"], image, (mask, sdt))
    if kind < 0.55:
        return Trial(["strip", "-i", image, "-m", mask, "--mean-frame"], None, (mask,))
    if kind < 0.6:
        return Trial(["strip", "-i", image, "-m", mask, "-p", "out.png"], image, (mask, "out.png"))
    if kind < 0.7:
        return Trial(["strip", "-i", image, "image.nii", "--out-dir", "out", "--save", "mask", "--qc"], None)
    if kind < 0.85:
        return Trial(["qc", "-m", image, "-o", "out.tsv"], None, ("out.tsv",))
    pair = ["-i", image, "-m", "mask.nii"] if kind < 0.93 else ["-i", "image.nii", "-m", image]
    labels = f"out_labels{suffix}"
    return Trial(["fit-gmm", *pair, "-o", labels, "--inside", "3", "--outside", "3"], None, (labels,))


def _set_fields(random: Random, data: bytes, header: np.dtype) -> bytes:
    """One to three fields of a header at the beginning of `data` set to odd values."""
    fields = np.frombuffer(data[: header.itemsize], header).copy()
    for _ in range(int(random.integers(1, 4))):
        field = fields[one_of(random, header.names)]
        values = field.reshape(-1)
        at = int(random.integers(values.size))
        with np.errstate(all="ignore"):
            if values.dtype.kind in "iu":
                limits = np.iinfo(values.dtype)
                number = odd_number(random)
                values[at] = max(limits.min, min(int(number) if math.isfinite(number) else 0, limits.max))
            elif values.dtype.kind == "f":
                values[at] = odd_number(random)
            else:
                values[at] = random.bytes(values.dtype.itemsize)
    return fields.tobytes() + data[header.itemsize :]


def nifti_header(random: Random, folder: Path) -> Trial:
    """Fields of NIfTI-1, NIfTI-2 and pairs."""
    kind = random.random()
    if kind < 0.2:
        shutil.copy(BASE / "image.img", folder / "scan.img")
        (folder / "scan.hdr").write_bytes(_set_fields(random, (BASE / "image.hdr").read_bytes(), NIFTI1_HEADER))
        return _use_image(random, folder, "scan.hdr")
    name, header = ("image2.nii", NIFTI2_HEADER) if kind < 0.4 else ("image.nii", NIFTI1_HEADER)
    if kind > 0.9:
        name = "frames.nii"
    data = _set_fields(random, (BASE / name).read_bytes(), header)
    if random.random() < 0.3:
        (folder / "scan.nii.gz").write_bytes(gzip.compress(data, 1))
        return _use_image(random, folder, "scan.nii.gz")
    (folder / "scan.nii").write_bytes(data)
    return _use_image(random, folder, "scan.nii")


def nifti_bytes(random: Random, folder: Path) -> Trial:
    """Bits and bytes of images, most of them in the header; other bytes orders; extensions."""
    name = one_of(random, ("image.nii", "image2.nii", "frames.nii", "mask.nii"))
    data = (BASE / name).read_bytes()
    if random.random() < 0.2:
        size = int(one_of(random, (0, 8, 16, 17, 2**31 - 1, -16)))
        data = data[:348] + b"\1\0\0\0" + struct.pack("<ii", size, int(random.integers(0, 50))) + data[352:]
    (folder / "scan.nii").write_bytes(damage(random, data, None if random.random() < 0.3 else 352))
    return _use_image(random, folder, "scan.nii")


def mgh(random: Random, folder: Path) -> Trial:
    """Fields, bytes and the tags behind the voxels of MGH and MGZ."""
    data = (BASE / "image.mgh").read_bytes()
    kind = random.random()
    if kind < 0.5:
        data = _set_fields(random, data, MGH_HEADER)
    elif kind < 0.7:
        data = damage(random, data, None if random.random() < 0.3 else 284)
    else:
        for _ in range(int(random.integers(1, 4))):
            size = one_of(random, (0, 1, 5, 80, 2**31 - 1, -1, 2**40, -(2**63)))
            data += struct.pack(">iq", int(one_of(random, (1, 2, 3, 20, 30, 31, 41, -1))), size) + random.bytes(20)
    if random.random() < 0.5:
        (folder / "scan.mgz").write_bytes(gzip.compress(data, 1))
        return _use_image(random, folder, "scan.mgz")
    (folder / "scan.mgh").write_bytes(data)
    return _use_image(random, folder, "scan.mgh")


def voxels(random: Random, folder: Path) -> Trial:
    """Scaling, types, shapes, geometry and intensities that are whole, and odd."""
    head = nib.load(BASE / "image.nii")
    array = np.asarray(head.dataobj)
    kind = one_of(random, ("shape", "frames", "values", "type", "constant"))
    if kind == "shape":
        array = array[tuple(slice(0, int(one_of(random, (1, 2, 3, 7, SIZE)))) for _ in range(3))]
    elif kind == "frames":
        extra = tuple(int(n) for n in random.integers(1, 4, int(random.integers(1, 4))))
        array = np.broadcast_to(array.reshape(*array.shape, *(1 for _ in extra)), (*array.shape, *extra))
    elif kind == "values":
        array = array.copy()
        at = random.random(array.shape) < one_of(random, (0.0002, 0.01, 0.5, 1.0))
        with np.errstate(all="ignore"):
            array[at] = np.float32(odd_number(random))
    elif kind == "constant":
        array = np.full_like(array, one_of(random, (0, 1, -5)))
    with np.errstate(all="ignore"):
        factor = one_of(random, (1.0, 1.0, 1.0, 1e-20, 1e20, 1e30, -1.0))
        array = (array * factor).astype(
            one_of(random, ("f4", "f4", "f8", "i2", "u1", "i4", "u2", "c8", "i8", ">f4"))
        )
    image = nib.Nifti1Image(array, head.affine, dtype=array.dtype)
    for code in ("sform_code", "qform_code"):
        if random.random() < 0.3:
            image.header[code] = int(one_of(random, (0, 1, 2, 4)))
    data = bytearray(image.to_bytes())
    if random.random() < 0.5:
        at = 280 + 4 * int(random.integers(12))  # of srow_x to srow_z
        data[at : at + 4] = np.float32(one_of(random, (0.0, 7.0, -3.0, 40.0, 0.05, 1e-30, 1e6, 1e30))).tobytes()
    if random.random() < 0.5:
        for at in (112, 116):  # scl_slope and scl_inter
            with np.errstate(all="ignore"):
                data[at : at + 4] = np.float32(odd_number(random)).tobytes()
    if random.random() < 0.2:
        data[123] = int(random.integers(256))  # xyzt_units
    (folder / "scan.nii").write_bytes(data)
    return _use_image(random, folder, "scan.nii")


def compressed(random: Random, folder: Path) -> Trial:
    """gzip: bits, cut short, more behind, several members, twice, not at all, large and empty."""
    plain = (BASE / "image.nii").read_bytes()
    packed = gzip.compress(plain, 1)
    middle = int(random.integers(1, len(plain)))
    members = gzip.compress(plain[:middle]) + gzip.compress(plain[middle:])
    kind = one_of(
        random, ("bytes", "header", "members", "members", "behind", "twice", "not", "bomb", "huge", "short")
    )
    data = {
        "bytes": lambda: damage(random, packed),
        "header": lambda: damage(random, packed, 20),
        "members": lambda: members if random.random() < 0.3 else damage(random, members),
        "behind": lambda: packed + random.bytes(int(random.integers(1, 100))) * one_of(random, (1, 1000)),
        "twice": lambda: gzip.compress(packed),
        "not": lambda: plain,
        "bomb": lambda: packed + _zeros(int(one_of(random, (1, 40)))),
        "huge": lambda: _huge(random),
        "short": lambda: packed[: int(random.integers(len(packed)))],
    }[kind]()
    name = one_of(random, ("scan.nii.gz", "scan.nii.gz", "scan.nii", "scan.mgz", "scan.img.gz"))
    (folder / name).write_bytes(data)
    return _use_image(random, folder, name)


def _zeros(times: int) -> bytes:
    """gzip members that hold `times` 50 MB of zeros, in some 50 kB each."""
    return gzip.compress(bytes(50_000_000), 1) * times


def _huge(random: Random) -> bytes:
    """A small file whose header tells of up to 5 GB of voxels, most of which are there and zero."""
    image = nib.Nifti1Image(np.zeros((2, 2, 2), one_of(random, ("u1", "f4"))), np.eye(4))
    header = bytearray(image.to_bytes()[:352])
    side = int(one_of(random, (500, 1000, 1700)))
    header[42:48] = struct.pack("<3h", side, side, side)
    return gzip.compress(bytes(header)) + _zeros(40)


# Text


def _odd_name(random: Random) -> bytes:
    names = (
        b"image.nii",
        b"./image.nii",
        b"missing.nii.gz",
        b"~/x.nii",
        b"~nouser/x.nii",
        b"a\0b.nii",
        b"\xff\xfe.nii",
        b"loop.nii",
        b"dir",
        b"",
        b"#",
        b"\x1b[31m.nii",
        b"x" * 5000 + b".nii",
        b"a/" * 3000,
        b"/dev/null",
        b"..",
        b"=cmd()",
        b"a\rb.nii",
        "e\u0301\u202e.nii".encode(),
        b"image.nii\timage.nii",
    )
    return one_of(random, names)


def _make_odd_files(folder: Path) -> None:
    shutil.copy(BASE / "image.nii", folder / "image.nii")
    shutil.copy(BASE / "mask.nii", folder / "mask.nii")
    (folder / "dir").mkdir()
    (folder / "loop.nii").symlink_to("loop.nii")
    (folder / "\x1b[31m.nii").write_bytes((BASE / "image.nii").read_bytes())
    Path(folder, "e\u0301\u202e.nii").write_bytes((BASE / "mask.nii").read_bytes())


def lists(random: Random, folder: Path) -> Trial:
    """Lists of images."""
    _make_odd_files(folder)
    names = [_odd_name(random) for _ in range(int(random.integers(0, 6)))]
    data = one_of(random, (b"\n", b"\r\n", b"\n\n", b" \n")).join(names)
    if random.random() < 0.2:
        data = damage(random, data + b"\n")
    if random.random() < 0.1:
        data = one_of(random, (b"\xef\xbb\xbf", b"\xff\xfe", b"\0")) + data
    (folder / "list.txt").write_bytes(data)
    source = (
        "list.txt" if random.random() < 0.9 else one_of(random, ("/dev/null", "/dev/zero", "dir", "missing.txt"))
    )
    return Trial(["strip", "--list", source, "--out-dir", "out", "--save", "mask", "--qc"])


def tables(random: Random, folder: Path) -> Trial:
    """Tables of masks."""
    _make_odd_files(folder)
    columns = [b"mask", b"image", b"reference", b"note", b"flag"]
    random.shuffle(columns)
    columns = columns[: int(random.integers(1, 6))] + [b"mask"] * int(random.random() < 0.5)
    files = {b"mask": b"mask.nii", b"reference": b"mask.nii", b"image": b"image.nii"}
    rows = [columns]
    for _ in range(int(random.integers(0, 5))):
        cells = [files.get(column, b"") for column in columns]
        if random.random() < 0.7:
            cells[int(random.integers(len(cells)))] = _odd_name(random)
        rows.append(cells[: int(random.integers(0, len(cells) + 1))] if random.random() < 0.2 else cells)
    data = b"\n".join(b"\t".join(row) for row in rows) + b"\n"
    if random.random() < 0.3:
        data = damage(random, data)
    (folder / "table.tsv").write_bytes(data)
    source = (
        "table.tsv" if random.random() < 0.9 else one_of(random, ("/dev/null", "/dev/zero", "dir", "loop.nii"))
    )
    return Trial(["qc", "--table", source, "-o", one_of(random, ("out.tsv", "out.json"))])


def b_values(random: Random, folder: Path) -> Trial:
    """b-values beside a diffusion image."""
    shutil.copy(BASE / "frames.nii", folder / "frames.nii")
    words = [
        str(odd_number(random)) if random.random() < 0.5 else one_of(random, ("0", "1000", "5", "x", "1e3"))
        for _ in range(3)
    ]
    data = (
        one_of(random, (" ", "\n", "\t", ",")).join(words[: int(one_of(random, (0, 1, 2, 3, 3, 3, 3)))]).encode()
    )
    if random.random() < 0.3:
        data = damage(random, data)
    (folder / "frames.bval").write_bytes(data)
    return Trial(
        ["strip", "-i", "frames.nii", "--bval", "frames.bval", "-m", "out_mask.nii"], None, ("out_mask.nii",)
    )


def arguments(random: Random, folder: Path) -> Trial:
    """Values of options, and names of outputs."""
    shutil.copy(BASE / "image.nii", folder / "image.nii")
    shutil.copy(BASE / "mask.nii", folder / "mask.nii")
    (folder / "dir.nii").mkdir()

    def value() -> str:
        return str(odd_number(random)) if random.random() < 0.8 else one_of(random, TEXTS).replace("\0", "")

    output = one_of(
        random,
        (
            "out_mask.nii.gz", "dir.nii", "no/out.nii", "x" * 252 + ".nii", "\x1b[1m.nii.gz", "image.nii",
            "out.txt", "/dev/null", "/proc/out.nii", "out.\udcff.nii", "",
        ),
    )  # fmt: skip
    strip = ["strip", "-i", "image.nii"]
    lines = (
        [*strip, "-m", output],
        [*strip, "-m", "out_mask.nii", f"--border={value()}"],
        [*strip, "-o", "out_brain.nii", f"--fill={value()}"],
        [*strip, "-m", "out_mask.nii", f"--memory={value()}"],
        [*strip, "--out-dir", "out", f"--shard={value()}/{value()}"],
        [*strip, "--out-dir", "out", f"--format={one_of(random, ('.nii', '.NII', 'nii', '.mgz', value()))}"],
        [*strip, "-m", "out_mask.nii", f"--model={value()}"],
        [*strip, "-m", "out_mask.nii", f"--device={value()}"],
        ["qc", "-m", "mask.nii", f"--pass-from={value()}", f"--look-from={value()}"],
        ["qc", "-m", "mask.nii", "-o", output],
        ["fit-gmm", "-i", "image.nii", "-m", "mask.nii", "-o", "out_labels.nii", f"--inside={value()}"],
        ["fit-gmm", "-i", "image.nii", "-m", "mask.nii", "-o", "out_labels.nii", f"--seed={value()}"],
        [
            "train",
            "-i",
            "image.nii",
            "-m",
            "mask.nii",
            "-o",
            "out.safetensors",
            f"--voxel-size={value()}",
            "--lr=x",
        ],
        ["bids", value() or "x", "out", "participant"],
        [value(), value()],
    )
    return Trial(list(one_of(random, lines)))


# Models and records


def _safetensors(header: dict, weights: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + weights


def models(random: Random, folder: Path) -> Trial:
    """Model files of both kinds: configuration, shapes, header, bytes."""
    shutil.copy(BASE / "image.nii", folder / "image.nii")
    shutil.copy(BASE / "mask.nii", folder / "mask.nii")
    quality = random.random() < 0.4
    name = "quality" if quality else one_of(random, ("singlestrip", "untrained"))
    data = (BASE / f"models/{name}.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header, weights = json.loads(data[8 : 8 + length]), data[8 + length :]
    kind = random.random()
    if kind < 0.55:
        part = one_of(random, ("configuration", "configuration", "configuration", "provenance"))
        values = damaged_json(random, json.loads(header["__metadata__"][part]))
        header["__metadata__"][part] = json.dumps(values)
        data = _safetensors(header, weights)
    elif kind < 0.75:
        text = json.dumps(damaged_json(random, header))
        data = struct.pack("<Q", len(text.encode())) + text.encode() + weights
    elif kind < 0.8:
        size = int(one_of(random, (0, 1, length - 1, length + 1, 2**31, 2**63 - 1, 2**64 - 1)))
        data = struct.pack("<Q", size) + data[8:]
    elif kind < 0.9:
        data = damage(random, data, 8 + length)
    else:
        data = damage(random, data)
    (folder / "model.safetensors").write_bytes(data)
    if quality:
        return Trial(["qc", "-m", "mask.nii", "--qc-model", "model.safetensors"])
    return Trial(
        ["strip", "-i", "image.nii", "-m", "out_mask.nii", "--model", "model.safetensors"], None, ("out_mask.nii",)
    )


class _Command:
    """Unpickled, it runs a command."""

    def __reduce__(self):
        return Path.touch, (Path("pickle-ran"),)


def checkpoints(random: Random, folder: Path) -> Trial:
    """Checkpoints of training: values, bytes, and pickles that run code."""
    shutil.copy(BASE / "labels.nii", folder / "labels.nii")
    source = BASE / "trained.checkpoint"
    out = folder / "trained.checkpoint"
    kind = random.random()
    if kind < 0.6:
        state = torch.load(source, weights_only=True)
        for _ in range(int(random.integers(1, 3))):
            places = [place for place in _places(state) if not isinstance(place[0][place[1]], torch.Tensor)]
            parent, key = one_of(random, places)
            _change_value(random, parent, key)
        torch.save(state, out)
    elif kind < 0.7:
        torch.save(torch.load(source, weights_only=True) | {"step": _Command()}, out)
    elif kind < 0.8:
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w") as new:
            for item in old.namelist():
                data = old.read(item)
                new.writestr(item, damage(random, data) if data and random.random() < 0.3 else data)
    else:
        out.write_bytes(damage(random, source.read_bytes()))
    return Trial(f"{TRAIN} --steps 2 --resume".split(), None, ("trained.safetensors",))


def label_records(random: Random, folder: Path) -> Trial:
    """Label maps with the record of their classes beside them."""
    record, labels = (BASE / "fitted.json").read_text(), (BASE / "fitted.nii").read_bytes()
    kind = random.random()
    if kind < 0.5:
        record = json.dumps(damaged_json(random, json.loads(record)))
    data = damage(random, record.encode()) if kind > 0.7 else record.encode()
    (folder / "labels.json").write_bytes(data)
    if random.random() < 0.4:
        labels = _set_fields(random, labels, NIFTI1_HEADER)
    (folder / "labels.nii").write_bytes(labels)
    return Trial(f"{TRAIN} --steps 1".split(), None, ("trained.safetensors",))


def runs(random: Random, folder: Path) -> Trial:
    """The record of a run of self-training, resumed."""
    for name in ("image.nii", "mask.nii", "scans.txt"):
        shutil.copy(BASE / name, folder / name)
    shutil.copytree(BASE / "run", folder / "run")
    record = folder / "run/run.json"
    kind = random.random()
    if kind < 0.5:
        values = json.loads(record.read_text())
        record.write_text(json.dumps(damaged_json(random, values)))
    elif kind < 0.7:
        record.write_bytes(damage(random, record.read_bytes()))
    else:
        values = json.loads(record.read_text()) | {"finished": []}
        record.write_text(json.dumps(values))
        files = sorted(p for p in (folder / "run/round-1").rglob("*") if p.is_file())
        chosen = one_of(random, files)
        chosen.write_bytes(damage(random, chosen.read_bytes()))
        if chosen.name != "scores.tsv" and random.random() < 0.3:
            chosen.unlink()
    return Trial(f"{SELF_TRAIN} --resume".split(), None, ("run/model.safetensors",))


BASE = Path()  # the folder of `prepare`; fuzz.py sets it
KINDS: dict[str, tuple[Callable[[Random, Path], Trial], float]] = {  # and how often each is drawn
    "NIfTI header": (nifti_header, 0.18),
    "NIfTI bytes": (nifti_bytes, 0.1),
    "MGH": (mgh, 0.1),
    "voxels and scaling": (voxels, 0.14),
    "gzip": (compressed, 0.1),
    "lists": (lists, 0.06),
    "tables": (tables, 0.06),
    "b-values": (b_values, 0.03),
    "options and names": (arguments, 0.06),
    "models": (models, 0.1),
    "checkpoints": (checkpoints, 0.03),
    "label records": (label_records, 0.02),
    "runs": (runs, 0.02),
}
