"""A small raw BIDS data set of made-up heads, complete enough for the BIDS validator."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from phantoms import make_head

BOLD = {"RepetitionTime": 2.0, "TaskName": "rest"}
ASL = {
    "MagneticFieldStrength": 3,
    "RepetitionTimePreparation": 4.0,
    "EchoTime": 0.01,
    "MRAcquisitionType": "3D",
    "PulseSequenceType": "spiral",
    "ArterialSpinLabelingType": "PCASL",
    "PostLabelingDelay": 1.8,
    "LabelingDuration": 1.8,
    "BackgroundSuppression": False,
    "M0Type": "Absent",
    "TotalAcquiredPairs": 1,
    "AcquisitionVoxelSize": [6, 6, 6],
}
PET = {
    "Manufacturer": "none",
    "ManufacturersModelName": "none",
    "Units": "Bq/mL",
    "TracerName": "FDG",
    "TracerRadionuclide": "F18",
    "InjectedRadioactivity": 200,
    "InjectedRadioactivityUnits": "MBq",
    "InjectedMass": 1,
    "InjectedMassUnits": "ug",
    "SpecificRadioactivity": 200,
    "SpecificRadioactivityUnits": "MBq/ug",
    "ModeOfAdministration": "bolus",
    "TimeZero": "10:00:00",
    "ScanStart": 0,
    "InjectionStart": 0,
    "FrameTimesStart": [0, 60],
    "FrameDuration": [60, 60],
    "AcquisitionMode": "list mode",
    "ImageDecayCorrected": True,
    "ImageDecayCorrectionTime": 0,
    "ReconMethodName": "none",
    "ReconMethodParameterLabels": ["none"],
    "ReconMethodParameterUnits": ["none"],
    "ReconMethodParameterValues": [0],
    "ReconFilterType": "none",
    "ReconFilterSize": 0,
    "AttenuationCorrection": "none",
}


def make_dataset(root: Path) -> Path:
    """sub-01 with T1w, FLAIR, bold, sbref, dwi, asl and pet, sub-02 with T1w in two sessions.

    The diffusion frames of b>0 are dark where the brain is, so that their mean would show another.
    """
    head = make_head()
    dark = np.where(head.mask, 0, head.image).astype(np.float32)
    write(root / "dataset_description.json", {"Name": "Made-up heads", "BIDSVersion": "1.10.0", "License": "CC0"})
    (root / "README.md").write_text(
        "Heads that nobody has, to test what reads data sets of heads that people have.\n" * 3
    )
    write(root / "task-rest_bold.json", BOLD)
    write(root / "task-rest_sbref.json", BOLD)
    (root / "dwi.bval").write_text("0 1000 1000 0\n")
    images = {
        "sub-01/anat/sub-01_T1w": [head.image],
        "sub-01/anat/sub-01_FLAIR": [head.image],
        "sub-01/func/sub-01_task-rest_bold": [head.image] * 3,
        "sub-01/func/sub-01_task-rest_sbref": [head.image],
        "sub-01/dwi/sub-01_dwi": [head.image, dark, dark, head.image],
        "sub-01/perf/sub-01_asl": [head.image] * 2,
        "sub-01/pet/sub-01_pet": [head.image] * 2,
        "sub-02/ses-a/anat/sub-02_ses-a_run-1_T1w": [head.image],
        "sub-02/ses-b/anat/sub-02_ses-b_T1w": [head.image],
    }
    for name, frames in images.items():
        data = np.stack(frames, -1) if len(frames) > 1 else frames[0]
        image = nib.Nifti1Image(data, head.vox2world)
        image.header.set_xyzt_units("mm", "sec")
        if "bold" in name or "asl" in name:
            image.header.set_zooms((6, 6, 6, 2 if "bold" in name else 4))
        path = root / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, path)
    (root / "sub-01/dwi/sub-01_dwi.bvec").write_text("0 1 0 0\n0 0 1 0\n0 0 0 0\n")
    write(root / "sub-01/perf/sub-01_asl.json", ASL)
    (root / "sub-01/perf/sub-01_aslcontext.tsv").write_text("volume_type\ncontrol\nlabel\n")
    write(root / "sub-01/pet/sub-01_pet.json", PET)
    return root


def write(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2))
