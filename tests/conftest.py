"""What several test files share: example data where it is there, and a stripper with a known answer."""

import signal
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_configure():
    """Signals as in a terminal: what nohup or a shell's background job starts ignores some."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def data() -> Path:
    """The folder of example scans."""
    if not SHARED_DATA.is_dir():
        pytest.skip("shared/data is not here")
    return SHARED_DATA


@pytest.fixture
def phantom_stripper():
    """A stripper to which whatever is brighter than half is brain, at 2 mm in a window of 96 mm.

    Brains of 6 to 120 ml are usual for it.
    """
    import torch

    from singlestrip.configuration import CascadeConfig, UNetConfig
    from singlestrip.networks.cascade import Cascade
    from singlestrip.networks.model_header import Anatomy
    from singlestrip.stripping.stripper import Stripper

    class Threshold(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.level = torch.nn.Parameter(torch.tensor(0.5))

        def forward(self, image):
            return 10 * (image - self.level)

    tiny = UNetConfig(widths=(2, 2), patch=1)
    config = CascadeConfig(segmenter=tiny, segmenter_size=48, locator=tiny, locator_size=32, locator_doublings=0)
    model = Cascade(config)
    model.locator, model.segmenter = Threshold(), Threshold()
    return Stripper(
        model, views=(), anatomy=Anatomy((12.0, 60.0))
    )  # to a threshold the brain is none in other contrasts
