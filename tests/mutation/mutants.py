"""Makes the mutants of a module: copies of its syntax tree with one small fault each."""

import ast
import copy
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

__all__ = ["Mutant", "mutants"]

ORDERS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}


class Mutant(NamedTuple):
    """A module with a fault."""

    line: int
    before: str
    after: str
    make: Callable[[], ast.Module]

    @property
    def tree(self) -> ast.Module:
        """Its syntax tree; made whenever it is asked for, because a copy takes long."""
        return self.make()


def mutants(source: str) -> Iterator[Mutant]:
    """Yield all mutants of a module, in the order of its lines."""
    tree = ast.parse(source)
    _strip(tree)
    places = [(node, parent) for parent in ast.walk(tree) for node in ast.iter_child_nodes(parent)]
    parents = {id(node): parent for node, parent in places}
    nodes = sorted((node for node, _ in places if hasattr(node, "lineno")), key=_place)
    for node in nodes:
        if not _left_out(node, parents):
            for changed in _changed(node):
                yield _with(tree, node, changed, parents)


def _place(node: ast.AST) -> tuple[int, int]:
    return getattr(node, "lineno", 0), getattr(node, "col_offset", 0)


def _strip(tree: ast.Module) -> None:
    """Remove what is not run: annotations and docstrings. A mutant of them would be the same program."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                first.value.lineno = 0


def _left_out(node: ast.AST, parents: dict[int, ast.AST]) -> bool:
    """Return whether a node is part of an annotation, a docstring, a message of the log or an import."""
    if getattr(node, "lineno", 1) == 0:
        return True
    child = node
    while (parent := parents.get(id(child))) is not None:
        if child in (getattr(parent, "annotation", None), getattr(parent, "returns", None)):
            return True
        if isinstance(parent, ast.ClassDef) and child in parent.keywords:  # how a struct is laid out
            return True
        if isinstance(parent, ast.Call) and ast.unparse(parent.func).startswith("log."):
            return True
        if isinstance(parent, ast.If) and child in parent.body and "TYPE_CHECKING" in ast.unparse(parent.test):
            return True
        child = parent
    return False


def _changed(node: ast.AST) -> Iterator[ast.AST]:  # noqa: C901
    """Yield what may stand in place of a node."""
    match node:
        case ast.Compare(ops=[first, *_]):
            for kind in ORDERS.get(type(first), ()):
                yield _copy(node, ops=[kind(), *node.ops[1:]])
        case ast.BoolOp():
            yield _copy(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node.operand
        case ast.BinOp() | ast.AugAssign() if type(node.op) in OPERATORS:
            if not any(isinstance(one, ast.JoinedStr) for one in ast.walk(node)):
                yield _copy(node, op=OPERATORS[type(node.op)]())
            if isinstance(node, ast.AugAssign):
                yield ast.Pass()
        case ast.Constant(value=bool()):
            yield _copy(node, value=not node.value)
        case ast.Constant(value=int() | float() as number):
            yield _copy(node, value=number + 1)
        case ast.Call(func=ast.Name(id=name)) if name in CALLS:
            yield _copy(node, func=ast.Name(CALLS[name], ast.Load()))
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield _copy(node, value=ast.Constant(None))
        case ast.Expr(value=ast.Call() | ast.Await() | ast.Yield()):
            if not ast.unparse(node).startswith("log."):
                yield ast.Pass()
        case (
            ast.Assign(targets=[ast.Attribute() | ast.Subscript()])
            | ast.Raise()
            | ast.Continue()
            | ast.Break()
            | ast.Delete()
        ):
            yield ast.Pass()
        case ast.If() | ast.While() | ast.IfExp() if not isinstance(node.test, ast.Compare | ast.UnaryOp | ast.BoolOp):
            yield _copy(node, test=ast.UnaryOp(ast.Not(), node.test))


def _copy(node: ast.AST, **fields: object) -> ast.AST:
    return ast.copy_location(
        type(node)(**{**{name: getattr(node, name, None) for name in node._fields}, **fields}), node
    )


def _with(tree: ast.Module, node: ast.AST, changed: ast.AST, parents: dict[int, ast.AST]) -> Mutant:
    """Return the tree with a node replaced; the original tree is left alone."""
    parent = parents[id(node)]
    for name, value in ast.iter_fields(parent):
        index = next((at for at, one in enumerate(value) if one is node), None) if isinstance(value, list) else None
        if value is not node and index is None:
            continue
        make = functools.partial(_made, tree, node, changed, parent, name, index)
        return Mutant(getattr(node, "lineno", 0), ast.unparse(_shown(node)), ast.unparse(_shown(changed)), make)
    raise AssertionError(node)


def _made(
    tree: ast.Module, node: ast.AST, changed: ast.AST, parent: ast.AST, name: str, index: int | None
) -> ast.Module:
    _put(parent, name, index, changed)
    try:
        return ast.fix_missing_locations(copy.deepcopy(tree))
    finally:
        _put(parent, name, index, node)


def _put(parent: ast.AST, name: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, name, node)
    else:
        getattr(parent, name)[index] = node


def _shown(node: ast.AST) -> ast.AST:
    """Return the part of a statement that fits on a line."""
    return node.test if isinstance(node, ast.If | ast.While) else node
