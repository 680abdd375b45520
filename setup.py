"""Package description. Weights in models/ travel inside the package."""

from pathlib import Path

from setuptools import find_packages, setup

# Snakemake 8 and later need Python 3.11.
WORKFLOW = [f"{name}; python_version >= '3.11'" for name in ("snakemake>=8", "snakemake-executor-plugin-slurm>=1")]

setup(
    name="singlestrip",
    version="0.1.0",
    description="Skull-stripping of any head image, learned from one labelled scan",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=[*find_packages(include=["singlestrip", "singlestrip.*"]), "singlestrip.models"],
    package_dir={"singlestrip.models": "models"},
    package_data={"singlestrip.io": ["templates/qc/*"], "singlestrip.models": ["*.safetensors", "*.md"]},
    install_requires=[
        "torch>=2.4",
        "nibabel>=5.2",
        "numpy>=1.24",
        "scipy>=1.11",
        "scikit-learn>=1.3",
        "safetensors>=0.4.3",
        "msgspec>=0.18.6",
        "matplotlib>=3.8",
        "shtab>=1.13",
    ],
    extras_require={
        "bids": ["ancpbids>=0.4.8"],
        "nipype": ["nipype>=1.8"],
        "workflow": WORKFLOW,
        "test": [
            "pytest>=8",
            "ruff>=0.6",
            "import-linter>=2.11",
            "selenium>=4",
            "pytest-rerunfailures>=14",
            "pytest-xdist>=3.6",
            "ancpbids>=0.4.8",
            "nipype>=1.8",
            "boutiques>=0.5.30",
            *WORKFLOW,
        ],
    },
    entry_points={"console_scripts": ["singlestrip=singlestrip.__main__:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
