"""README and docs: commands that parse and run, links that resolve, tables that say what code and settings say."""

from __future__ import annotations

import argparse
import html
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest
from helpers_commands import Place, good
from helpers_run import ROOT, TINY_RUN, ended, start
from lm_eval._cli.harness import HarnessCLI
from torch.distributed.run import get_args_parser

from conf.compose import composed
from conf.settings import instantiated
from entries.settings import run_settings
from evaluators.data.places import SUFFIXES, TextPlace
from evaluators.metrics import METRICS
from evaluators.settings import TaskSettings
from search.constraints import Constraint
from search.run.commands import quoted
from search.run.picks import NAMED
from space.formats.registry import format_of
from space.formats.requirements import FORMATS
from space.locations import is_local
from space.task import TASKS

PAGES = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md", ROOT / "results/README.md"),
    *sorted((ROOT / "docs").glob("*.md")),
]
WIDEST_CELL = 100
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
# Of no package that a test could ask; what they are given is the page of a run, or this machine's port.
OTHERS = {"chromium", "curl", "ssh", "hf"}

paged = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def blocks(text: str, language: str) -> list[str]:
    return [body for found, body in FENCED.findall(text) if found == language]


def commands(page: Path) -> Iterator[list[str]]:
    """All commands of a page as words: those of blocks, and those within sentences that leave nothing out."""
    lines = [line for block in blocks(page.read_text(encoding="utf-8"), "bash") for line in block.splitlines()]
    programs = {*PROGRAMS} - {"."}
    spans = [span for span in SPAN.findall(prose(page)) if " " in span and "..." not in span]
    for line in [*lines, *(span for span in spans if span.split()[0] in programs)]:
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word != "&&":
                words.append(word)
            elif words:
                yield words
                words = []


def check_pick(pick: str) -> None:
    assert pick in NAMED or Constraint.parsed(pick) or re.fullmatch(r"s[0-9a-f]{11}", pick), pick


def check_search(overrides: Sequence[str]) -> None:
    if "--multirun" in overrides:  # the first job of the sweep
        overrides = [override.split(",")[0] for override in overrides if override != "--multirun"]
    config = composed(*overrides) | {"compare": []}
    model, text = config["model"], config["data"]
    if model["path"] and is_local(model["path"]):  # a reader's own, which is not here
        model["path"] = None
    if any(entry.is_local for entry in TextPlace(text["path"]).entries):
        text["path"] = str(ROOT) if TASKS[model["task"]].reads == "images" else None
    config["latency"]["table"] = None  # measured on a device of theirs
    run_settings(config, overrides)


def check_export(overrides: Sequence[str]) -> None:
    config = composed(*quoted(overrides, "pick"), name="export")
    check_pick(config["pick"])
    format_of(config["format"], config["gguf"]["type"] or "f16")
    instantiated(config["polish"]), instantiated(config["recover"]), instantiated(config["vocabulary"])


def check_score(overrides: Sequence[str]) -> None:
    config = composed(*quoted(overrides, "pick"), name="score")
    check_pick(config["pick"])
    assert TaskSettings(tasks=config["tasks"]).tasks


def check_timing(overrides: Sequence[str]) -> None:
    composed(*overrides, name="timing")


def check_serving(overrides: Sequence[str]) -> None:
    composed(*overrides, name="serve")


def check_dashboard(overrides: Sequence[str]) -> None:
    composed(*overrides, name="dashboard")


ENTRIES: dict[str, Callable[[Sequence[str]], None]] = {
    "run_search.py": check_search,
    "export_subnet.py": check_export,
    "score_subnet.py": check_score,
    "time_front.py": check_timing,
    "serve_subnets.py": check_serving,
    "dashboard.py": check_dashboard,
}


class ParsedError(Exception):
    """A benchmark has its arguments, and is to do nothing with them."""


def check_benchmark(module: str, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if not arguments:  # named, not called
        assert callable(importlib.import_module(module).main)
        return
    parse = argparse.ArgumentParser.parse_args

    def parsed(parser: argparse.ArgumentParser, *_: object) -> None:
        parse(parser, list(arguments))
        raise ParsedError

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parsed)
        with pytest.raises(SystemExit if "--help" in arguments else ParsedError) as ended:
            importlib.import_module(module).main()
        assert not isinstance(ended.value, SystemExit) or ended.value.code == 0


