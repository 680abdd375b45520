"""Networks of a model file as ONNX files, for programs that run them without Python. Imports no torch.

Each network becomes a plain ONNX file of its own: other programs can convert it, and load the segmenter alone. The
graph is made from the weights of the model file. It mirrors `unet.UNet` and `autoencoder.Autoencoder`, and tests
hold them together. Weights that 16 bits hold exactly stay in 16 bits; the arithmetic has 32. What a program must
know beside the weights is in the metadata of each file.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._version import __version__
from ..configuration import AutoencoderConfig, CascadeConfig, FlagConfig, ReasonConfig, StrippingConfig, UNetConfig
from ..errors import SingleStripError
from ..io.checksum import checksum
from ..io.output import atomic_write, check_writable, make_folder
from ..io.text.escaping import to_json
from .model_card import read_card
from .model_files import find_model, is_shipped
from .model_header import AUTOENCODER, CASCADE, read_header
from .model_weights import Weights, read_weights, weights_of
from .trees import Estimator
from .weight_shapes import EPSILON, LEAK

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

log = logging.getLogger(__name__)

FORMAT, FORMAT_VERSION = "singlestrip-onnx", 1
OPSET = 17
IR_VERSION = 8  # of the same age as the operators: older runtimes read it too
SUFFIX = ".onnx"
QUALITY_NETWORK = "quality"


def export_model(path: Path, folder: Path) -> list[Path]:
    """Write the networks of a model file as FOLDER/locator.onnx, FOLDER/segmenter.onnx and FOLDER/quality.onnx.

    The last is there if the file holds a quality network, or is the shipped model, which has one beside it. The
    folder is made if it is missing. If one file cannot be written, none appears. A network that an earlier export
    left in the folder and this model lacks stays there, with a warning. Returns the paths of the files. Raises
    ModelError if the file holds no networks to strip with, OutputError if a file cannot be written, and
    SingleStripError if the library onnx is missing.
    """
    if find_spec("onnx") is None:
        raise SingleStripError("the export needs the library onnx, which is not installed: pip install onnx")
    models = {**_strip_models(path), **_quality_model(path)}
    make_folder(folder)
    paths = [folder / f"{network}{SUFFIX}" for network in models]
    for target in paths:
        check_writable(target)
    with ExitStack() as stack:
        for target, model in zip(paths, models.values(), strict=True):
            (partial,) = stack.enter_context(atomic_write(target))
            partial.write_bytes(model.SerializeToString())
    leftover = folder / f"{QUALITY_NETWORK}{SUFFIX}"
    if leftover not in paths and leftover.exists():
        log.warning("%s: of another model, left from an earlier export; remove it", leftover)
    return paths


def _strip_models(path: Path) -> dict[str, ModelProto]:
    """The locator and the segmenter of a model file, by their names."""
    header = read_header(path, CASCADE)
    config: CascadeConfig = header.parts[CASCADE].config
    weights = read_weights(path, header, CASCADE)
    told = _describe(path) | {
        "configuration": to_json(with_derived(config)),
        "stripping": to_json(asdict(StrippingConfig())),
        "anatomy": to_json(None if header.anatomy is None else asdict(header.anatomy)),
        "provenance": to_json(header.parts[CASCADE].stored["provenance"]),
    }
    shapes: dict[str, tuple[int, Sequence[int | str]]] = {  # channels of the output, and size of the image
        "locator": (1, ("x", "y", "z")),
        "segmenter": (config.segmenter_outputs, (config.segmenter_size,) * 3),
    }
    models = {}
    for network, (channels, size) in shapes.items():
        graph = _Graph(weights_of(network, weights))
        output = _unet(graph, getattr(config, network))
        models[network] = graph.model((1, 1, *size), output, (1, channels, *size), told | {"network": network})
    return models


def _quality_model(path: Path) -> dict[str, ModelProto]:
    """The quality network that goes with a model file, by its name; nothing if there is none."""
    holder = path
    if AUTOENCODER not in read_header(path).parts:
        if not is_shipped(path):
            return {}
        holder = find_model(None, AUTOENCODER.shipped)
    header = read_header(holder, AUTOENCODER)
    part = header.parts[AUTOENCODER]
    estimator: Estimator | None = part.estimator
    told = _describe(path) | {
        "network": QUALITY_NETWORK,
        "configuration": to_json(asdict(part.config)),
        "estimator": to_json(None if estimator is None else asdict(estimator)),
        "flags": to_json(asdict(FlagConfig())),
        "reasons": to_json(asdict(ReasonConfig())),
        "provenance": to_json(part.stored["provenance"]),
    }
    graph = _Graph(read_weights(holder, header, AUTOENCODER))
    output = _autoencoder(graph, part.config)
    shape = ("batch", 1, *(part.config.size,) * part.config.dimensions)
    return {QUALITY_NETWORK: graph.model(shape, output, shape, told)}


def with_derived(config: CascadeConfig) -> dict[str, Any]:
    """A configuration, and what follows from it, so that other programs need not know how."""
    return asdict(config) | {
        "scale": config.scale,
        "locator_multiple": config.locator.multiple,
        "brain_channels": config.brain_channels,
        "mirrored_channels": config.mirrored_channels,
    }


def _describe(path: Path) -> dict[str, str]:
    """What all files of a model tell of it, as texts by their keys in the metadata; those of objects are JSON."""
    card = read_card(path)
    return {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "made_with": f"singlestrip {__version__}",
        "model": path.name,
        "model_sha256": checksum(path),
        "card": to_json(None if card is None else asdict(card)),
        "licence": (card and card.licence) or "",
    }


@dataclass
class _Graph:
    """A graph while it is made. Values have names; the image is called `image`.

    weights: by their names in the network. nodes: so far. constants: the values that nodes read, by their names.
    """

    weights: Weights
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output, whose name is returned."""
        from onnx import helper

        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, values: np.ndarray) -> str:
        """The name of values that nodes may read."""
        self.constants[name] = values
        return name

    def numbers(self, values: Sequence[int]) -> str:
        """The name of a list of whole numbers."""
        return self.constant(f"numbers_{'_'.join(map(str, values))}", np.array(values, dtype=np.int64))

    def weight(self, name: str) -> str:
        """The name of a weight in 32 bits, of which 16 are stored if they hold it exactly."""
        values = self.weights[name]
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            return self.constant(name, values)
        from onnx import TensorProto

        return self.add("Cast", self.constant(name, half), to=TensorProto.FLOAT)

    def model(
        self, shape: Sequence[int | str], output: str, output_shape: Sequence[int | str], metadata: dict[str, str]
    ) -> ModelProto:
        """The whole model, from `image` to `logit`. Names in shapes stand for any size."""
        from onnx import TensorProto, checker, helper, numpy_helper

        self.nodes.append(helper.make_node("Identity", [output], ["logit"], name="logit"))
        graph = helper.make_graph(
            self.nodes,
            metadata["network"],
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("logit", TensorProto.FLOAT, output_shape)],
            [numpy_helper.from_array(values, name) for name, values in self.constants.items()],
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="singlestrip",
            producer_version=__version__,
        )
        helper.set_model_props(model, metadata)
        checker.check_model(model, full_check=True)
        return model


