"""The safety branches of a file, and the file without each of them."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator

BOUNDS = {"clip", "minimum", "maximum", "min", "max"}
FINITE = {"isfinite": True, "isnan": False, "isinf": False}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One file without one of its safety branches."""

    file: str
    line: int
    what: str
    original: str
    place: tuple[int, int]  # which node of its code, and which of its parts is missing
    function: str = ""  # which has it, by its qualified name; "": code of the module or of a class

    @property
    def source(self) -> str:
        """Made when it is asked for: most of who lists mutants wants to know which there are."""
        tree = ast.parse(self.original)
        at, part = self.place
        _, change = _without(list(_code(tree))[at])[part]
        change()
        return ast.unparse(ast.fix_missing_locations(tree))

    @property
    def key(self) -> tuple[str, str, str]:
        return self.file, self.function, self.what


def mutants(file: str, original: str) -> list[Mutant]:
    """All of a file's mutants, in the order of its lines."""
    tree = ast.parse(original)
    found = []
    nodes = list(_code(tree))
    within = _functions(tree)
    for at, node in enumerate(nodes):
        for part, (what, _) in enumerate(_without(node)):
            text = f"{what}: {' '.join(ast.unparse(_headline(node)).split())[:90]}"
            place = at, part
            found.append(Mutant(file, node.lineno, text, original, place, within.get(node, "")))
    return sorted(found, key=lambda m: m.line)


def _functions(tree: ast.AST, outside: str = "") -> dict[ast.AST, str]:
    """For each node of a function's body the outermost function that has it, by its qualified name."""
    found = {}
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            name = outside + node.name
            found |= {part: name for statement in node.body for part in ast.walk(statement)}
        else:
            found |= _functions(
                node, f"{outside}{node.name}." if isinstance(node, ast.ClassDef) else outside
            )
    return found


def _code(tree: ast.AST) -> Iterator[ast.AST]:
    """Every statement and expression that runs: no annotations."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield child
                yield from _code(child)


def _without(node: ast.AST) -> list[tuple[str, object]]:
    """What can be taken out of a node: how it is called, and what does it."""
    if isinstance(node, (ast.If, ast.IfExp)):
        if ast.unparse(node.test) == "__name__ == '__main__'":  # which process this is
            return []
        return [("never", lambda: setattr(node, "test", ast.Constant(False)))]
    if isinstance(node, ast.BoolOp):
        return [
            (f"without part {i + 1}", lambda i=i: node.values.pop(i))
            for i in range(len(node.values))
        ]
    if (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, (ast.BitOr, ast.BitAnd))
        and _decides(node)
    ):
        parts = (("without part 1", node.right), ("without part 2", node.left))
        return [(what, lambda kept=kept: _become(node, kept)) for what, kept in parts]
    if (
        isinstance(node, ast.AugAssign)
        and isinstance(node.op, (ast.BitOr, ast.BitAnd))
        and _decides(node.value)
    ):
        return [("left out", lambda: _become(node, ast.Pass()))]
    if isinstance(node, ast.Raise):
        return [("not raised", lambda: _become(node, ast.Pass()))]
    if isinstance(node, ast.Call):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in BOUNDS and len(node.args) > 1:
            return [("unbounded", lambda: _become(node, node.args[0]))]
        if name in FINITE:
            shape = ast.unparse(node.args[0])
            always = ast.parse(
                f"__import__('numpy').full_like({shape}, {FINITE[name]}, dtype=bool)"
            )
            return [("all finite", lambda: _become(node, always.body[0].value))]
    return []


def _decides(node: ast.AST) -> bool:
    """Whether an operand of | or & is a comparison: then it is logic, number by number."""
    return any(isinstance(n, ast.Compare) for n in ast.walk(node))


def _become(node: ast.AST, other: ast.AST) -> None:
    place = {name: getattr(node, name) for name in ("lineno", "col_offset")}
    node.__class__, node.__dict__ = other.__class__, dict(other.__dict__) | place


def _headline(node: ast.AST) -> ast.AST:
    """The part of a statement that says which one it is."""
    return node.test if isinstance(node, (ast.If, ast.IfExp)) else node
