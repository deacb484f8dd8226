"""The layout holds: who may import whom, what runs without torch, short entries, and docstrings that say what for."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("space", "evaluators", "search", "serving", "entries")
CONF = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "conf").glob("*.py"))
ENTRIES = ("run_search.py", "export_subnet.py", "score_subnet.py", "time_front.py", "serve_subnets.py", "dashboard.py")
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
# Each may import from those before it, and nothing from those behind it.
ROOMS = (
    "space",
    "space.models",
    "space.rounding",
    "space.supernet",
    "space.formats",
    "space.models.inspect",  # a command, which prints what formats say
    "evaluators",
    "serving",  # beside the search: neither knows the other
    "serving.api",
    "search",
    "search.run",
    "search.views",
    "entries",
)
TORCH_FREE = (
    *(f"space.{path.stem}" for path in (ROOT / "space").glob("*.py") if path.stem != "__init__"),
    *(f"space.vocabulary.{name}" for name in ("kinds", "levels", "trimmed", "check")),
    "space.models.architectures",
    "evaluators.base",
    "evaluators.metrics",
    "evaluators.cost",
    "evaluators.latency.table",
    *(
        f"serving.{name}"
        for name in (
            "limits",
            "requests",
            "switching",
            "speeds",
            "demand",
            "load",
            "controllers",
            "timed",
            "difficulty",
            "bandit",
        )
    ),
    "space.supernet.sizes",
    *(f"evaluators.planning.{name}" for name in ("job", "parts", "memory", "times", "fit")),
)


@cache
def imports_of(source: str) -> tuple[str, ...]:
    """Dotted names that a module imports, wherever the statement stands: `a.b` and, of `from a import b`, `a.b` too."""
    return tuple(_imports(source))


def _imports(source: str) -> Iterator[str]:
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


def room(name: str) -> str:
    """The room that a module lies in, of a dotted name that may go on with what is in it."""
    return max((each for each in ROOMS if f"{name}.".startswith(f"{each}.")), key=len, default="")


def test_the_walk_finds_the_modules_and_their_imports() -> None:
    assert {"space/spec.py", "evaluators/base.py", "search/run/finish.py"} <= set(MODULES)
    assert {"torch", "space.supernet.supernet.Supernet"} <= set(imports_of("evaluators/latency/clocks.py"))
    assert {room(source.removesuffix(".py").replace("/", ".")) for source in MODULES} == set(ROOMS)


@pytest.mark.parametrize("source", [*MODULES, *CONF])
def test_imports_go_down_only(source: str) -> None:
    own = room(source.removesuffix(".py").replace("/", "."))
    height = ROOMS.index(own or "search.views")  # what conf stands on
    entries = {entry.removesuffix(".py") for entry in ENTRIES} | {"benchmarks"}
    if own and own != "entries":
        entries.add("conf")
    for name in imports_of(source):
        assert top(name) not in entries, f"{source} imports {name}"
        if room(name):
            assert ROOMS.index(room(name)) <= height, f"{source} imports {name}"


def test_search_knows_the_torch_free_types_alone() -> None:
    known = {
        f"space.{name}"
        for name in (
            "candidate",
            "spec",
            "space",
            "errors",
            "files",
            "markdown",
            "directory_lock",
            "listening",
            "locations",
            "types",
        )
    }
    known |= {"evaluators.base", "evaluators.metrics", "evaluators.latency.table_error"}
    for source in MODULES:
        if source.startswith("search/"):
            for name in imports_of(source):
                assert top(name) not in {"torch", "transformers", "safetensors"}, f"{source} imports {name}"
                if top(name) in ("space", "evaluators", "serving"):
                    assert any(f"{name}.".startswith(f"{each}.") for each in known), f"{source} imports {name}"


def test_no_product_file_is_long() -> None:
    long = {source: len((ROOT / source).read_text(encoding="utf-8").splitlines()) for source in (*MODULES, *ENTRIES)}
    assert {source: lines for source, lines in long.items() if lines > 300} == {}


def test_some_libraries_are_seen_in_one_place() -> None:
    assert importers("pymoo") == ["search/algorithms.py"]
    assert importers("ray") == ["search/ray_pool.py"]
    assert importers("dash") == ["search/views/dashboard/app.py"]
    assert importers("fastapi") == ["serving/api/app.py"]
    assert importers("uvicorn") == ["serving/api/server.py"]
    assert importers("prometheus_client") == ["serving/api/metrics.py"]
    assert {str(Path(source).parent) for source in importers("lm_eval")} == {"evaluators/tasks"}


@pytest.mark.parametrize("library", ["hydra", "omegaconf"])
def test_hydra_is_seen_in_one_place(library: str) -> None:
    """Benchmarks too open sessions with values, and no configuration goes further down."""
    product = [source for source in SOURCES if not source.startswith("tests/")]
    found = {source for source in product if library in map(top, imports_of(source))}
    assert found
    assert {str(Path(source).parent) for source in found} == {"conf"}


HEAVY = ("torch", "transformers", "datasets", "pandas", "sklearn", "pymoo", "plotly", "lm_eval", "rich", "dash")


REPORT = """
import os, runpy, sys
import conf.command
for number, words in enumerate({commands}):
    if not os.fork():
        sys.argv = words
        try:
            runpy.run_path(words[0], run_name="__main__")
        finally:
            print("loaded", number, *(name for name in {heavy} if name in sys.modules), flush=True)
            os._exit(0)
    os.wait()
"""


def loaded_by(commands: Sequence[Sequence[str]], *heavy: str) -> dict[str, set[str]]:
    """Which of these libraries a process of each command has loaded at its end, however it ends.

    One process has imported what all commands begin with, and is forked for each.
    """
    code = REPORT.format(commands=[[*words] for words in commands], heavy=heavy)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    found = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("loaded ")]
    return {" ".join(commands[int(number)]): {*names} for number, *names in found}


def test_help_and_wrong_names_need_none_of_the_heavy_libraries() -> None:
    commands = [(entry, argument) for entry in ENTRIES for argument in ("--help", "rn_dir=x")]
    assert loaded_by(commands, *HEAVY) == {" ".join(words): set() for words in commands}


def test_wrong_values_are_refused_without_torch() -> None:
    commands = [
        ("run_search.py", "objectives=[kl,speed]"),
        ("export_subnet.py", "run_dir=nowhere", "format=zip"),
        ("score_subnet.py", "run_dir=nowhere", "limit=-1"),
        ("time_front.py", "run_dir=nowhere"),
        ("serve_subnets.py", "run_dir=nowhere", "port=-1"),
        ("dashboard.py", "run_dir=nowhere"),
    ]
    loaded = loaded_by(commands, "torch", "transformers", "datasets", "lm_eval")
    assert loaded == {" ".join(words): set() for words in commands}


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


@pytest.mark.parametrize("contents", [source for source in MODULES if source.endswith("__init__.py")])
def test_a_package_says_what_is_in_it_and_nothing_else(contents: str) -> None:
    place = (ROOT / contents).parent
    docstring = ast.get_docstring(ast.parse((ROOT / contents).read_text(encoding="utf-8"))) or ""
    parts = {path.stem for path in place.glob("*.py")} | {path.parent.name for path in place.glob("*/__init__.py")}
    assert set(re.findall(r"`([a-z_]+)`", docstring)) - {"block_configs"} == parts - {"__init__"}


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