def _unet(graph: _Graph, config: UNetConfig) -> str:
    """The logits of a U-Net. The image has a batch of one."""

    def block(x: str, name: str) -> str:
        """A convolution block."""
        x = _convolution(graph, x, f"{name}.conv", padding=1)
        if config.norm == "instance":
            scale, shift = (graph.weight(f"{name}.norm.{part}") for part in ("weight", "bias"))
            x = graph.add("InstanceNormalization", x, scale, shift, epsilon=EPSILON)
        return _leaky_relu(graph, x)

    def level(x: str, name: str) -> str:
        """Two convolution blocks."""
        return block(block(x, f"{name}.0"), f"{name}.1")

    scales = graph.constant("scales", np.array([1, 1, 2, 2, 2], dtype=np.float32))
    x = _fold(graph, "image", config.patch) if config.patch > 1 else "image"
    skips = []
    for depth in range(len(config.widths)):
        if depth:
            x = graph.add("MaxPool", x, kernel_shape=[2] * 3, strides=[2] * 3)
        x = level(x, f"encoder.{depth}")
        skips.append(x)
    for depth, skip in enumerate(reversed(skips[:-1])):
        x = graph.add(
            "Resize",
            x,
            "",
            scales,
            mode="nearest",
            nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )
        x = level(graph.add("Concat", x, skip, axis=1), f"decoder.{depth}")
    x = _convolution(graph, x, "head")
    if config.patch > 1:
        x = _unfold(graph, x, config.patch, len(graph.weights["head.bias"]))
    return x


