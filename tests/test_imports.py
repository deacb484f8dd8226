"""The layout holds: who may import whom, what runs without torch, short entries, and docstrings that say what for."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("space", "evaluators", "search")
ENTRIES = ("run_search.py", "export_subnet.py", "score_subnet.py", "dashboard.py")
MODULES = sorted(
    str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")
)  # such as space/spec.py
SOURCES = sorted(
    [*(str(path.relative_to(ROOT)) for path in ROOT.glob("*.py")), *MODULES]
    + [
        str(path.relative_to(ROOT))
        for folder in ("conf", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    ]
)
TORCH_FREE = (
    *(f"space.{path.stem}" for path in (ROOT / "space").glob("*.py") if path.stem != "__init__"),
    "space.models.architectures",
    "evaluators.base",
    "evaluators.metrics",
    "evaluators.cost",
    "evaluators.latency.table",
)


def imports_of(source: str) -> Iterator[str]:
    """Dotted names that a module imports, wherever the statement stands: `a.b` and, of `from a import b`, `a.b` too."""
    for node in ast.walk(ast.parse((ROOT / source).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: expected absolute imports"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top(name: str) -> str:
    return name.partition(".")[0]


def importers(library: str) -> list[str]:
    """Product files that import a library."""
    return [source for source in (*MODULES, *ENTRIES) if library in map(top, imports_of(source))]


def test_the_walk_finds_the_modules_and_their_imports() -> None:
    assert {"space/spec.py", "evaluators/base.py", "search/finish.py"} <= set(MODULES)
    assert {"torch", "space.supernet.supernet.Supernet"} <= set(imports_of("evaluators/clocks.py"))


@pytest.mark.parametrize(("package", "above"), [("space", {"evaluators", "search"}), ("evaluators", {"search"})])
def test_a_package_never_imports_those_above_it(package: str, above: set[str]) -> None:
    entries = {entry.removesuffix(".py") for entry in ENTRIES}
    for source in MODULES:
        if source.startswith(f"{package}/"):
            assert not (above | entries) & set(map(top, imports_of(source))), source


def test_the_top_level_of_space_knows_none_of_its_rooms() -> None:
    rooms = {"models", "supernet", "formats"}
    for path in (ROOT / "space").glob("*.py"):
        names = [name.split(".") for name in imports_of(f"space/{path.name}")]
        assert not [name for name in names if name[0] == "space" and rooms & set(name[1:2])], path.name


def test_search_knows_the_torch_free_types_alone() -> None:
    allowed = {
        "space": {"candidate", "spec", "space", "errors", "files"},
        "evaluators": {"base", "metrics", "table_error"},
    }
    forbidden = {"torch", "transformers", "safetensors"}
    for source in MODULES:
        if source.startswith("search/"):
            for name in imports_of(source):
                package, *rest = name.split(".")
                assert package not in forbidden, f"{source} imports {name}"
                if package in allowed and rest:
                    assert rest[0] in allowed[package], f"{source} imports {name}"


@pytest.mark.parametrize(
    ("below", "above"), [("search/", ("search.run", "search.views")), ("search/run/", ("search.views",))]
)
def test_the_rooms_of_search_import_downwards_alone(below: str, above: tuple[str, ...]) -> None:
    rooms = tuple(f"{room.replace('.', '/')}/" for room in above)
    for source in MODULES:
        if source.startswith(below) and not source.startswith(rooms):
            found = [name for name in imports_of(source) if f"{name}.".startswith(tuple(f"{room}." for room in above))]
            assert not found, f"{source} imports {', '.join(found)}"


def test_some_libraries_are_seen_in_one_place() -> None:
    assert importers("pymoo") == ["search/algorithms.py"]
    assert set(importers("dash")) == {"search/dashboard/app.py"}
    assert importers("lm_eval") == ["evaluators/harness.py", "evaluators/harness_tasks.py"]


@pytest.mark.parametrize("library", ["hydra", "omegaconf"])
def test_hydra_is_seen_in_the_entries_and_in_one_place_beside(library: str) -> None:
    """Benchmarks too open sessions with values, and no configuration goes further down."""
    product = [source for source in SOURCES if not source.startswith("tests/")]
    found = {source for source in product if library in map(top, imports_of(source))}
    assert "conf/settings.py" in found
    assert found <= {*ENTRIES, "conf/settings.py"}


def test_what_is_called_torch_free_runs_where_there_is_no_torch() -> None:
    searchers = [source.removesuffix(".py").replace("/", ".") for source in MODULES if source.startswith("search/")]
    code = (
        "import importlib, sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'transformers', 'safetensors'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
    )
    names = [name.removesuffix(".__init__") for name in (*TORCH_FREE, *searchers)]
    done = subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("entry", ENTRIES)
def test_entry_scripts_are_short(entry: str) -> None:
    assert len((ROOT / entry).read_text(encoding="utf-8").splitlines()) < 100


@pytest.mark.parametrize("source", SOURCES)
def test_a_file_says_what_it_is_for_on_its_first_line(source: str) -> None:
    text = (ROOT / source).read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring
    assert text.startswith('"""')
    assert len(docstring.splitlines()[0].split()) >= 3


def test_no_file_names_a_place_on_someones_machine() -> None:
    place = re.compile(r"(?<![\w.~])/(?:home|root|work|Users)/\w|[A-Z]:\\\\?Users\b")
    texts = [ROOT / source for source in SOURCES]
    texts += [path for pattern in ("*.md", "*.toml", "*.txt", "Makefile", ".ci/*") for path in ROOT.glob(pattern)]
    texts += [path for pattern in ("*.yaml", "*.html", "*.js", "*.css") for path in ROOT.glob(f"[cs]*/**/{pattern}")]
    assert any(path.suffix == ".yaml" for path in texts)
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in texts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if place.search(line)
    ]
    assert found == []
