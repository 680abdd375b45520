"""BIDS data sets: which images of heads one has, and what the files made from them are called and say.

Naming. A derived file keeps its image's folder and entities. Masks lose the image's suffix; those of the first
suffix of each folder in BIDS_SUFFIXES (T1w, bold, dwi, asl, pet) are known by the folder, and the others get
`space-SUFFIX`, the image on whose grid they lie. A name follows from the image's own name alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..configuration import BIDS_SUFFIXES
from ..errors import InputError, OutputError, SingleStripError
from ..io.json_file import read_json, write_json
from ..io.output import atomic_write, make_folder
from ..io.textfile import read_bytes, read_text

if TYPE_CHECKING:
    from ..quality.scores import MaskQuality

DESCRIPTION = "dataset_description.json"
BIDS_VERSION = "1.10.0"
EXTENSIONS = (".nii.gz", ".nii")
ALL_SUFFIXES = tuple(dict.fromkeys(suffix for names in BIDS_SUFFIXES.values() for suffix in names))
MASK_ENDING = "_desc-brain_mask.nii.gz"
NO_MAGNITUDE = ("part-phase", "part-real", "part-imag")  # there is no brain to see
DERIVED = ("space", "res", "label", "desc")  # entities that raw images do not have
AFTER_SPACE = ("chunk",)  # entities that come behind `space` in a name
NOT_RAW = ["derivatives", "sourcedata", "code", "stimuli", ".*"]
REPORT = "reports"
README = f"""\
Brain masks that singlestrip made from the data set named in dataset_description.json.

A mask has the entities of its image, on whose grid it lies, and ends in {MASK_ENDING[1:]}. Masks of images
other than T1w, bold, dwi, asl and pet have space-SUFFIX in their name, the suffix of their image. The JSON
file of each names its image (Sources), and the model and version that made it. A 4-D image has one mask in
3-D: of diffusion images from the mean of the b=0 volumes, of others from the mean of all.