def _fold(graph: _Graph, x: str, patch: int) -> str:
    """Blocks of patch³ voxels moved into channels, as `unet.fold` does; x: [1, 1, X, Y, Z]."""
    size = graph.add("Div", _size(graph, x), graph.numbers([patch]))
    sides = [graph.add("Gather", size, graph.numbers([axis])) for axis in range(3)]
    each = graph.numbers([patch])
    apart = graph.add("Concat", *(part for side in sides for part in (side, each)), axis=0)
    x = graph.add("Transpose", graph.add("Reshape", x, apart), perm=[1, 3, 5, 0, 2, 4])
    return graph.add("Reshape", x, graph.add("Concat", graph.numbers([1, patch**3]), size, axis=0))


def _unfold(graph: _Graph, x: str, patch: int, channels: int) -> str:
    """The inverse of `_fold`, as `unet.unfold` does; x: [1, channels, X, Y, Z]."""
    size, count = _size(graph, x), channels // patch**3
    apart = graph.add("Concat", graph.numbers([count, patch, patch, patch]), size, axis=0)
    x = graph.add("Transpose", graph.add("Reshape", x, apart), perm=[0, 4, 1, 5, 2, 6, 3])
    larger = graph.add("Mul", size, graph.numbers([patch]))
    return graph.add("Reshape", x, graph.add("Concat", graph.numbers([1, count]), larger, axis=0))


def _size(graph: _Graph, x: str) -> str:
    """The sizes [3] of the last three axes of x [1, C, X, Y, Z]."""
    return graph.add("Shape", x, start=2)


def _autoencoder(graph: _Graph, config: AutoencoderConfig) -> str:
    """The logit of an autoencoder's reconstruction."""
    x = "image"
    for half, layers in (("encoder", config.layers), ("decoder", config.layers[::-1])):
        operator = "ConvTranspose" if half == "decoder" else "Conv"
        for number, (_, stride, _) in enumerate(layers):
            x = _convolution(graph, x, f"{half}.{4 * number}", padding=1, stride=stride, operator=operator)
            if number + 1 < len(layers):
                parts = ("weight", "bias", "running_mean", "running_var")
                norm = [graph.weight(f"{half}.{4 * number + 1}.{part}") for part in parts]
                x = _leaky_relu(graph, graph.add("BatchNormalization", x, *norm, epsilon=EPSILON))
    return x


def _convolution(
    graph: _Graph, x: str, name: str, padding: int = 0, stride: int = 1, operator: str = "Conv"
) -> str:
    """A convolution with bias, or a transposed one."""
    kernel = list(graph.weights[f"{name}.weight"].shape[2:])
    sides = len(kernel)
    return graph.add(
        operator,
        x,
        graph.weight(f"{name}.weight"),
        graph.weight(f"{name}.bias"),
        kernel_shape=kernel,
        strides=[stride] * sides,
        pads=[padding] * 2 * sides,
    )


def _leaky_relu(graph: _Graph, x: str) -> str:
    """Leaky ReLU."""
    return graph.add("LeakyRelu", x, alpha=LEAK)
