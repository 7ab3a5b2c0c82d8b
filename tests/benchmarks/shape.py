"""Print the shape of the code beside what it should be: a mirror, no gate. Run by ``python -m tests.benchmarks.shape``.

Counted are ``pipeline/`` and ``stages/``. The modules of a folder are those directly in it, without ``__init__.py``.

- The length of a function is its lines from ``def`` to its end, blank lines included. It is given without the docstring
  and, as a row of its own, with it: the targets were set on lengths with docstrings. Nested functions count in the
  function that holds them and on their own.
- Parameters are all but ``self``, ``cls``, ``*args`` and ``**kwargs``. Commands count like any function. Dataclasses
  with six or more fields have a row of their own.
- A function takes a plan where a parameter is named ``plan`` or annotated with ``Plan``. It is the entry point of a
  stage, or runs stages, where it yields ``Progress``.
- Public is a function, method or class without an underscore before its name, in a module or a public class. The row
  "any name without an underscore" adds nested functions and the methods of private classes: its target was set so.

Below the table stands, by name, what misses a row's target.
"""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

REPOSITORY = Path(__file__).parent.parent.parent
FOLDERS = ("pipeline", "stages")
DEMO = REPOSITORY / "runs" / "demo.zarr"
COMMAND_RUNS = 3  # of which the least processor time counts
LONGEST_MODULE, LONGEST_FUNCTION = 320, 45  # lines
MANY_PARAMETERS = 6

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


class Module(NamedTuple):
    """A module: its path in the repository, and its lines."""

    path: Path
    lines: int


@dataclass(frozen=True)
class Definition:
    """What is counted of a function or a class.

    Attributes
    ----------
    name : str
        With its module and the classes and functions that hold it.
    lines : int or None
        Without decorators; None of a class.
    docstring_lines : int
    parameters : dict
        Names to annotations; None of a class that is no dataclass.
    returns : str
        The annotation of what comes back.
    """

    name: str
    lines: int | None
    parameters: dict[str, str] | None
    returns: str
    public: bool
    docstring_lines: int

    @property
    def unprefixed(self) -> bool:
        """Return whether its own name has no underscore before it."""
        return not self.name.rpartition(" ")[2].rpartition(".")[2].startswith("_")

    @property
    def many_parameters(self) -> bool:
        """Return whether it has six or more parameters."""
        return self.parameters is not None and len(self.parameters) >= MANY_PARAMETERS

    @property
    def takes_plan(self) -> bool:
        """Return whether a function takes a whole plan."""
        if self.lines is None or self.parameters is None:
            return False
        return any(name == "plan" or "Plan" in _names(type) for name, type in self.parameters.items())

    @property
    def is_entry_point(self) -> bool:
        """Return whether it is a stage, or runs them: it yields progress."""
        return "Progress" in _names(self.returns)


@dataclass(frozen=True)
class Row:
    """A row of the table: what is measured, its value, what it should be, and what misses that, by name."""

    what: str
    value: str
    target: str
    names: tuple[str, ...] = ()


def list_modules() -> list[Module]:
    """List the modules of the code."""
    paths = [path for folder in FOLDERS for path in sorted((REPOSITORY / folder).rglob("*.py"))]
    return [Module(path.relative_to(REPOSITORY), len(path.read_text().splitlines())) for path in paths]


def iterate_definitions(module: Module) -> Iterator[Definition]:
    """Yield the functions and classes of a module, nested ones included."""
    yield from _visit(ast.parse((REPOSITORY / module.path).read_text()), True, f"{module.path}: ")


def _visit(node: ast.AST, public: bool, prefix: str) -> Iterator[Definition]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            seen = public and not child.name.startswith("_")
            yield describe_class(child, seen, prefix)
            yield from _visit(child, seen, f"{prefix}{child.name}.")
        elif isinstance(child, FunctionNode):
            yield describe_function(child, public and not child.name.startswith("_"), prefix)
            yield from _visit(child, False, f"{prefix}{child.name}.")
        else:
            yield from _visit(child, public, prefix)


