"""Skull-stripping of any head image, learned from one labelled scan.

    import singlestrip
    result = singlestrip.strip(image, vox2world)          # arrays
    singlestrip.strip_file("t1.nii.gz", mask="mask.nii.gz")  # files
    labels = singlestrip.segment(image, vox2world).labels    # structures

They load a model once per process. `Stripper.load` gives a session with another model.
Importing the package loads no torch.
"""

from __future__ import annotations

import functools
import os
import sys

from .errors import SingleStripError

TYPE_CHECKING = False  # as in `typing`, which the program shall not wait for
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import overload

    import numpy as np
    import surfa

    from .integrations.surfa import StrippedVolume
    from .space.scan import Scan
    from .stripping.segmenter import Segmented, Segmenter
    from .stripping.stripper import Stripped, Stripper

    __version__: str

__all__ = [
    "Scan",
    "Segmenter",
    "SingleStripError",
    "Stripper",
    "__version__",
    "segment",
    "segment_file",
    "strip",
    "strip_file",
]


def __getattr__(name: str) -> object:
    if name == "Scan":
        from .space.scan import Scan

        return Scan
    if name == "Segmenter":
        from .stripping.segmenter import Segmenter

        return Segmenter
    if name == "Stripper":
        from .stripping.stripper import Stripper

        return Stripper
    if name == "__version__":
        from ._version import __version__

        return __version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _session(model: str | os.PathLike | None, device: str) -> Stripper:
    """The session of a model file as it is now: a file trained anew is loaded anew."""
    from .networks.model_files import find_model

    path = find_model(model).resolve()
    return _load(path, path.stat().st_mtime_ns, device)


@functools.lru_cache(maxsize=2)
def _load(path: Path, changed_ns: int, device: str) -> Stripper:
    from .stripping.stripper import Stripper

    return Stripper.load(path, device)


if TYPE_CHECKING:

    @overload
    def strip(
        image: Scan | np.ndarray,
        vox2world: np.ndarray | None = None,
        *,
        border_mm: float = 0.0,
        sdt: bool = False,
        probability: bool = False,
        centre_mm: Sequence[float] | np.ndarray | None = None,
        model: str | os.PathLike | None = None,
        device: str = "auto",
    ) -> Stripped: ...

    @overload
    def strip(
        image: surfa.Volume,
        *,
        border_mm: float = 0.0,
        sdt: bool = False,
        probability: bool = False,
        centre_mm: Sequence[float] | np.ndarray | None = None,
        model: str | os.PathLike | None = None,
        device: str = "auto",
    ) -> StrippedVolume: ...


def strip(
    image: Scan | np.ndarray | surfa.Volume,
    vox2world: np.ndarray | None = None,
    *,
    border_mm: float = 0.0,
    sdt: bool = False,
    probability: bool = False,
    centre_mm: Sequence[float] | np.ndarray | None = None,
    model: str | os.PathLike | None = None,
    device: str = "auto",
) -> Stripped | StrippedVolume:
    """Brain mask of an array.

    image: [X, Y, Z] of any real type; vox2world: 4×4, voxel index to RAS mm (nibabel's `affine`). A `Scan`
    holds both, and is given alone; so does a volume of surfa. border_mm moves the surface out or in; sdt and
    probability ask for the signed distance and the probability of brain too. centre_mm: RAS mm [3] of the middle
    of the brain, for images in which none is found; None to search.
    Returns an object with `mask`, boolean [X, Y, Z], and float32 [X, Y, Z] or None: `sdt` in mm, negative inside,
    and `probability`. Of a surfa volume they are surfa volumes with its geometry, and with all its frames.
    Raises SingleStripError with one sentence if no brain can be found.
    """
    session = _session(model, device)
    if _is_surfa_volume(image):
        from .integrations.surfa import strip_volume

        return strip_volume(
            session, image, border_mm=border_mm, sdt=sdt, centre_mm=centre_mm, probability=probability
        )
    return session.strip(
        image, vox2world, border_mm=border_mm, sdt=sdt, centre_mm=centre_mm, probability=probability
    )


def _is_surfa_volume(image: object) -> bool:
    """Whether an image is a volume of surfa. The program that made one has loaded surfa."""
    surfa = sys.modules.get("surfa")
    return surfa is not None and isinstance(image, surfa.Volume)