{REPORT}/ has the table and the page of estimated quality, once `singlestrip bids` ran at the group level.
"""
# BIDS has no rule yet for masks in these folders, nor for reports.
IGNORED = f"""\
**/perf/*_mask.nii.gz
**/perf/*_mask.json
**/pet/*_mask.nii.gz
**/pet/*_mask.json
/{REPORT}
"""


def _real(path: Path) -> Path:
    """A path with its links followed; of links in a circle, which Path.resolve refuses, as far as they go."""
    return Path(os.path.realpath(path))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def parts_of(path: Path) -> tuple[list[str], str]:
    """The entities of a BIDS file name, as `key-label`, and its suffix."""
    *entities, suffix = path.name.split(".")[0].split("_")
    return entities, suffix


def find_images(
    root: Path,
    participants: Iterable[str] | None = None,
    sessions: Iterable[str] | None = None,
    suffixes: Iterable[str] = ALL_SUFFIXES,
) -> list[Path]:
    """Images of heads in the raw data set at `root`, sorted, each below `root` as it was given.

    participants, sessions: labels, with or without `sub-` and `ses-`; None for all. suffixes: without
    extension. Images count in the folders of BIDS_SUFFIXES, if their name begins with their participant
    and session; phase, real and imaginary parts do not, nor what has been derived from images, nor what is
    hidden. Raises InputError if the folder is no data set, a label is not in it or a suffix neither in it nor
    one that BIDS has for heads, SingleStripError without ancpbids.
    """
    root, suffixes = Path(root), set(suffixes)
    found = [path for path in _index(root) if _is_raw_image(path)]
    there = {parts_of(path)[1] for path in found}
    unknown = suffixes - there - set(ALL_SUFFIXES)
    if unknown:
        near = _near_suffixes(unknown, [*there, *ALL_SUFFIXES])
        raise InputError(
            f"{root}: no image of the kind {', '.join(sorted(unknown))}{near}; "
            f"there are {', '.join(sorted(there)) or 'none'}, and BIDS has {', '.join(ALL_SUFFIXES)}"
        )
    found = _choose(root, found, "sub", participants)
    found = _choose(root, found, "ses", sessions)
    return sorted(root / path for path in found if parts_of(path)[1] in suffixes)


def _near_suffixes(unknown: Iterable[str], known: Iterable[str]) -> str:
    """A clause that asks whether suffixes spelt much like unknown ones were meant; "" if there are none."""
    spelt = {suffix.lower(): suffix for suffix in known}
    near = [spelt[name] for each in sorted(unknown) for name in get_close_matches(each.lower(), spelt)]
    return f" (did you mean {' or '.join(dict.fromkeys(near))}?)" if near else ""


def _index(root: Path) -> list[Path]:
    """All NIfTI files that are named as BIDS has it, relative to `root`."""
    try:
        from ancpbids import BIDSLayout, DatasetOptions
    except ImportError as error:
        raise SingleStripError(
            "BIDS data sets need the package ancpbids; install it with: pip install 'singlestrip[bids]'"
        ) from error
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    if (root / DESCRIPTION).exists():
        read_text(root / DESCRIPTION, "JSON")  # what ancpbids does with it has no bounds
    options = DatasetOptions(ignore=NOT_RAW, ignore_pickle_file=True)  # a pickle could run code
    try:
        layout = BIDSLayout(str(root.absolute()), options)
    except Exception as error:  # what ancpbids raises for a damaged dataset_description.json is not foreseeable
        raise InputError(
            f"{root}: cannot be read as a BIDS data set; check its {DESCRIPTION} ({error})"
        ) from error
    return [Path(file.get_relative_path()) for file in layout.get(extension=list(EXTENSIONS))]


def _is_raw_image(path: Path) -> bool:
    """Whether a path, relative to its data set, is of an image as the scanner made it, where it should be."""
    *above, folder = path.parent.parts or ("",)
    entities, _ = parts_of(path)
    levels = ["sub-", "ses-"][: len(above)]
    return (
        not _is_hidden(path)
        and len(above) == len(levels) > 0
        and all(text.startswith(level) for text, level in zip(above, levels, strict=True))
        and entities[: len(above)] == above
        and folder in BIDS_SUFFIXES
        and not any(entity in NO_MAGNITUDE or entity.split("-")[0] in DERIVED for entity in entities)
    )


def _choose(root: Path, paths: list[Path], key: str, labels: Iterable[str] | None) -> list[Path]:
    """The paths of some participants or sessions. Raises InputError if one of the labels is not among them."""
    if labels is None:
        return paths
    wanted = {f"{key}-{label.removeprefix(f'{key}-')}" for label in labels}
    there = {part for path in paths for part in path.parts[:-2] if part.startswith(f"{key}-")}
    if wanted - there:
        missing, known = (", ".join(sorted(names)) for names in (wanted - there, there))
        raise InputError(f"{root}: no image of {missing}; there are {known or 'none'}")
    return [path for path in paths if wanted & set(path.parts[:-2])]


def inherited(root: Path, image: Path, suffix: str, extension: str) -> list[Path]:
    """The files that go with an image by BIDS' principle of inheritance, from the farthest to the nearest.

    They lie in its folder or above, up to `root`, and have no entity that the image has not.
    """
    own = set(parts_of(image)[0])
    folders = [image.parent, *image.parent.parents]
    folders = folders[: folders.index(root) + 1]
    found = []
    for folder in reversed(folders):
        here = []
        for path in folder.glob(f"*{suffix}{extension}"):
            entities, its_suffix = parts_of(path)
            fits = its_suffix == suffix and path.name.endswith(f"{suffix}{extension}")
            if fits and not path.name.startswith(".") and own.issuperset(entities):
                here.append((len(entities), path))
        found += [path for _, path in sorted(here)]
    return found


@dataclass(frozen=True)
class Derivative:
    """A data set of masks at `root`, made from the raw data set at `source`."""

    source: Path
    root: Path

    def mask(self, image: Path) -> Path:
        """Where the mask of an image belongs; see this module's first lines."""
        entities, suffix = parts_of(image)
        if suffix != BIDS_SUFFIXES[image.parent.name][0]:
            behind = [entity for entity in entities if entity.split("-")[0] in AFTER_SPACE]
            entities = [entity for entity in entities if entity not in behind] + [f"space-{suffix}", *behind]
        return self._beside(image, "_".join(entities) + MASK_ENDING)

    def brain(self, image: Path) -> Path:
        """Where an image without its background belongs."""
        entities, suffix = parts_of(image)
        return self._beside(image, f"{'_'.join([*entities, 'desc-brain', suffix])}.nii.gz")

    def _beside(self, image: Path, name: str) -> Path:
        return self.root / image.parent.relative_to(self.source) / name

    def _origin(self, image: Path) -> dict[str, Any]:
        """What the JSON file of an output tells of its image; RawSources is what Sources replaced."""
        raw = image.relative_to(self.source).as_posix()
        uri = f"bids:raw:{raw}"
        return {"Sources": [uri], "RawSources": [raw], "SpatialReference": uri}

    def image_of(self, mask: Path) -> Path | None:
        """The image that a mask was made from, as its JSON file has it; None if it can't be told."""
        sources = read_json(sidecar(mask)).get("Sources")
        kind, _, path = str(sources[0] if isinstance(sources, list) and sources else "").rpartition(":")
        return self.source / path if kind == "bids:raw" else None

    def masks(self) -> list[Path]:
        """All masks of the data set that are there, sorted; not what is hidden."""
        found = self.root.glob(f"sub-*/**/*{MASK_ENDING}")
        return sorted(path for path in found if not _is_hidden(path.relative_to(self.root)))

    def bval(self, image: Path) -> Path | None:
        """The b-values of a diffusion image, or where they should be; None for other images."""
        if parts_of(image)[1] != "dwi":
            return None
        nearest = inherited(self.source, image, "dwi", ".bval")
        return nearest[-1] if nearest else image.with_name(f"{_stem(image)}.bval")

    def prepare(self) -> None:
        """Make the folder with what describes it. Raises OutputError if another data set is there."""
        path = self.root / DESCRIPTION
        if _real(self.root) == _real(self.source):
            raise OutputError(f"{self.root}: is the data set itself; name another folder for what is made from it")
        if path.exists():
            self._check_description(path)
            return
        make_folder(self.root)
        raw = read_json(self.source / DESCRIPTION)
        source = {"URL": self._link()} | ({"DOI": raw["DatasetDOI"]} if raw.get("DatasetDOI") else {})
        description = {
            "Name": f"Brain masks of {raw.get('Name') or _real(self.source).name}",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "singlestrip", "Version": __version__}],
            "SourceDatasets": [source],
            "DatasetLinks": {"raw": self._link()},
        }
        for name, text in (("README.md", README), (".bidsignore", IGNORED)):
            if not (self.root / name).exists():
                with atomic_write(self.root / name) as (partial,):
                    partial.write_text(text, encoding="utf-8")
        write_json(path, description)

    def _check_description(self, path: Path) -> None:
        found = read_json(path)
        makers = found.get("GeneratedBy")
        names = (
            [maker.get("Name") for maker in makers if isinstance(maker, dict)] if isinstance(makers, list) else []
        )
        if "singlestrip" not in names:
            raise OutputError(f"{path}: of a data set that singlestrip did not make; name another output folder")
        links = found.get("DatasetLinks")
        link = links.get("raw") if isinstance(links, dict) else None
        if link != self._link():
            raise OutputError(
                f"{path}: made from {link}, not {self._link()}; name another output folder, or mend DatasetLinks "
                "if the data set has moved"
            )

    def _link(self) -> str:
        """The raw data set: as seen from this one where that is within it, so that both can move."""
        source, root = _real(self.source), _real(self.root)
        if root.is_relative_to(source):
            return Path(os.path.relpath(source, root)).as_posix()
        return source.as_uri()

    def describe_mask(self, image: Path, made_with: dict[str, Any], quality: MaskQuality | None) -> None:
        """Write the JSON file of a mask. made_with: what says how it was made."""
        volumes = "b=0 volumes" if parts_of(image)[1] == "dwi" else "volumes"
        content = {
            "Description": f"Brain mask of the image or, if it has several volumes, of the mean of its {volumes}",
            "Type": "Brain",
        }
        content |= self._origin(image) | made_with | _quality_fields(quality)
        write_json(sidecar(self.mask(image)), content)

    def add_quality(self, image: Path, quality: MaskQuality) -> None:
        """Add what is estimated now to the JSON file of a mask that was there."""
        path = sidecar(self.mask(image))
        write_json(path, read_json(path) | _quality_fields(quality))

    def describe_brain(self, image: Path, made_with: dict[str, Any]) -> None:
        """Write the JSON file of an image without its background, with the image's own metadata, and copy what
        else belongs to it: b-values and directions, and the order of perfusion volumes."""
        path, suffix = self.brain(image), parts_of(image)[1]
        content = {}
        for inherits in inherited(self.source, image, suffix, ".json"):
            content |= read_json(inherits)
        own = {"SkullStripped": True} | self._origin(image)
        write_json(sidecar(path), {"Description": "The image without its background"} | content | own | made_with)
        beside = {"dwi": (("dwi", ".bval"), ("dwi", ".bvec")), "asl": (("aslcontext", ".tsv"),)}
        for its_suffix, extension in beside.get(suffix, ()):
            nearest = inherited(self.source, image, its_suffix, extension)
            # By inheritance: BIDS does not allow `desc` in their names.
            target = path.with_name(_stem(image).removesuffix(suffix) + its_suffix + extension)
            if not nearest:
                continue
            content = read_bytes(nearest[-1], "text")
            with atomic_write(target) as (partial,):
                partial.write_bytes(content)


def _quality_fields(quality: MaskQuality | None) -> dict[str, Any]:
    if quality is None:
        return {}
    return {"EstimatedDice": round(quality.estimated_dice, 4), "QualityFlag": quality.flag}


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


def sidecar(path: Path) -> Path:
    """The JSON file beside an image."""
    return path.with_name(f"{_stem(path)}.json")