def describe_function(node: FunctionNode, public: bool, prefix: str) -> Definition:
    """Return what is counted of a function."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    parameters = {a.arg: _source(a.annotation) for a in arguments if a.arg not in ("self", "cls")}
    return Definition(f"{prefix}{node.name}", lines, parameters, _source(node.returns), public, _docstring_lines(node))


def describe_class(node: ast.ClassDef, public: bool, prefix: str) -> Definition:
    """Return what is counted of a class."""
    fields = [child for child in node.body if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name)]
    is_dataclass = any("dataclass" in _names(_source(decorator)) for decorator in node.decorator_list)
    parameters = {_source(field.target): _source(field.annotation) for field in fields} if is_dataclass else None
    return Definition(f"{prefix}{node.name}", None, parameters, "", public, _docstring_lines(node))


def _docstring_lines(node: FunctionNode | ast.ClassDef) -> int:
    if ast.get_docstring(node) is None:
        return 0
    docstring = node.body[0]
    return (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1


def _source(node: ast.expr | None) -> str:
    return ast.unparse(node).strip("'\"") if node else ""


def _names(annotation: str) -> set[str]:
    """List the names in the source of an annotation."""
    nodes = ast.walk(ast.parse(annotation))
    return {n.id if isinstance(n, ast.Name) else n.attr for n in nodes if isinstance(n, ast.Name | ast.Attribute)}


def percentile(values: list[int], percent: int) -> int:
    """Return the least value that so many percent of the values do not exceed.

    >>> percentile([5, 1, 3, 4, 2, 9, 8, 7, 6, 10], 90)
    9
    """
    return sorted(values)[-(-len(values) * percent // 100) - 1]


def count_complaints() -> int:
    """Count what mypy complains of, with the settings of pyproject.toml."""
    command = [sys.executable, "-m", "mypy", "--no-error-summary"]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    complaints = run.stdout.count(": error:")
    if run.returncode not in (0, 1) or (run.returncode == 1 and not complaints):
        raise SystemExit(f"mypy did not run: {run.stderr.strip() or run.stdout.strip()}")
    return complaints


def processor_time(*arguments: str) -> float:
    """Return the least processor time (user and system) of a topnine command over some runs, in s."""
    command = [str(Path(sys.executable).parent / "topnine"), *arguments]
    times = []
    for _ in range(COMMAND_RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return min(times)


def size_rows(modules: list[Module], functions: list[Definition]) -> Iterator[Row]:
    """Yield the rows of folders, modules and lengths."""
    folders = [module.path.parent for module in modules if module.path.name != "__init__.py"]
    fullest = max(set(folders), key=folders.count)
    yield Row("modules in the fullest folder", f"{folders.count(fullest)} ({fullest})", "≤ 12")
    lengths = [module.lines for module in modules]
    too_long = tuple(f"{module.path} ({module.lines})" for module in modules if module.lines > LONGEST_MODULE)
    value = f"{max(lengths)}; {percentile(lengths, 90)}"
    yield Row("lines of the longest module; 90th percentile", value, "≤ 320; ≤ 250", too_long)
    names = [function.name for function in functions]
    bare = [(function.lines or 0) - function.docstring_lines for function in functions]
    yield length_row("lines of a function: median / 90th / longest", names, bare)
    yield length_row("the same, with docstrings", names, [function.lines or 0 for function in functions])


def length_row(what: str, functions: list[str], lengths: list[int]) -> Row:
    """Return the row of the lengths of functions; it names those that are too long."""
    too_long = tuple(f"{name} ({n})" for name, n in zip(functions, lengths, strict=True) if n > LONGEST_FUNCTION)
    value = f"{median(lengths):g} / {percentile(lengths, 90)} / {max(lengths)}"
    return Row(what, value, "≤ 7 / ≤ 20 / ≤ 45", too_long)


def interface_rows(definitions: list[Definition]) -> Iterator[Row]:
    """Yield the rows of parameters, plans and docstrings."""
    stages = [d for d in definitions if d.name.startswith("stages/") and d.parameters is not None]
    functions = [d for d in stages if d.lines is not None]
    yield parameters_row("functions of stages/ with six or more parameters", functions, "≤ 2 %")
    dataclasses = [d for d in stages if d.lines is None]
    yield parameters_row("dataclasses of stages/ with six or more fields", dataclasses, "–")
    with_plan = [d for d in definitions if d.takes_plan]
    names = tuple(d.name for d in with_plan if not d.is_entry_point)
    value = f"{len(with_plan)}, {len(names)} of them no entry point"
    yield Row("functions that take the whole plan", value, "entry points alone", names)
    public = [d for d in definitions if d.public]
    yield docstring_row("public functions and classes with docstrings", public)
    unprefixed = [d for d in definitions if d.unprefixed]
    yield docstring_row("any name without an underscore with docstring", unprefixed)


def parameters_row(what: str, definitions: list[Definition], target: str) -> Row:
    """Return the row of the share of functions or dataclasses with six or more parameters or fields."""
    names = tuple(f"{d.name} ({len(d.parameters or ())})" for d in definitions if d.many_parameters)
    value = f"{len(names) / len(definitions):.1%} ({len(names)} of {len(definitions)})"
    return Row(what, value, target, names)


def docstring_row(what: str, definitions: list[Definition]) -> Row:
    """Return the row of the share of definitions with a docstring; it names those without one."""
    names = tuple(d.name for d in definitions if not d.docstring_lines)
    count = len(definitions) - len(names)
    return Row(what, f"{count / len(definitions):.1%} ({count} of {len(definitions)})", "100 %", names)


def command_rows() -> Iterator[Row]:
    """Yield the rows of what is run or looked at as a whole."""
    yield Row("complaints of mypy --strict", str(count_complaints()), "0")
    yield Row("README at the top", f"{(REPOSITORY / 'README.md').stat().st_size:,} bytes", "≤ 6 KB")
    yield Row("topnine --help, processor time", f"{processor_time('--help'):.2f} s", "≤ 0.4 s")
    status = f"{processor_time('status', str(DEMO)):.2f} s" if DEMO.is_dir() else "no runs/demo.zarr"
    yield Row("topnine status, processor time", status, "≤ 0.8 s")


def measure() -> list[Row]:
    """List the rows of the table."""
    modules = list_modules()
    definitions = [definition for module in modules for definition in iterate_definitions(module)]
    functions = [definition for definition in definitions if definition.lines is not None]
    return [*size_rows(modules, functions), *interface_rows(definitions), *command_rows()]


def main() -> None:
    """Print the table, and below it what misses its targets, by name."""
    rows = measure()
    for row in rows:
        print(f"{row.what:<50}{row.value:<32}{row.target}")
    for row in rows:
        if row.names:
            print(f"\n{row.what}:", *row.names, sep="\n  ")


if __name__ == "__main__":
    main()
