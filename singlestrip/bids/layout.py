"""BIDS data sets: which images of heads they have, and the names and JSON files of what is made from them.

A derived file keeps the folder and the entities of its image. The name of a mask lacks the image's suffix. Of the
first suffix of each folder in BIDS_SUFFIXES (T1w, dwi, magnitude1, bold, asl, pet) the folder tells it; other
masks get `space-SUFFIX`, for the image on whose grid they lie. The name of a file depends on the name of its image
alone.
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
from ..io.output import atomic_write, make_folder
from ..io.text.json_file import read_json, write_json
from ..io.text.textfile import read_bytes, read_text

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
other than T1w, bold, dwi, magnitude1, asl and pet have space-SUFFIX in their name, the suffix of their image.
The JSON file of each names its image (Sources), and the model and version that made it. A 4-D image has one
mask in 3-D: of diffusion images from the mean of the b=0 volumes, of others from the mean of all.

{REPORT}/ has the table and the page of estimated quality, once `singlestrip bids` ran at the group level.
"""
# BIDS has no rule yet for masks in these folders, nor for reports.
IGNORED = f"""\
**/fmap/*_mask.nii.gz
**/fmap/*_mask.json
**/perf/*_mask.nii.gz
**/perf/*_mask.json
**/pet/*_mask.nii.gz
**/pet/*_mask.json
/{REPORT}
"""


def _real(path: Path) -> Path:
    """A path with its links followed. Unlike Path.resolve, it takes links that form a circle."""
    return Path(os.path.realpath(path))


def _is_hidden(path: Path) -> bool:
    """Whether a file or one of its folders has a name that begins with a dot."""
    return any(part.startswith(".") for part in path.parts)


def parts_of(path: Path) -> tuple[list[str], str]:
    """The entities of a BIDS file name, as `key-label`, and its suffix."""
    *entities, suffix = path.name.split(".")[0].split("_")
    return entities, suffix


def find_images(
    root: Path,
    participants: Iterable[str] | None = None,
    sessions: Iterable[str] | None = None,
    suffixes: Iterable[str] | None = None,
) -> list[Path]:
    """The images of heads in the raw data set at `root`, sorted; paths begin with `root` as it was given.

    participants, sessions: labels, with or without `sub-` and `ses-`; None for all. suffixes: of names, without
    extension; None for those that BIDS_SUFFIXES has for the image's folder. An image counts if it lies in one of
    these folders and its name begins with its participant and session. Phase, real and imaginary parts, derived
    images and hidden files do not count.

    Raises InputError if the folder is no data set, if it lacks a label, or if a suffix is neither in it nor one
    that BIDS has for heads; SingleStripError without ancpbids.
    """
    root, chosen = Path(root), None if suffixes is None else set(suffixes)
    images = [path for path in _index(root) if _is_raw_image(path)]
    known = {parts_of(path)[1] for path in images}
    unknown = (chosen or set()) - known - set(ALL_SUFFIXES)
    if unknown:
        near = _near_suffixes(unknown, [*known, *ALL_SUFFIXES])
        raise InputError(
            f"{root}: no image of the kind {', '.join(sorted(unknown))}{near}; "
            f"there are {', '.join(sorted(known)) or 'none'}, and BIDS has {', '.join(ALL_SUFFIXES)}"
        )
    images = _choose(root, images, "sub", participants)
    images = _choose(root, images, "ses", sessions)
    return sorted(
        root / path for path in images if parts_of(path)[1] in (chosen or BIDS_SUFFIXES[path.parent.name])
    )


def _near_suffixes(unknown: Iterable[str], known: Iterable[str]) -> str:
    """A question whether known suffixes, spelt much like the unknown ones, were meant; "" if there are none."""
    spelt = {suffix.lower(): suffix for suffix in known}
    near = [spelt[name] for each in sorted(unknown) for name in get_close_matches(each.lower(), spelt)]
    return f" (did you mean {' or '.join(dict.fromkeys(near))}?)" if near else ""


