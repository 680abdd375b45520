"""What the command line says about a number that is none, or out of range."""

import pytest

from singlestrip.cli.interface import NUMBERS, command_options, subparsers
from singlestrip.cli.main import main
from singlestrip.cli.parser import build_parser

LINES = {"strip": "strip -i a.nii -m b.nii", "train": "train -l a.nii -o b.safetensors", "qc": "qc -m a.nii"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"{LINES['strip']} -b 1mm", "-b/--border: a number of millimetres, such as 1, not '1mm'"),
        (f"{LINES['strip']} -b nan", "-b/--border: nan is not a finite number"),
        (f"{LINES['strip']} -f black", "-f/--fill: a number, such as 0.5, not 'black'"),
        (f"{LINES['strip']} --memory 4G", "--memory: a number, such as 0.5, not '4G'"),
        (f"{LINES['strip']} -t 1.5", "-t/--threads: a whole number, such as 1, not '1.5'"),
        (
            f"{LINES['strip']} --shard 3",
            "--shard: name a part and the number of parts, such as 2/8, or slurm, not '3'",
        ),
        (f"{LINES['strip']} --shard 0/2", "--shard: name a part"),
        (f"{LINES['train']} --voxel-size 1mm", "--voxel-size: a number of millimetres, such as 1, not '1mm'"),
        (f"{LINES['train']} --voxel-size 0", "--voxel-size: 0.0 is not above 0"),
        (f"{LINES['train']} --seed x", "--seed: a whole number, such as 1, not 'x'"),
        (f"{LINES['qc']} --pass-from high", "--pass-from: a number, such as 0.5, not 'high'"),
    ],
)
def test_numbers_in_words(line, words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("command", subparsers(build_parser()))
def test_no_option_speaks_of_its_type(command):
    """argparse has "invalid positive_int value" for a ValueError."""
    kinds = [option.action.type for option in command_options(build_parser(), command) if option.range is not None]
    assert all(kind in NUMBERS for kind in kinds) and bool(kinds) == (command not in ("models", "export"))
    for kind in kinds:
        for text in ("", "one", "1mm", "0x10", "1e", "\udcff", "9" * 5000):
            try:
                kind(text)
            except ValueError:
                pytest.fail(f"{kind.__name__} of {text[:9]!r}")
            except Exception as error:
                assert type(error).__name__ == "ArgumentTypeError"
