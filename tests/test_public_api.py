"""One door: what the package exports is what it lists, and all of it is explained."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import flask_cognito_rotate
from flask_cognito_rotate import errors

SURFACE = {
    "CognitoAuth",
    "CognitoSession",
    "current_session",
    "groups_required",
    "login_exempt",
    "login_required",
    "scopes_required",
    "signals",
}
EXCEPTIONS = {
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and value.__module__ == errors.__name__
}


def init_tree() -> ast.Module:
    return ast.parse(Path(flask_cognito_rotate.__file__).read_text(encoding="utf-8"))


def exported() -> set[str]:
    """Return what `__init__` imports for others; submodules bind themselves too."""
    return {
        alias.asname or alias.name
        for node in ast.walk(init_tree())
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
    }


def test_all_is_what_is_exported() -> None:
    """Every public name is listed, and every listed name exists."""
    listed = set(flask_cognito_rotate.__all__)

    assert exported() == listed


def test_all_is_sorted_and_without_doubles() -> None:
    """A reader finds a name where the alphabet puts it."""
    names = list(flask_cognito_rotate.__all__)

    assert sorted(set(names)) == sorted(names)
    assert names in (sorted(names), sorted(names, key=str.lower))


def test_the_promised_names_are_there() -> None:
    """What the documentation imports from the package can be imported."""
    assert SURFACE | EXCEPTIONS == set(flask_cognito_rotate.__all__)


@pytest.mark.parametrize("name", sorted(flask_cognito_rotate.__all__))
def test_every_public_name_has_a_docstring(name: str) -> None:
    """Each public name says what it is, in its own words and not in its parent's."""
    value = getattr(flask_cognito_rotate, name)
    if name == "current_session":  # a proxy: its type is what is documented
        value = flask_cognito_rotate.CognitoSession

    assert value.__doc__ and value.__doc__.strip()


def public_members(owner: type) -> list[str]:
    return sorted(
        f"{owner.__name__}.{name}"
        for name, value in vars(owner).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or isinstance(value, property))
        and not inspect.getdoc(value)
    )


@pytest.mark.parametrize("name", ["CognitoAuth", "CognitoSession"])
def test_every_public_member_has_a_docstring(name: str) -> None:
    """The methods and attributes of the two classes are explained as well."""
    assert [] == public_members(getattr(flask_cognito_rotate, name))


@pytest.mark.parametrize("name", ["signals", "local"])
def test_the_submodules_can_be_imported(name: str) -> None:
    """The documented submodules exist, and say what they are for."""
    module = importlib.import_module(f"flask_cognito_rotate.{name}")

    assert module.__doc__


def test_init_only_gathers() -> None:
    """`__init__` re-exports and lists, nothing else."""
    docstring, *rest = init_tree().body
    other = [
        ast.unparse(node)
        for node in rest
        if not isinstance(node, ast.Import | ast.ImportFrom)
        and not (
            isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        )
    ]

    assert isinstance(docstring, ast.Expr)
    assert [] == other


def test_every_exception_has_the_one_root() -> None:
    """`except CognitoAuthError` catches all that the package raises on purpose."""
    strays = [
        name
        for name in EXCEPTIONS
        if not issubclass(getattr(errors, name), errors.CognitoAuthError)
    ]

    assert [] == strays


def test_the_package_is_typed() -> None:
    """Type checkers are told that the annotations may be relied on."""
    assert Path(flask_cognito_rotate.__file__).with_name("py.typed").is_file()