def _index(root: Path) -> list[Path]:
    """The paths of all NIfTI files that have BIDS names, relative to `root`."""
    try:
        from ancpbids import DatasetOptions
        from ancpbids.pybids_compat import BIDSLayout
    except ImportError as error:
        raise SingleStripError(
            "BIDS data sets need the package ancpbids; install it with: pip install 'singlestrip[bids]'"
        ) from error
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    if (root / DESCRIPTION).exists():
        read_text(root / DESCRIPTION, "JSON")  # ancpbids reads files of any size
    options = DatasetOptions(ignore=NOT_RAW, ignore_pickle_file=True)  # a pickle could run code
    try:
        layout = BIDSLayout(str(root.absolute()), options)
    except Exception as error:  # of any type, for a damaged dataset_description.json
        raise InputError(
            f"{root}: cannot be read as a BIDS data set; check its {DESCRIPTION} ({error})"
        ) from error
    files: list[Any] = layout.get(extension=list(EXTENSIONS))
    return [Path(file.get_relative_path()) for file in files]


def _is_raw_image(path: Path) -> bool:
    """Whether a path, relative to its data set, is of a raw image in the folder where it belongs."""
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
    """The paths of the participants or sessions with these labels. Raises InputError if a label has no path."""
    if labels is None:
        return paths
    wanted = {f"{key}-{label.removeprefix(f'{key}-')}" for label in labels}
    existing = {part for path in paths for part in path.parts[:-2] if part.startswith(f"{key}-")}
    if wanted - existing:
        missing, known = (", ".join(sorted(names)) for names in (wanted - existing, existing))
        raise InputError(f"{root}: no image of {missing}; there are {known or 'none'}")
    return [path for path in paths if wanted & set(path.parts[:-2])]


def inherited(root: Path, image: Path, suffix: str, extension: str) -> list[Path]:
    """The files that belong to an image by BIDS' principle of inheritance, from the farthest to the nearest.

    They lie in the image's folder or above it, up to `root`, and have no entity that the image lacks.
    """
    own = set(parts_of(image)[0])
    folders = [image.parent, *image.parent.parents]
    folders = folders[: folders.index(root) + 1]
    files = []
    for folder in reversed(folders):
        in_folder = []
        for path in folder.glob(f"*{suffix}{extension}"):
            entities, its_suffix = parts_of(path)
            fits = its_suffix == suffix and path.name.endswith(f"{suffix}{extension}")
            if fits and not path.name.startswith(".") and own.issuperset(entities):
                in_folder.append((len(entities), path))
        files += [path for _, path in sorted(in_folder)]
    return files


