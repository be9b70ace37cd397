"""Imports point down, and the protocol stays pure: read from the source, not run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

PACKAGE = "flask_cognito_rotate"

#: The layers from the bottom up. The modules of a group may import each other; two
#: groups of one layer may not.
LAYERS: tuple[tuple[frozenset[str], ...], ...] = (
    (frozenset({"errors"}),),
    (frozenset({"model"}),),
    (frozenset({"protocol"}),),
    (frozenset({"config"}), frozenset({"sealing"})),
    (frozenset({"cache"}),),
    (frozenset({"provider", "documents", "http"}),),
    (frozenset({"sessions"}),),
    (frozenset({"rotation", "breaker"}), frozenset({"client"})),
    (
        frozenset(
            {
                "pages",
                "request_session",
                "session_cookie",
                "signing_in",
                "runtime",
                "signals",
                "globals",
                "decorators",
                "views",
                "extension",
                "cli",
                "testing",
            }
        ),
    ),
    (frozenset({""}),),  # the package's own __init__
)
SURFACE = LAYERS[-2][0] | {""}
#: The local user pool stands beside the layers: it imports nothing of ours.
LOCAL = "local"

WEB = {"flask", "werkzeug", "jinja2", "blinker", "click", "markupsafe"}
IMPURE = {
    "asyncio",
    "http",
    "os",
    "pathlib",
    "random",
    "requests",
    "select",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib3",
}
IMPURE_DOTTED = {"urllib.request", "authlib.integrations"}
CLOCK_CALLS = {"now", "utcnow", "today"}


@dataclass(frozen=True)
class Module:
    name: str
    path: Path

    @property
    def top(self) -> str:
        """The part that decides the layer: `protocol` of `protocol.tokens`."""
        return self.name.partition(".")[0]

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"


@cache
def modules() -> dict[str, Module]:
    spec = find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None
    root = Path(spec.origin).parent
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        found[name] = Module(name, path)
    return found


@cache
def tree(module: Module) -> ast.Module:
    return ast.parse(module.path.read_text(encoding="utf-8"), str(module.path))


def absolute_base(module: Module, node: ast.ImportFrom) -> str:
    """Return what stands between `from` and `import`, with its dots resolved."""
    if not node.level:
        return node.module or ""
    parts = [PACKAGE, *filter(None, module.name.split("."))]
    up = node.level - 1 if module.is_package else node.level
    return ".".join([*parts[: len(parts) - up], *filter(None, [node.module])])


def imported_names(module: Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the absolute dotted name of every import, however deep."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = absolute_base(module, node)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def own_imports(module: Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the name, in our package, of every module imported."""
    for line, dotted in imported_names(module):
        if dotted != PACKAGE and not dotted.startswith(f"{PACKAGE}."):
            continue
        name = dotted.removeprefix(PACKAGE).removeprefix(".")
        while name not in modules():
            name = name.rpartition(".")[0]
        yield line, name


def rank(top: str) -> int | None:
    for number, groups in enumerate(LAYERS):
        if any(top in group for group in groups):
            return number
    return None


def may_import(source: Module, target: Module) -> bool:
    if LOCAL in (source.top, target.top):
        return source.top == target.top or source.top in SURFACE
    for groups in LAYERS:
        for group in groups:
            if source.top in group and target.top in group:
                return True
    below, own = rank(target.top), rank(source.top)
    return below is not None and own is not None and below < own


def each(*tops: str) -> list[Module]:
    return [module for module in modules().values() if module.top in tops]


def test_every_module_has_a_layer() -> None:
    """A new module is given a place before it is given code."""
    homeless = [
        module.name
        for module in modules().values()
        if module.top != LOCAL and rank(module.top) is None
    ]
    assert [] == homeless


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_down(name: str) -> None:
    """A module imports only from layers below its own, or from its own group."""
    module = modules()[name]
    upward = [
        f"{module.path.name}:{line} imports {target or PACKAGE}"
        for line, target in own_imports(module)
        if not may_import(module, modules()[target])
    ]
    assert [] == upward


def test_local_imports_nothing_of_ours() -> None:
    """The local user pool cannot repeat the mistakes of what is tested against it."""
    ours = [
        (module.name, line, target)
        for module in each(LOCAL)
        for line, target in own_imports(module)
        if modules()[target].top != LOCAL
    ]
    assert [] == ours


def test_the_web_framework_stays_at_the_surface() -> None:
    """Nothing below the surface knows Flask or its libraries."""
    leaks = [
        (module.name, line, dotted)
        for module in modules().values()
        if module.top not in SURFACE and module.top != LOCAL
        for line, dotted in imported_names(module)
        if dotted.partition(".")[0] in WEB
    ]
    assert [] == leaks


def test_the_protocol_is_pure() -> None:
    """The protocol has no socket, clock, environment, file or thread."""
    impure = [
        (module.name, line, dotted)
        for module in each("protocol", "model", "errors")
        for line, dotted in imported_names(module)
        if dotted.partition(".")[0] in IMPURE
        or any(f"{dotted}.".startswith(f"{name}.") for name in IMPURE_DOTTED)
    ]
    assert [] == impure


def test_the_protocol_asks_no_datetime_for_the_time() -> None:
    """`datetime` may carry a time into the protocol, but is not asked for it."""
    asked = [
        (module.name, node.lineno)
        for module in each("protocol", "model")
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in CLOCK_CALLS
    ]
    assert [] == asked


def test_modules_of_a_group_do_not_import_in_a_circle() -> None:
    """Within a group, too, the arrows have one direction."""
    graph = {
        name: {target for _, target in run_time_imports(module) if target != name}
        for name, module in modules().items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def run_time_imports(module: Module) -> Iterator[tuple[int, str]]:
    """Yield the imports that happen while the module is loaded."""
    lines = {
        node.lineno
        for node in load_time_nodes(tree(module))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    for line, target in own_imports(module):
        # A package that gathers its own modules is no circle.
        if line in lines and not (module.name == "" or is_parent(target, module)):
            yield line, target


def load_time_nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from load_time_nodes(child)


def is_parent(target: str, module: Module) -> bool:
    return module.name.startswith(f"{target}.")


def test_importing_the_package_loads_no_heavy_library() -> None:
    """An application that only imports us has not yet paid for HTTP and JOSE."""
    heavy = {"requests", "authlib", "joserfc"}
    program = f"import sys, {PACKAGE}; print(sorted({heavy!r} & set(sys.modules)))"

    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (0, "[]") == (done.returncode, done.stdout.strip()), done.stderr
