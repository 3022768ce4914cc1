"""Errors made of the syntax tree of a source, one at a time, and put into the functions of a running process.

A comparison turned, a condition negated, a number moved by one, a statement left out, "and" for "or", plus for minus.
"""

from __future__ import annotations

import ast
import gc
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

from proofs import ROOT

SOURCE = ROOT / "src" / "sfumato"
TURNED: Mapping[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """An error in a file.

    Args:
        file: below ``src/sfumato``.
        lines: first and last of what is executed there: of the statement, or of its head where it has a body.
        what: how the line reads then.
        tree: of the whole file.
    """

    file: str
    lines: tuple[int, int]
    what: str
    tree: ast.Module

    @property
    def key(self) -> str:
        """What names it, whatever stands above it in the file."""
        return f"{self.file}: {self.what}"

    def __str__(self) -> str:
        return f"{self.file}:{self.lines[0]} {self.what}"


def sites(file: str) -> range:
    """Return the numbers of the mutants of a file."""
    return range(sum(1 for _ in _changes(_tree(file))))


def mutant_of(file: str, number: int) -> Mutant:
    """Return one of them."""
    tree = _tree(file)
    node, change = next(itertools.islice(_changes(tree), number, None))
    above = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    statement: Any = node
    while not isinstance(statement, ast.stmt | ast.ExceptHandler | ast.match_case):
        statement = above[statement]
    body, place = getattr(statement, "body", None), statement if hasattr(statement, "lineno") else node
    first, end = getattr(place, "lineno", 1), getattr(place, "end_lineno", 1)
    last = max(first, body[0].lineno - 1) if isinstance(body, list) else end
    before = _text(statement)
    change(node)
    ast.fix_missing_locations(tree)
    return Mutant(file, (first, last), f"{before}  ->  {_text(statement)}", tree)


def _tree(file: str) -> ast.Module:
    return ast.parse((SOURCE / file).read_text())


def _text(statement: ast.AST) -> str:
    """Return what is executed of a statement, in one line; of a compound one its head."""
    lines = ast.unparse(statement).splitlines()
    decorators = len(getattr(statement, "decorator_list", ()))
    return " ".join(map(str.strip, lines[: decorators + 1] if getattr(statement, "body", None) else lines))


def _changes(tree: ast.AST) -> Iterator[tuple[ast.AST, Callable[[Any], None]]]:
    """Yield (node, what can be done to it), in the same order for the same source."""
    for node in ast.walk(tree):
        for fits, change in CHANGES:
            if fits(node):
                yield node, change
                break


def _is_number(node: Any) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int and 0 <= node.value < 2**40


def _is_left_out(node: Any) -> bool:
    return isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))


def _turn(node: Any) -> None:
    node.ops[0] = TURNED[type(node.ops[0])]()


def _other(node: Any) -> None:
    node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()


def _negate(node: Any) -> None:
    node.test = ast.UnaryOp(ast.Not(), node.test)


def _move(node: Any) -> None:
    node.value += 1


def _subtract(node: Any) -> None:
    node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()


def _leave_out(node: Any) -> None:
    node.__class__ = ast.Expr
    node.value = ast.Constant(None)


CHANGES: tuple[tuple[Callable[[Any], bool], Callable[[Any], None]], ...] = (
    (lambda node: isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in TURNED, _turn),
    (lambda node: isinstance(node, ast.BoolOp), _other),
    (lambda node: isinstance(node, ast.If | ast.While | ast.IfExp), _negate),
    (_is_number, _move),
    (lambda node: isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub), _subtract),
    (_is_left_out, _leave_out),
)


def is_imported(mutant: Mutant) -> bool:
    """Whether the error is in what an import executes: a constant, a default, the body of a class."""
    changed = [one for one, other in _codes(mutant) if _own(one) != _own(other)]
    return not changed or any(not one.co_flags & inspect.CO_OPTIMIZED for one in changed)


def put_in(mutant: Mutant) -> bool:
    """Put the error into the functions of this process; return False where that cannot be done."""
    new = {_name(one): other for one, other in _codes(mutant) if one != other and one.co_flags & inspect.CO_OPTIMIZED}
    path = str(SOURCE / mutant.file)
    found = [item for item in gc.get_objects() if isinstance(item, FunctionType) and item.__code__.co_filename == path]
    hits = [(item, new[_name(item.__code__)]) for item in found if _name(item.__code__) in new]
    if not hits or any(item.__code__.co_freevars != code.co_freevars for item, code in hits):
        return False
    for item, code in hits:
        item.__code__ = code
    return True


def _codes(mutant: Mutant) -> list[tuple[CodeType, CodeType]]:
    path = str(SOURCE / mutant.file)
    right, wrong = (compile(tree, path, "exec", dont_inherit=True) for tree in (_tree(mutant.file), mutant.tree))
    return list(_pairs(right, wrong))


def _pairs(right: CodeType, wrong: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """Yield the pieces of code of two sources, side by side; what one of them alone has is left out."""
    yield right, wrong
    inner = {(each.co_qualname, *_start(each)): each for each in wrong.co_consts if isinstance(each, CodeType)}
    for one in right.co_consts:
        if isinstance(one, CodeType) and (one.co_qualname, *_start(one)) in inner:
            yield from _pairs(one, inner[one.co_qualname, *_start(one)])


def _start(code: CodeType) -> tuple[int | None, ...]:
    return next((place for place in code.co_positions() if place[2]), (code.co_firstlineno,))


def _own(code: CodeType) -> tuple[Any, ...]:
    """Return what a piece of code does itself, without the functions in it."""
    plain = tuple((type(each), each) for each in code.co_consts if not isinstance(each, CodeType))
    return code.co_code, code.co_names, code.co_varnames, plain


def _name(code: CodeType) -> tuple[Any, ...]:
    return code.co_qualname, code.co_code