@dataclass(frozen=True)
class Derivative:
    """A data set of masks at `root`, made from the raw data set at `source`."""

    source: Path
    root: Path

    def mask(self, image: Path) -> Path:
        """The path of an image's mask; this module's docstring has the rule."""
        entities, suffix = parts_of(image)
        if suffix != BIDS_SUFFIXES[image.parent.name][0]:
            behind = [entity for entity in entities if entity.split("-")[0] in AFTER_SPACE]
            entities = [entity for entity in entities if entity not in behind] + [f"space-{suffix}", *behind]
        return self._beside(image, "_".join(entities) + MASK_ENDING)

    def brain(self, image: Path) -> Path:
        """The path of an image without its background."""
        entities, suffix = parts_of(image)
        return self._beside(image, f"{'_'.join([*entities, 'desc-brain', suffix])}.nii.gz")

    def _beside(self, image: Path, name: str) -> Path:
        return self.root / image.parent.relative_to(self.source) / name

    def _origin(self, image: Path) -> dict[str, Any]:
        """The fields of a JSON file that name the image. RawSources is the older name of Sources in BIDS."""
        raw = image.relative_to(self.source).as_posix()
        uri = f"bids:raw:{raw}"
        return {"Sources": [uri], "RawSources": [raw], "SpatialReference": uri}

    def image_of(self, mask: Path) -> Path | None:
        """The image that a mask was made from, by its JSON file; None if the file does not tell."""
        sources = read_json(sidecar(mask)).get("Sources")
        kind, _, path = str(sources[0] if isinstance(sources, list) and sources else "").rpartition(":")
        return self.source / path if kind == "bids:raw" else None

    def masks(self) -> list[Path]:
        """All masks that the data set has, sorted, without hidden ones."""
        masks = self.root.glob(f"sub-*/**/*{MASK_ENDING}")
        return sorted(path for path in masks if not _is_hidden(path.relative_to(self.root)))

    def bval(self, image: Path) -> Path | None:
        """The file of b-values of a diffusion image, or its path if it is missing; None for other images."""
        if parts_of(image)[1] != "dwi":
            return None
        nearest = inherited(self.source, image, "dwi", ".bval")
        return nearest[-1] if nearest else image.with_name(f"{_stem(image)}.bval")

    def prepare(self) -> None:
        """Make the folder and the files that describe it. Raises OutputError if it holds another data set."""
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
        """Raise OutputError unless a dataset_description.json is of masks that were made from this data set."""
        description = read_json(path)
        makers = description.get("GeneratedBy")
        names = (
            [maker.get("Name") for maker in makers if isinstance(maker, dict)] if isinstance(makers, list) else []
        )
        if "singlestrip" not in names:
            raise OutputError(f"{path}: of a data set that singlestrip did not make; name another output folder")
        links = description.get("DatasetLinks")
        link = links.get("raw") if isinstance(links, dict) else None
        if link != self._link():
            raise OutputError(
                f"{path}: made from {link}, not {self._link()}; name another output folder, or mend DatasetLinks "
                "if the data set has moved"
            )

    def _link(self) -> str:
        """The raw data set as a link: relative if this one lies within it, so that both can move; else a URI."""
        source, root = _real(self.source), _real(self.root)
        if root.is_relative_to(source):
            return Path(os.path.relpath(source, root)).as_posix()
        return source.as_uri()

    def describe_mask(self, image: Path, made_with: dict[str, Any], quality: MaskQuality | None) -> None:
        """Write the JSON file of a mask. made_with: its fields that tell how the mask was made."""
        volumes = "b=0 volumes" if parts_of(image)[1] == "dwi" else "volumes"
        content = {
            "Description": f"Brain mask of the image or, if it has several volumes, of the mean of its {volumes}",
            "Type": "Brain",
        }
        content |= self._origin(image) | made_with | _quality_fields(quality)
        write_json(sidecar(self.mask(image)), content)

    def add_quality(self, image: Path, quality: MaskQuality) -> None:
        """Add the estimated quality to the JSON file of a mask that was kept."""
        path = sidecar(self.mask(image))
        write_json(path, read_json(path) | _quality_fields(quality))

    def describe_brain(self, image: Path, made_with: dict[str, Any]) -> None:
        """Write the JSON file of an image without its background, and copy the other files that belong to it.

        The JSON file has the metadata of the image. The other files are b-values and directions of diffusion
        images, and the order of volumes of perfusion images.
        """
        path, suffix = self.brain(image), parts_of(image)[1]
        content: dict[str, Any] = {}
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
            text = read_bytes(nearest[-1], "text")
            with atomic_write(target) as (partial,):
                partial.write_bytes(text)


def _quality_fields(quality: MaskQuality | None) -> dict[str, Any]:
    """The fields of a JSON file that tell the estimated quality of a mask."""
    if quality is None:
        return {}
    return {
        "EstimatedDice": round(quality.estimated_dice, 4),
        "EstimatedDiceInterval": [round(quality.low, 4), round(quality.high, 4)],
        "QualityFlag": quality.flag,
        "QualityEvidence": quality.evidence,
        "QualityReasons": list(quality.reasons),
    }


def _stem(path: Path) -> str:
    """A file's name up to its first dot."""
    return path.name.split(".")[0]


def sidecar(path: Path) -> Path:
    """The path of the JSON file beside an image."""
    return path.with_name(f"{_stem(path)}.json")
