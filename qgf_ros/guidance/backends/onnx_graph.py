"""Whether an ONNX file consists of what may be in it, before ONNX Runtime opens it: a sampler.onnx of what
`qgf export` writes, an encoder of images of what its own rules say (`images/graph.py`).

ONNX can loop for ever, ask for any amount of memory, and read any file for its weights. So the file
is walked first, field by field, by the public format (onnx.proto3), with no more than the field
numbers that are used here: one graph of known operators, weights inside, no control flow, no
functions. Whatever is not known is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from qgf_ros.errors import PolicyRefused
from qgf_ros.files.strict_yaml import shown

# What the exporter makes of `explicit.GuidedSampler`. None of them repeats, and the size of what
# each answers is that of what it is given, or is said by numbers: those of `SHAPED`, see `shapes`.
OPERATORS = frozenset(
    "Add And ArgMin Cast Clip Concat Div Equal Expand Gather Gelu Gemm Greater GreaterOrEqual Identity "
    "LayerNormalization Less LessOrEqual MatMul Max Min Mul Neg Not Or Reciprocal ReduceL2 ReduceMax "
    "ReduceMean ReduceMin ReduceSum Reshape Shape Sigmoid Slice Split Sqrt Squeeze Sub Tanh Transpose "
    "Unsqueeze Where".split()
)
# Those whose inputs behind the first say where to cut, along which axis, or how large: with numbers
# that the sampler computes, an observation could ask for all memory, in the middle of a motion.
SHAPED = frozenset(
    "Expand ReduceL2 ReduceMax ReduceMean ReduceMin ReduceSum Reshape Slice Split Squeeze Unsqueeze".split()
)
ARRANGING = frozenset("Cast Concat Gather Identity Slice Squeeze Unsqueeze".split())
OPSETS = range(17, 24)
IR_VERSIONS = range(7, 13)
MAX_NODES = 100_000  # 1000 steps of about 100
MAX_LINKS = 64  # inputs or outputs of a node
MAX_WIDE_LINKS = 1100  # of Concat and Split, which join or part the steps
MAX_NAME = 1000
MAX_ATTRIBUTES = 16
MAX_SMALL = 4096  # elements of integers, which are shapes and axes: not weights
MAX_SIZE = 2**24  # the largest number in them that can be a size
NONE_SAID = (2**63 - 1, 2**31 - 1)  # "to the end" of Slice
# TensorProto.DataType -> bytes of an element: float, int32, int64, bool.
ELEMENTS = {1: 4, 6: 4, 7: 8, 9: 1}
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Rules:
    """What a graph may consist of. The defaults are a sampler's.

    shaped: operators whose inputs behind the first say where to cut or how large; made: those of which all
    inputs do. arranging: whose answer is a fixed shape where all that they take is. elements: of weights,
    TensorProto.DataType -> bytes. constants: an attribute may be a tensor, under the rules of weights.
    notes: texts that the exporter left for people are passed over. remedy: the end of every refusal.
    """

    of: str = "a sampler's"
    operators: frozenset[str] = OPERATORS
    shaped: frozenset[str] = SHAPED
    made: frozenset[str] = frozenset()
    arranging: frozenset[str] = ARRANGING
    elements: Mapping[int, int] = field(default_factory=lambda: ELEMENTS)
    constants: bool = False
    notes: bool = False
    remedy: str = "only a graph as `qgf export` writes it is opened: run `qgf export`"


SAMPLER = Rules()


def check_graph(model: bytes, where: str, rules: Rules = SAMPLER) -> None:
    """Raises PolicyRefused unless `model` is a graph that keeps to the rules."""
    _Walk(memoryview(model), where, rules).model()


class _Walk:
    def __init__(self, data: memoryview, where: str, rules: Rules) -> None:
        self._data, self._where, self._rules = data, where, rules
        self._nodes = 0

    def refuse(self, what: str) -> NoReturn:
        raise PolicyRefused(f"{self._where}: {what}; {self._rules.remedy}")

    def fields(self, data: memoryview) -> Iterator[tuple[int, int, memoryview | int]]:
        """Field number, wire type and content of a message, in order."""
        at, end = 0, len(data)
        while at < end:
            tag, at = self.varint(data, at)
            number, wire = tag >> 3, tag & 7
            if wire == VARINT:
                value, at = self.varint(data, at)
                yield number, wire, value
                continue
            if wire == BYTES:
                size, at = self.varint(data, at)
            elif wire in (FIXED32, FIXED64):
                size = 4 if wire == FIXED32 else 8
            else:
                self.refuse(f"damaged: wire type {wire}")
            if size > end - at:
                self.refuse("damaged: cut short")
            yield number, wire, data[at : at + size]
            at += size

    def varint(self, data: memoryview, at: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= len(data):
                self.refuse("damaged: cut short")
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (2**64 - 1), at
        self.refuse("damaged: a number without an end")

    def message(self, content: memoryview | int) -> memoryview:
        if isinstance(content, int):
            self.refuse("damaged: a number where a message is expected")
        return content

    def number(self, content: memoryview | int) -> int:
        if not isinstance(content, int):
            self.refuse("damaged: a message where a number is expected")
        return content - 2**64 if content >= 2**63 else content

    def text(self, content: memoryview | int) -> str:
        data = self.message(content)
        if len(data) > MAX_NAME:
            self.refuse(f"a name of {len(data)} bytes")
        try:
            return bytes(data).decode()
        except UnicodeDecodeError:
            self.refuse("a name that is not UTF-8")

    def model(self) -> None:
        graphs, domains = 0, 0
        for number, _, content in self.fields(self._data):
            if number == 1:
                if self.number(content) not in IR_VERSIONS:
                    self.refuse(f"IR version {shown(self.number(content))}")
            elif number in (2, 3, 4, 6):  # producer, its version, domain, documentation: text
                self.message(content)
            elif number == 5:
                self.number(content)
            elif number == 7:
                graphs += 1
                if graphs > 1:  # protobuf would merge them
                    self.refuse("two graphs")
                self.graph(self.message(content))
            elif number == 8:
                domains += 1
                self.opset(self.message(content))
            elif number == 14 and self._rules.notes:
                self.message(content)
            else:  # 14 metadata, 20 training, 25 functions
                self.refuse(f"it has field {number} of a model (functions, training or metadata)")
        if graphs != 1 or domains != 1:
            self.refuse(f"{graphs} graphs and {domains} operator sets; there is one of each")

    def opset(self, data: memoryview) -> None:
        version = 0
        for number, _, content in self.fields(data):
            if number == 1 and self.text(content):
                self.refuse(f"operators of domain {shown(self.text(content))}")
            elif number == 2:
                version = self.number(content)
            elif number != 1:
                self.refuse("an unknown field of an operator set")
        if version not in OPSETS:
            self.refuse(f"operator set {version}; allowed: {OPSETS[0]} to {OPSETS[-1]}")

    def graph(self, data: memoryview) -> None:
        nodes: list[tuple[str, list[str], list[str]]] = []
        weights: list[str] = []
        given: list[str] = []
        for number, _, content in self.fields(data):
            if number == 1:
                self._nodes += 1
                if self._nodes > MAX_NODES:
                    self.refuse(f"more than {MAX_NODES} nodes")
                nodes.append(self.node(self.message(content)))
            elif number == 5:
                weights.append(self.tensor(self.message(content)))
            elif number == 11:
                given += [self.text(c) for n, _, c in self.fields(self.message(content)) if n == 1]
            elif number in (2, 10, 12, 13):  # name, documentation, outputs, values
                self.message(content)
            elif number == 16 and self._rules.notes:
                self.message(content)
            else:  # 14 quantization, 15 sparse, 16 metadata
                self.refuse(
                    f"it has field {number} of a graph (sparse or quantized weights, metadata)"
                )

        self.shapes(nodes, weights, given)

    def shapes(
        self, nodes: list[tuple[str, list[str], list[str]]], weights: list[str], given: list[str]
    ) -> None:
        """Sizes, axes and places depend on no number that the sampler is given or computes: what was
        seen to fit into memory once does so for every observation."""
        fixed = set(weights) - set(given)
        made = {*weights, *given}
        for kind, inputs, outputs in nodes:
            behind = [name for name in inputs[1:] if name]
            asked = inputs if kind in self._rules.made else behind if kind in self._rules.shaped else []
            if not fixed.issuperset(filter(None, asked)):
                self.refuse(f"a {kind} whose shape, axes or places depend on what it is given")
            for name in filter(None, outputs):
                if name in made:  # of two, ONNX Runtime may take the other
                    self.refuse(f"{shown(name)} is made twice")
                made.add(name)
            arranged = kind in self._rules.arranging and fixed.issuperset(filter(None, inputs))
            if kind == "Shape" or arranged:
                fixed.update(outputs)

    def node(self, data: memoryview) -> tuple[str, list[str], list[str]]:
        """Operator, and names of what it takes and makes."""
        kind, attributes = "", 0
        links: tuple[list[str], list[str]] = ([], [])
        for number, _, content in self.fields(data):
            if number in (1, 2):
                links[number - 1].append(self.text(content))
            elif number == 3:
                self.text(content)
            elif number == 4:
                kind = self.text(content)
            elif number == 5:
                attributes += 1
                self.attribute(self.message(content))
            elif number == 6:
                self.message(content)
            elif number == 7:
                if self.text(content):
                    self.refuse(f"an operator of domain {shown(self.text(content))}")
            elif number == 9 and self._rules.notes:
                self.message(content)
            else:  # 8 overload (a function's), 9 metadata, 10 devices
                self.refuse(f"it has field {number} of a node")
        if kind not in self._rules.operators:
            self.refuse(f"the operator {shown(kind)} is none of {self._rules.of}")
        most = MAX_WIDE_LINKS if kind in ("Concat", "Split") else MAX_LINKS
        if max(map(len, links)) > most or attributes > MAX_ATTRIBUTES:
            self.refuse(
                f"a {kind} with {len(links[0])} inputs, {len(links[1])} outputs, {attributes} attributes"
            )
        return kind, *links

    def attribute(self, data: memoryview) -> None:
        """Numbers and short texts; no graphs, and tensors only where the rules have constants."""
        count = 0
        for number, _, content in self.fields(data):
            count += 1
            if count > MAX_SMALL:
                self.refuse("an attribute of too many numbers")
            if number in (1, 4, 13):  # name, string, documentation
                self.text(content)
            elif number in (2, 7, 8):  # float, floats, ints
                size = 8 if isinstance(content, int) else len(content)
                if size > 8 * MAX_SMALL:
                    self.refuse("an attribute of too many numbers")
            elif number in (3, 20):  # integer, type
                self.number(content)
            elif number == 5 and self._rules.constants:
                self.tensor(self.message(content))
            else:  # 5 tensor, 6 graph, 9.. lists of them, 21 a function's own
                self.refuse("an attribute that is a graph, a tensor or a list of them")

    def tensor(self, data: memoryview) -> str:
        """The name of a weight: its numbers are in the file, as many as its shape says."""
        shape: list[int] = []
        name = ""
        kind, raw = 0, None
        for number, _, content in self.fields(data):
            if number == 1:
                shape += (
                    [self.number(content)] if isinstance(content, int) else self.packed(content)
                )
            elif number == 2:
                kind = self.number(content)
            elif number == 8:
                name = self.text(content)
            elif number == 9:
                if raw is not None:
                    self.refuse("a weight that is there twice")
                raw = self.message(content)
            elif number == 12:
                self.message(content)
            elif number == 14 and self.number(content) == 0:  # data_location: DEFAULT
                continue
            elif number == 16 and self._rules.notes:
                self.message(content)
            elif number in (13, 14):
                self.refuse("weights in another file, which nobody has verified")
            else:  # 3 segment, 4..7, 10, 11 numbers in another form, 16 metadata
                self.refuse(f"it has field {number} of a tensor")
        width = self._rules.elements.get(kind, 0)
        if not width:
            self.refuse(f"a weight of element type {kind}")
        if len(shape) > 8 or any(not 0 <= n <= 2**31 for n in shape):
            self.refuse(f"a weight of {len(shape)} dimensions, or of an impossible size")
        size = len(raw) if raw is not None else 0
        if math.prod(shape) * width != size:
            self.refuse(f"a weight of {math.prod(shape)} elements with {size} bytes")
        if kind in (6, 7) and raw is not None:
            self.sizes(raw, width)
        return name

    def packed(self, data: memoryview) -> list[int]:
        if len(data) > 80:
            self.refuse("a weight of too many dimensions")
        numbers, at = [], 0
        while at < len(data):
            value, at = self.varint(data, at)
            numbers.append(self.number(value))
        return numbers

    def sizes(self, raw: memoryview, width: int) -> None:
        """Integers are axes and shapes. Together, and each, they ask for a bounded amount of memory:
        the largest shape that they can spell is refused where it is none of a network's."""
        if len(raw) > width * MAX_SMALL:
            self.refuse("too many integers for a shape")
        numbers = memoryview(bytes(raw)).cast("q" if width == 8 else "i")
        wrong = [
            n
            for n in numbers
            if abs(n) > MAX_SIZE and abs(n) not in NONE_SAID and abs(n + 1) not in NONE_SAID
        ]
        sized = math.prod(max(1, n) for n in numbers if n not in NONE_SAID)
        if wrong or (len(numbers) <= 8 and sized > 2**28):
            self.refuse("a shape that asks for too much memory")