def strip_file(
    image: str | os.PathLike,
    out: str | os.PathLike | None = None,
    mask: str | os.PathLike | None = None,
    sdt: str | os.PathLike | None = None,
    *,
    probability: str | os.PathLike | None = None,
    border_mm: float = 0.0,
    fill: float | None = None,
    crop_mm: float | None = None,
    mean_frame: bool = False,
    centre_mm: tuple[float, float, float] | None = None,
    model: str | os.PathLike | None = None,
    device: str = "auto",
) -> None:
    """Strip an image file, as `singlestrip strip` does; name at least one output.

    out: the image with its background set to `fill` (None: min(image minimum, 0)); mask: uint8; sdt: float32 mm;
    probability: of brain, in steps of 1/255. crop_mm: crop `out` to the box of the brain with this margin; None to
    leave it whole. mean_frame: one mask for all frames of a 4-D image. centre_mm: as for `strip`, in all frames.
    Raises SingleStripError with one sentence; no output is left in part.
    """
    from pathlib import Path

    from .batch.jobs import Job, StripOptions
    from .batch.strip import strip_file as run

    named = {"brain": out, "mask": mask, "sdt": sdt, "probability": probability}
    outputs = {kind: Path(path) for kind, path in named.items() if path is not None}
    if not outputs:
        raise SingleStripError("name at least one output: out, mask, sdt or probability")
    if crop_mm is not None and out is None:
        raise SingleStripError("crop_mm is about the image of the brain: name out")
    if crop_mm is not None and not 0 <= crop_mm < float("inf"):
        raise SingleStripError(f"crop_mm is {crop_mm:g}; it must be a finite number from 0")
    options = StripOptions(border_mm, fill, mean_frame, centre_mm=centre_mm, crop_mm=crop_mm)
    run(_session(model, device), Job(Path(image), outputs), options)


def _segmenter(model: str | os.PathLike | None, device: str) -> Segmenter:
    """As `_session`, for a model that tells structures apart."""
    from .configuration import STRUCTURES_MODEL
    from .networks.model_files import find_model

    path = find_model(model or STRUCTURES_MODEL).resolve()
    return _load_segmenter(path, path.stat().st_mtime_ns, device)


@functools.lru_cache(maxsize=2)
def _load_segmenter(path: Path, changed_ns: int, device: str) -> Segmenter:
    from .stripping.segmenter import Segmenter

    return Segmenter.load(path, device)


def segment(
    image: Scan | np.ndarray,
    vox2world: np.ndarray | None = None,
    *,
    posteriors: bool = False,
    centre_mm: Sequence[float] | np.ndarray | None = None,
    model: str | os.PathLike | None = None,
    device: str = "auto",
) -> Segmented:
    """Structures in an array; `image`, `vox2world` and `centre_mm` are as for `strip`.

    model: one that tells structures apart; None for the one named `tissues`. posteriors: keep probabilities too.
    Returns an object with `labels`, whole numbers [X, Y, Z], 0 for the background; `classes`, each with `number`
    and `name`; `volumes_mm3`, soft volumes by number; `intracranial_mm3`; `agreement`, the Dice of each class in
    views of the image with that in their mean; and, if they are kept, `posterior(number)`, probabilities float32
    [X, Y, Z]. Raises SingleStripError with one sentence if no brain can be found.
    """
    return _segmenter(model, device).segment(image, vox2world, centre_mm=centre_mm, posteriors=posteriors)


def segment_file(
    image: str | os.PathLike,
    out: str | os.PathLike | None = None,
    posteriors: str | os.PathLike | None = None,
    picture: str | os.PathLike | None = None,
    *,
    mean_frame: bool = False,
    centre_mm: tuple[float, float, float] | None = None,
    model: str | os.PathLike | None = None,
    device: str = "auto",
) -> list[Segmented]:
    """Segment an image file, as `singlestrip segment` does; name at least one output.

    out: label map; a NIfTI one has the table of its structures beside it, .tsv. posteriors: a frame for each
    structure, with their names beside it, .json. mean_frame: one label map for all frames of a 4-D image. Other
    arguments are those of `segment`. Returns what is found in each frame. Raises SingleStripError with one
    sentence; no output is left in part.
    """
    from pathlib import Path

    from .batch.jobs import Job, SegmentOptions, with_companions
    from .batch.segment import segment_file as run

    named = {"dseg": out, "probseg": posteriors, "picture": picture}
    outputs = {kind: Path(path) for kind, path in named.items() if path is not None}
    if not outputs:
        raise SingleStripError("name at least one output: out, posteriors or picture")
    options = SegmentOptions(mean_frame, centre_mm=centre_mm)
    return run(_segmenter(model, device), Job(Path(image), with_companions(outputs)), options)
