"""The documentation is true: its code runs, its links lead somewhere, it is whole.

The Python blocks of one page run in order and share a namespace, as a reader would type
them, with a local user pool behind the environment variables that the pages speak of.
A block below ``<!-- no-run -->`` is only compiled.
"""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import sys
import types
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blinker
import click
import pytest

import flask_cognito_rotate
from flask_cognito_rotate import errors, signals
from flask_cognito_rotate.cli import cognito
from flask_cognito_rotate.config import KEYS
from flask_cognito_rotate.local import LocalUserPool

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OTHERS = [ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY")]
REFERENCE = ROOT / "docs" / "reference"

NO_RUN = "<!-- no-run -->"
FENCE = re.compile(r"^\s*(`{3,}|~{3,})\s*([\w+-]*)")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*$")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    source: str
    runs: bool

    def compiled(self) -> types.CodeType:
        # The empty lines make a traceback point at the page's own lines.
        text = "\n" * self.line + self.source
        return compile(text, str(self.page), "exec", dont_inherit=True)


def relative(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    fence, language, start, runs = "", "", 0, True
    before = ""
    body: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        found = FENCE.match(line)
        if not fence and found:
            fence, language = found.groups()
            start, runs, body = number, before != NO_RUN, []
        elif fence and line.strip() == fence:
            yield Block(page, start, language, "\n".join(body) + "\n", runs)
            fence = ""
        elif fence:
            body.append(line)
        before = line.strip() or before


def prose(page: Path) -> str:
    """Return the page without its fenced blocks."""
    text, fence = [], ""
    for line in page.read_text(encoding="utf-8").splitlines():
        found = FENCE.match(line)
        if fence:
            fence = "" if line.strip() == fence else fence
        elif found:
            fence = found.group(1)
        else:
            text.append(line)
    return "\n".join(text)


def python_blocks(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "python"]


def headings(page: Path) -> list[str]:
    lines = prose(page).splitlines()
    return [found.group(2) for line in lines if (found := HEADING.match(line))]


def anchor(heading: str) -> str:
    """Do as Markdown's table of contents does with a heading."""
    text = unicodedata.normalize("NFKD", heading.replace("`", ""))
    text = text.encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalUserPool]:
    with LocalUserPool() as pool:
        yield pool


@pytest.fixture
def environment(
    pool: LocalUserPool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[None]:
    """Set what a page's reader has exported, and nothing else, in an empty folder."""
    for name in list(os.environ):
        if name.startswith(("COGNITO_", "FLASK_")):
            monkeypatch.delenv(name)
    for name, value in pool.config().items():
        if name.startswith("COGNITO_"):
            text = value if isinstance(value, str) else json.dumps(value)
            monkeypatch.setenv(name, text)
    monkeypatch.setenv(
        "FLASK_SECRET_KEY", "of 32 bytes, and for the documentation only"
    )
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("flask_cognito_rotate")
    level = logger.level
    yield
    logger.setLevel(level)


def run(page: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    module = types.ModuleType("documented_app")
    module.__file__ = str(Path.cwd() / "app.py")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in python_blocks(page):
        code = block.compiled()
        if block.runs:
            exec(code, module.__dict__)
    return module.__dict__


@pytest.mark.parametrize(
    "page", [page for page in PAGES if python_blocks(page)], ids=relative
)
@pytest.mark.usefixtures("environment")
def test_the_code_of_a_page_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader who types a page's Python from top to bottom meets no error."""
    run(page, monkeypatch)


@pytest.mark.parametrize(
    ("name", "greeting"),
    [("README.md", "alice@example.com"), ("docs/tutorial/first-login.md", "Alice")],
)
@pytest.mark.usefixtures("environment")
def test_the_first_application_signs_somebody_in(
    name: str, greeting: str, pool: LocalUserPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application that a newcomer has typed greets Alice after her login."""
    app = run(ROOT / name, monkeypatch)["app"]
    client = app.test_client()

    login = client.get("/auth/login?next=/")
    client.get(pool.sign_in(None, login.location))

    assert greeting in client.get("/").text


def test_few_blocks_are_only_compiled() -> None:
    """Leaving a block out of the run stays an exception."""
    every = [block for page in PAGES for block in python_blocks(page)]
    left_out = [block for block in every if not block.runs]

    assert len(left_out) <= len(every) // 10


@pytest.mark.parametrize("page", PAGES + OTHERS, ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    """A link to another page, or to a heading of one, finds it."""
    broken = []
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        if not there.exists():
            broken.append(target)
        elif fragment and fragment not in map(anchor, headings(there)):
            broken.append(target)

    assert [] == broken


def test_the_documentation_has_its_four_parts() -> None:
    """Tutorial, how-to guides, explanation and reference: each exists and is listed."""
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:]]

    parts = {page.partition("/")[0] for page in pages if "/" in page}
    assert {"tutorial", "howto", "explanation", "reference"} == parts
    assert [] == [page for page in pages if f": {page}\n" not in navigation]


def sections(page: Path) -> dict[str, str]:
    """Return the text below every heading, by the heading without its backticks."""
    found: dict[str, str] = {}
    name = ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if heading := HEADING.match(line):
            name = heading.group(2).replace("`", "")
        else:
            found[name] = found.get(name, "") + line + "\n"
    return found


def settings() -> dict[str, str]:
    found = sections(REFERENCE / "configuration.md")
    return {name: text for name, text in found.items() if name.startswith("COGNITO_")}


def test_every_setting_is_documented() -> None:
    """The reference has the settings that exist: all of them, and no others."""
    assert list(KEYS) == list(settings())


def shown(default: Any) -> str:
    """Write a default as the reference does."""
    match default:
        case bool() | None:
            return str(default)
        case tuple():
            return " ".join(default) or "()"
        case float() | int():
            return f"{default:g}" if default != int(default) else str(int(default))
    return str(default)


@pytest.mark.parametrize("name", list(KEYS))
def test_a_setting_is_documented_with_its_default(name: str) -> None:
    """What the reference calls the default is the default."""
    key = KEYS[name]
    text = settings()[name]
    default = re.search(r"^Default: `([^`]+)`", text, re.MULTILINE)

    assert re.search(r"^Type: .+", text, re.MULTILINE)
    if key.required:
        assert re.search(r"^Required\.", text, re.MULTILINE)
    else:
        assert default is not None
        assert shown(key.default) == default.group(1)


def named_in_headings(page: str) -> set[str]:
    words = (re.match(r"[\w.]+", title) for title in sections(REFERENCE / page))
    return {word.group() for word in words if word}


def test_every_exception_is_documented() -> None:
    """The reference of errors has a section for each class."""
    classes = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == errors.__name__
    }

    assert set() == classes - named_in_headings("errors.md")


def test_every_signal_is_documented() -> None:
    """The reference of signals has a section for each signal, and for no other."""
    existing = {
        name
        for name, value in vars(signals).items()
        if isinstance(value, blinker.Signal)
    }
    documented = {name for name in named_in_headings("signals.md") if "_" in name}

    assert existing == documented


def test_every_event_of_the_log_is_documented() -> None:
    """The reference of signals lists each name that a record's `event` can have."""
    package = Path(flask_cognito_rotate.__file__).parent
    modules = [path for path in package.rglob("*.py") if "local" not in path.parts]
    source = "\n".join(path.read_text(encoding="utf-8") for path in modules)
    page = (REFERENCE / "signals.md").read_text(encoding="utf-8")

    sent = re.findall(r"signals\.(\w+),\s+(?:\w+ if \w+ else )?\"(\w+)\"", source)
    logged = set(re.findall(r"\"event\": \"(\w+)\"", source)) | {"refresh_lost"}
    events = {event for _, event in sent} | logged
    listed = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert events == listed


def test_every_public_name_is_documented() -> None:
    """The API reference has a heading for each name that is not an exception."""
    names = {name for name in flask_cognito_rotate.__all__ if not hasattr(errors, name)}

    assert set() == names - named_in_headings("api.md")


def test_every_command_and_option_is_documented() -> None:
    """The reference of commands has a section for each, and names every option."""
    page = (REFERENCE / "cli.md").read_text(encoding="utf-8")
    missing = [
        option
        for name, command in cognito.commands.items()
        for option in [f"## flask cognito {name}\n", *long_options(command)]
        if option not in page
    ]

    assert [] == missing


def long_options(command: click.Command) -> list[str]:
    options = [option for parameter in command.params for option in parameter.opts]
    return [f"`{option}`" for option in options if option.startswith("--")]


def test_the_readme_has_the_two_commands() -> None:
    """The commands that strangers, and the checks, start from stand there verbatim."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    prefix = "python3 -m venv .venv && .venv/bin/pip install tox && .venv/bin/tox"

    assert prefix in lines
    assert f"{prefix} run -e demo" in lines


def test_blocks_parse_as_what_they_claim_to_be() -> None:
    """A fence is closed, names its language, and Python in it is Python."""
    for page in PAGES:
        for block in blocks(page):
            assert block.language, f"{relative(page)}:{block.line}"
            if block.language == "python":
                ast.parse(block.source, str(page))
