"""What an encoder of images may consist of, as an ONNX file: of convolutional networks and of transformers.

The rules are those of a sampler's file (`guidance/backends/onnx_graph.py`) with more operators: no loops,
no branches, no functions, no other file, and no size that depends on a pixel.
"""

from __future__ import annotations

from qgf_ros.guidance.backends.onnx_graph import (
    ARRANGING,
    ELEMENTS,
    OPERATORS,
    SHAPED,
    Rules,
    check_graph,
)

# What each of these answers has a size that is said by attributes, weights and the sizes of its inputs.
_NETWORKS = frozenset(
    "Abs ArgMax Attention AveragePool BatchNormalization Ceil Constant ConstantOfShape Conv ConvTranspose "
    "CumSum DepthToSpace Dropout Einsum Elu Erf Exp Flatten Floor GlobalAveragePool GlobalMaxPool "
    "GroupNormalization HardSigmoid HardSwish InstanceNormalization LRN LeakyRelu Log LogSoftmax "
    "LpNormalization LpPool MaxPool MeanVarianceNormalization Mish Mod PRelu Pad Pow RMSNormalization Range "
    "ReduceL1 ReduceProd ReduceSumSquare Relu Resize Round Selu Sign Softmax Softplus Softsign SpaceToDepth "
    "Sum Swish ThresholdedRelu Tile Trilu Xor".split()
)
RULES = Rules(
    of="an encoder's",
    operators=OPERATORS | _NETWORKS,
    shaped=SHAPED | {"CumSum", "Pad", "ReduceL1", "ReduceProd", "ReduceSumSquare", "Resize", "Tile", "Trilu"},
    made=frozenset(("ConstantOfShape", "Range")),
    # Sizes that are computed from sizes, as exporters of transformers write them.
    arranging=ARRANGING
    | set("Add Ceil Constant ConstantOfShape Div Equal Expand Floor Max Min Mod Mul Neg Range ReduceProd".split())
    | set("Reshape Sqrt Sub Where".split()),
    elements=ELEMENTS | {2: 1, 3: 1, 4: 2, 5: 2, 10: 2, 11: 8},  # uint8, int8, uint16, int16, float16, double
    constants=True,
    notes=True,
    remedy=(
        "an encoder is one graph of a network's operators with its weights inside, no loops, branches, functions "
        "or other files: export it so, with operator set 17 to 23"
    ),
)


def check_encoder(model: bytes, where: str) -> None:
    """Raises PolicyRefused unless `model` is a graph that may be opened as an encoder of images."""
    check_graph(model, where, RULES)
