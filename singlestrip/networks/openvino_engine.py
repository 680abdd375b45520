"""Networks run by OpenVINO, on the processor. Imports no torch.

A graph is made from the weights of a model file when it is needed, so that any file runs without torch. The graphs
mirror `unet.UNet` and `autoencoder.Autoencoder`; tests hold them together.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..configuration import AutoencoderConfig, CascadeConfig, UNetConfig
from ..threads import is_forked, thread_count
from .engine import AUTOENCODER_NETWORK, NETWORK_IN_16_BITS, Engine
from .model_weights import Weights, weights_of
from .trees import Estimator
from .weight_shapes import EPSILON, LEAK

if TYPE_CHECKING:
    from openvino import Node

# Unless this is missing, the import of OpenVINO looks for a home folder and tells its makers over the network.
TELEMETRY = "openvino_telemetry"


def _import_quietly() -> ModuleType:
    """OpenVINO, imported without its telemetry."""
    before = sys.modules.get(TELEMETRY)
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # Python's own way to say that it is missing
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[TELEMETRY]
        if before is not None:
            sys.modules[TELEMETRY] = before


ov = _import_quietly()
ops = ov.opset13

MAX_COMPILED = 6  # graphs that are kept: each is of one shape of image


class OpenVinoEngine(Engine):
    """Networks with their weights, float32.

    A segmenter runs in bfloat16 where the processor has instructions for it. Graphs for the usual shapes of its
    images are compiled in the background, while the first image is read.
    """

    def __init__(
        self, config: CascadeConfig | AutoencoderConfig, weights: Weights, estimator: Estimator | None = None
    ) -> None:
        self.config, self.estimator, self._weights = config, estimator, weights
        self._substitute: Engine | None = None
        self._lock = threading.Lock()
        self._graphs: OrderedDict[tuple[str, tuple[int, ...]], Future[_Graph]] = OrderedDict()
        self._compiler = ThreadPoolExecutor(1)
        if isinstance(config, CascadeConfig):
            sizes = {"locator": config.locator_size, "segmenter": config.segmenter_size}
            for network, size in sizes.items():
                self._graph(network, (1, 1, size, size, size))

    def run(self, network: str, images: np.ndarray) -> np.ndarray:
        if is_forked():
            return self._run_in_fork(network, images)
        return self._graph(network, images.shape).result().run(images)

    def _run_in_fork(self, network: str, images: np.ndarray) -> np.ndarray:
        """Run torch instead: OpenVINO waits for ever for threads that its process has lost."""
        if self._substitute is None:
            from .checkpoint import build_networks
            from .torch_engine import TorchEngine

            self._substitute = TorchEngine(build_networks(self.config, self._weights))
        return self._substitute.run(network, images)

    def _graph(self, network: str, shape: tuple[int, ...]) -> Future[_Graph]:
        """The graph of a network for images [B, 1, ...] of a shape; the ones used last are kept."""
        with self._lock:
            key = network, shape
            if key not in self._graphs:
                self._graphs[key] = self._compiler.submit(self._compile, network, shape)
            self._graphs.move_to_end(key)
            while len(self._graphs) > MAX_COMPILED:
                self._graphs.popitem(last=False)
            return self._graphs[key]

    def _compile(self, network: str, shape: tuple[int, ...]) -> _Graph:
        image = ops.parameter(list(shape), np.float32)
        if network == AUTOENCODER_NETWORK:
            return _Graph(_autoencoder(image, self.config, self._weights), image, in_16_bits=False)
        output = _unet(image, getattr(self.config, network), weights_of(network, self._weights))
        return _Graph(output, image, in_16_bits=network == NETWORK_IN_16_BITS)


class _Graph:
    """A compiled graph. in_16_bits: whether to compute in 16 bits where the processor has instructions for it."""

    def __init__(self, output: Node, image: Node, in_16_bits: bool) -> None:
        core = ov.Core()
        fast_16 = in_16_bits and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        options: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": thread_count(),
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "bf16" if fast_16 else "f32",
            "ENABLE_CPU_PINNING": False,  # other processes would be pinned to the same cores
        }
        self._compiled = core.compile_model(ov.Model([output], [image]), "CPU", options)
        self._idle: SimpleQueue[Any] = SimpleQueue()  # requests that no thread uses

    def run(self, images: np.ndarray) -> np.ndarray:
        """The output for an input, float32."""
        try:
            request = self._idle.get_nowait()
        except Empty:
            request = self._compiled.create_infer_request()
        output = request.infer([np.ascontiguousarray(images)])[0].copy()
        self._idle.put(request)
        return output


def _unet(image: Node, config: UNetConfig, weights: Weights) -> Node:
    """The logits of a U-Net, float32."""

    def block(x: Node, name: str) -> Node:
        """A convolution block."""
        x = _convolution(x, weights, f"{name}.conv", stride=1, padding=1)
        if config.norm == "instance":
            x = ops.mvn(x, np.array([2, 3, 4]), True, EPSILON, "inside_sqrt")
            x = ops.add(
                ops.multiply(x, _channels(weights[f"{name}.norm.weight"], 3)),
                _channels(weights[f"{name}.norm.bias"], 3),
            )
        return _leaky_relu(x)

    def level(x: Node, name: str) -> Node:
        """Two convolution blocks."""
        return block(block(x, f"{name}.0"), f"{name}.1")

    x = ops.space_to_depth(image, "depth_first", config.patch) if config.patch > 1 else image
    skips = []
    for depth in range(len(config.widths)):
        if depth:
            x = ops.max_pool(x, [2] * 3, [1] * 3, [0] * 3, [0] * 3, [2] * 3).output(0)
        x = level(x, f"encoder.{depth}")
        skips.append(x)
    for depth, skip in enumerate(reversed(skips[:-1])):
        scales = np.full(3, 2, dtype=np.float32)
        x = ops.interpolate(
            x,
            scales,
            "nearest",
            "scales",
            axes=np.array([2, 3, 4]),
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        x = level(ops.concat([x, skip], 1), f"decoder.{depth}")
    x = _convolution(x, weights, "head", stride=1, padding=0)
    if config.patch > 1:
        x = ops.depth_to_space(x, "depth_first", config.patch)
    return x


def _autoencoder(image: Node, config: AutoencoderConfig, weights: Weights) -> Node:
    """The logit of an autoencoder's reconstruction, float32."""
    x = image
    for half, layers in (("encoder", config.layers), ("decoder", config.layers[::-1])):
        for number, (_, stride, _) in enumerate(layers):
            place = f"{half}.{4 * number}"
            x = _convolution(x, weights, place, stride, padding=1, transposed=half == "decoder")
            if number + 1 < len(layers):
                norm = f"{half}.{4 * number + 1}"
                scale = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + EPSILON)
                shift = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
                dimensions = config.dimensions
                x = ops.add(ops.multiply(x, _channels(scale, dimensions)), _channels(shift, dimensions))
                x = _leaky_relu(x)
    return x


def _convolution(
    x: Node, weights: Weights, name: str, stride: int, padding: int, transposed: bool = False
) -> Node:
    """A convolution, or a transposed one, with bias."""
    kernel = weights[f"{name}.weight"]
    sides = kernel.ndim - 2
    strides, pads, dilations = [stride] * sides, [padding] * sides, [1] * sides
    if transposed:
        x = ops.convolution_backprop_data(x, ops.constant(kernel), strides, None, pads, pads, dilations)
    else:
        x = ops.convolution(x, ops.constant(kernel), strides, pads, pads, dilations)
    return ops.add(x, _channels(weights[f"{name}.bias"], sides))


def _channels(values: np.ndarray, sides: int) -> Node:
    """A value for each channel of [B, C, ...], which has so many sides."""
    return ops.constant(values.reshape(1, -1, *(1,) * sides).astype(np.float32))


def _leaky_relu(x: Node) -> Node:
    """Leaky ReLU."""
    return ops.prelu(x, ops.constant(np.array([LEAK], dtype=np.float32)))
