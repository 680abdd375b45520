"""Names and shapes of the weights of networks, known from their configuration, and what every engine must compute
with them alike. Imports no torch."""

from __future__ import annotations

from ..configuration import AutoencoderConfig, CascadeConfig, UNetConfig

Shapes = dict[str, tuple[int, ...]]
LEAK = 0.2  # negative slope of all ReLUs, SynthStrip
EPSILON = 1e-5  # of normalisation, as torch has it
COUNTER = "num_batches_tracked"  # ends the names of whole numbers, which nothing uses


def weight_shapes(config: CascadeConfig | AutoencoderConfig) -> Shapes:
    """The shape of each weight of the networks of a configuration, by its name in model files."""
    if isinstance(config, AutoencoderConfig):
        return _autoencoder_shapes(config)
    networks = {
        "locator": _unet_shapes(config.locator, 1),
        "segmenter": _unet_shapes(config.segmenter, config.segmenter_outputs),
    }
    return {f"{network}.{name}": shape for network, shapes in networks.items() for name, shape in shapes.items()}


def _unet_shapes(config: UNetConfig, outputs: int) -> Shapes:
    """Of `unet.UNet`, with so many logits of each voxel."""
    shapes: Shapes = {}

    def add_block(name: str, channels: int, width: int) -> None:
        """A convolution block."""
        shapes[f"{name}.conv.weight"], shapes[f"{name}.conv.bias"] = (width, channels, 3, 3, 3), (width,)
        if config.norm == "instance":
            shapes[f"{name}.norm.weight"] = shapes[f"{name}.norm.bias"] = (width,)

    def add_level(name: str, channels: int, width: int) -> None:
        """Two convolution blocks."""
        add_block(f"{name}.0", channels, width)
        add_block(f"{name}.1", width, width)

    channels = config.patch**3
    for depth, width in enumerate(config.widths):
        add_level(f"encoder.{depth}", channels, width)
        channels = width
    for depth, width in enumerate(reversed(config.widths[:-1])):
        add_level(f"decoder.{depth}", channels + width, width)
        channels = width
    head = outputs * config.patch**3
    shapes["head.weight"], shapes["head.bias"] = (head, channels, 1, 1, 1), (head,)
    return shapes


def _autoencoder_shapes(config: AutoencoderConfig) -> Shapes:
    """Of `autoencoder.Autoencoder`."""
    shapes: Shapes = {}
    channels = [1, *(width for _, _, width in config.layers)]
    steps = list(zip(channels, channels[1:], [kernel for kernel, _, _ in config.layers], strict=False))
    # A transposed convolution holds its weights by the channels before, which are those after its mirror image.
    halves = {"encoder": [(b, b, a, k) for a, b, k in steps], "decoder": [(a, b, a, k) for a, b, k in steps[::-1]]}
    for half, layers in halves.items():
        for number, (after, first, second, kernel) in enumerate(layers):
            place = 4 * number  # convolution, normalisation, ReLU and dropout
            shapes[f"{half}.{place}.weight"] = (first, second, *(kernel,) * config.dimensions)
            shapes[f"{half}.{place}.bias"] = (after,)
            if number + 1 < len(layers):
                for name in ("weight", "bias", "running_mean", "running_var"):
                    shapes[f"{half}.{place + 1}.{name}"] = (after,)
                shapes[f"{half}.{place + 1}.{COUNTER}"] = ()
    return shapes