def check_python(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = arguments
    if first in ENTRIES:
        ENTRIES[first]([word for word in others if word != "--help"])
    elif first == "-m" and others[0].startswith("benchmarks."):
        check_benchmark(others[0], others[1:], monkeypatch)
    elif first == "-m" and others[0] == "pytest":
        assert (ROOT / others[1]).is_file(), arguments
    else:
        assert (ROOT / first).exists() or others[0] in (
            "venv",
            "sglang.launch_server",
            "vllm.entrypoints.openai.api_server",
            "space.formats.vllm.environment",
            "space.models.inspect",
        ), arguments


def check_make(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    check_search(searched(done.stdout)) if arguments[0] == "search" else None


def searched(said_by_make: str) -> list[str]:
    """The overrides of the search that make starts."""
    (line,) = (line for line in said_by_make.splitlines() if "run_search.py" in line)
    return shlex.split(line)[2:]


def check_pip(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    for word in arguments[1:]:
        extra = re.fullmatch(r"\.\[(\w+)\]", word)
        assert word in ("-c", "-e", "constraints.txt", ".", *constraints) or (extra and extra.group(1) in extras), word


def check_torchrun(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    given = get_args_parser().parse_args(arguments)
    ENTRIES[given.training_script](given.training_script_args)


def check_lm_eval(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lm_eval", *arguments])
    HarnessCLI().parse_args()


PROGRAMS: dict[str, Callable[[list[str], pytest.MonkeyPatch], None]] = {
    "python": check_python,
    "python3": check_python,
    "make": check_make,
    "pip": check_pip,
    "torchrun": check_torchrun,
    "lm_eval": check_lm_eval,
    ".": lambda arguments, monkeypatch: None,
}


@paged
def test_every_command_is_one_that_its_program_takes(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("space.formats.vllm.environment.is_made", lambda: True)  # which takes minutes, and is not run
    for program, *arguments in commands(page):
        if program not in OTHERS:
            PROGRAMS[program](arguments, monkeypatch)


def test_the_first_five_minutes_of_readme_end_in_a_model(tmp_path: Path) -> None:
    place = Place(tmp_path, "llama")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("## The first five minutes\n")[2].partition("\n## ")[0]
    make, _, export = (words for block in blocks(section, "bash") for words in map(shlex.split, block.splitlines()))
    overrides = searched(subprocess.check_output([make[0], "-n", *make[1:]], cwd=ROOT, text=True))
    tiny = (
        *(f"model.path={place.model}", f"data.path={place.model / 'text.txt'}", *TINY_RUN),
        *("budget.evaluations=6", "front_points=3", "latency.rounds=1", "latency.front_rounds=1"),
    )
    good(ended(start("run_search.py", *overrides, *tiny, cwd=place.cwd, cache=place.cache)))
    exported = good(ended(start(*export[1:], "polish.minutes=0.01", cwd=place.cwd, cache=place.cache)))
    assert "exported; load with" in exported.stdout
    (snippet,) = blocks(section, "python")
    done = subprocess.run([sys.executable, "-c", snippet], cwd=place.cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.replace(" ", "").startswith("TheĠcapitalĠofĠFranceĠis")  # as its tokenizer writes it


def slugs(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    names: list[str] = []
    for heading in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        names.append(slug if slug not in names else f"{slug}-{names.count(slug)}")
    return set(names)


@paged
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in slugs(file), target


def test_readme_and_the_index_lead_to_every_page_of_the_docs() -> None:
    for index in (ROOT / "README.md", ROOT / "docs/README.md"):
        linked = {(index.parent / target.partition("#")[0]).resolve() for target in LINK.findall(prose(index))}
        assert {page for page in (ROOT / "docs").glob("*.md") if page.name != "README.md"} <= linked


def visible(cell: str) -> str:
    """A cell as it is read."""
    return html.unescape(re.sub(r"\\(.)", r"\1", re.sub(r"\]\([^)]*\)", "]", cell)))


@paged
def test_no_cell_of_a_table_is_longer_than_a_line(page: Path) -> None:
    rows = [line for line in prose(page).splitlines() if line.startswith("|")]
    cells = [visible(cell.strip()) for row in rows for cell in re.split(r"(?<!\\)\|", row)]
    assert [cell for cell in cells if len(cell) > WIDEST_CELL] == []


def test_what_is_listed_by_hand_leaves_none_out() -> None:
    formats = (ROOT / "docs/exports.md").read_text(encoding="utf-8")
    assert [name for name in FORMATS if f"| `{name}`" not in formats] == []
    files = (ROOT / "docs/files.md").read_text(encoding="utf-8")
    assert [metric.name for metric in METRICS if f"`{metric.name}`" not in files] == []
    text = (ROOT / "docs/text-and-training.md").read_text(encoding="utf-8")
    assert [suffix for suffix in SUFFIXES if f"`{suffix}`" not in text] == []


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate"] = module  # where its dataclass looks for it
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_as_the_code_and_the_settings_have_them(generate: ModuleType) -> None:
    texts = {page: page.read_text(encoding="utf-8") for page in generate.PAGES}
    stale = [str(page.relative_to(ROOT)) for page, text in texts.items() if generate.renewed(text) != text]
    assert stale == [], "run python docs/generate.py"
    assert generate.missing(list(texts.values())) == []


def test_every_setting_says_what_it_is(generate: ModuleType) -> None:
    whole = [
        *(ROOT / "conf").glob("*.yaml"),
        *(file for file in (ROOT / "conf").glob("*/*.yaml") if "\n_target_:" in file.read_text(encoding="utf-8")),
    ]
    settings = [setting for file in whole for setting in generate.settings_of(file, "")]
    assert len(settings) > 100
    assert [setting.name for setting in settings if setting.default and not setting.comment] == []


def test_a_stale_table_is_found(generate: ModuleType) -> None:
    page = "<!-- generated: options budget -->\nold\n<!-- end -->\n"
    assert generate.renewed(page) != page
    assert "old" not in generate.renewed(page)
    assert any("settings budget/default" in what for what in generate.missing([page]))
