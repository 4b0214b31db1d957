"""Makes the archive that the launcher carries: all of ocirt's modules as code objects.

Usage: archive.py OUTPUT HEADER PACKAGE_DIRECTORY DIRECTORY=MODULE ..., with the Python that will
run it; the build made the MODULEs, DIRECTORY is where they belong. HEADER tells archive.c where OUTPUT is.
What only readers and type checkers need is left out: unmarshalling costs about 0.6 ms per
thousand lines. Layout: see install_importer in embed.c.
"""

from __future__ import annotations

import ast
import marshal
import struct
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


class Strip(ast.NodeTransformer):
    """Drops annotations, docstrings, TYPE_CHECKING blocks and `from __future__ import`."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        for argument in [*every, arguments.vararg, arguments.kwarg]:
            if argument is not None:
                argument.annotation = None
        return self._without_docstring(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        if any(isinstance(base, ast.Name) and base.id == "NamedTuple" for base in node.bases):
            return node  # its annotations are its fields
        return self._without_docstring(node)

    def visit_Module(self, node: ast.Module) -> ast.AST:
        return self._without_docstring(node)

    def _without_docstring(self, node: ast.FunctionDef | ast.ClassDef | ast.Module) -> ast.AST:
        if ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
        self.generic_visit(node)
        if not node.body and not isinstance(node, ast.Module):
            node.body = [ast.Pass()]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return ast.Pass()
        return ast.Assign(targets=[node.target], value=node.value)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        return ast.Pass() if node.module == "__future__" else node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        target = node.targets[0]
        if isinstance(target, ast.Name) and target.id == "TYPE_CHECKING":
            return ast.Pass()
        return node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return node.orelse or ast.Pass()
        return node


def compile_module(path: Path, name: str) -> bytes:
    tree = Strip().visit(ast.parse(path.read_text(encoding="utf-8"), str(path)))
    ast.fix_missing_locations(tree)
    code = compile(tree, name, "exec", dont_inherit=True, optimize=2)
    return marshal.dumps(code)


def modules(package: Path, extra: list[str]) -> list[tuple[str, Path]]:
    """(file name below the package's parent, file) of every module."""
    found = {str(path.relative_to(package.parent)): path for path in package.rglob("*.py")}
    for word in extra:
        directory, _, path = word.partition("=")
        found[f"{directory}/{Path(path).name}"] = Path(path)
    return sorted(found.items())


def main() -> None:
    output, header, package = map(Path, sys.argv[1:4])
    index: dict[str, tuple[int, int, bool]] = {}
    parts = []
    offset = 0
    for file_name, path in modules(package, sys.argv[4:]):
        name = file_name.removesuffix(".py").replace("/", ".")
        is_package = name.endswith(".__init__")
        data = compile_module(path, file_name)
        index[name.removesuffix(".__init__")] = (offset, len(data), is_package)
        parts.append(data)
        offset += len(data)
    importer = compile_module(HERE / "importer.py", "importer.py")
    table = marshal.dumps(index)
    head = struct.pack("<II", len(importer), len(table))
    output.write_bytes(b"".join([head, importer, table, *parts]))
    header.write_text(f'#define ARCHIVE "{output.resolve()}"\n')


if __name__ == "__main__":
    main()
