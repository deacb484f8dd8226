"""The parts of README and of these pages that the code knows better: settings, options, families, engines, versions.

`python docs/generate.py` writes them anew, between `<!-- generated: WHAT -->` and `<!-- end -->`. With `--check` it
writes nothing, and fails where a page is stale or a file of `conf/` is in no page.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from textwrap import fill, wrap
from typing import get_args, get_type_hints

import yaml

from evaluators.latency.workload import Workload
from search.views.watch.trackers import TRACKERS
from space.deploy import DEPLOYMENTS
from space.formats.requirements import CHECKED, FORMATS
from space.markdown import escaped, table
from space.models.architectures import ARCHITECTURES, model_type_of

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MARKED = re.compile(r"(<!-- generated: (?P<what>[^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)
_CELL = 100  # characters of a cell, at most
HIDDEN = ("defaults", "hydra", "_target_", "_partial_")  # what Hydra reads, and no person sets


@dataclass(frozen=True)
class Setting:
    """A key of a file of settings.

    Attributes:
        name: Dotted, as the command line has it.
        default: As the file has it; empty for a key of further ones.
        comment: What the file says behind it.
    """

    name: str
    default: str
    comment: str


def settings_of(file: Path, prefix: str) -> Iterator[Setting]:
    """The keys of a file, in its order.

    Args:
        file: A file of `conf/`.
        prefix: Of dotted names, with its dot, or empty.
    """
    text = file.read_text(encoding="utf-8")
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode), file
    yield from _settings(root, text.splitlines(), prefix)


def _settings(node: yaml.MappingNode, lines: Sequence[str], prefix: str) -> Iterator[Setting]:
    for key, value in node.value:
        if key.value in HIDDEN:
            continue
        nested = isinstance(value, yaml.MappingNode)
        first = key.start_mark.line
        last = first if nested else value.end_mark.line - (value.end_mark.column == 0 and value.end_mark.line > first)
        written = "" if nested else _written(value)
        yield Setting(prefix + key.value, written, _comment(lines, first, last))
        if nested:
            yield from _settings(value, lines, f"{prefix}{key.value}.")


def _written(value: yaml.Node) -> str:
    """A default as the command line would have it; a list that fills lines is said in words."""
    if isinstance(value, yaml.SequenceNode):
        if not value.flow_style:
            return f"{len(value.value)} of them"
        return f"[{','.join(_written(item) for item in value.value)}]"
    assert isinstance(value, yaml.ScalarNode)
    return str(value.value)


def _comment(lines: Sequence[str], first: int, last: int) -> str:
    """What stands behind a key, and in the lines below it that hold a comment alone."""
    parts = [_behind(lines[first])]
    for line in lines[last + 1 :] if last == first else ():
        if not line.strip().startswith("#"):
            break
        parts.append(_behind(line))
    return " ".join(part for part in parts if part)


def _behind(line: str) -> str:
    match = re.search(r"(?:^|\s)#\s*(.*)$", line)
    return match.group(1).strip() if match else ""


def heading(file: Path) -> str:
    """The first sentence of the comment that a file of settings begins with."""
    lines: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line.lstrip("# "))
    return re.split(r"(?<=\.)\s", " ".join(lines) + " ", maxsplit=1)[0]


def settings_table(name: str) -> str:
    """The settings of a file, such as `latency/prefill` or `export`."""
    group = name.split("/")[0]
    prefix = f"{group}." if "/" in name else ""
    rows = [
        (f"`{setting.name}`", _shown(setting.default), escaped(setting.comment))
        for setting in settings_of(CONF / f"{name}.yaml", prefix)
        if setting.default or setting.comment
    ]
    return table(("setting", "default", "what it is"), rows, left=3)


def _shown(default: str) -> str:
    if default == "???":
        return "to be given"
    return f"`{default}`" if default else ""


def options_table(group: str) -> str:
    """The files of a group, such as `space`, and what each is for; the default one is first."""
    text = "".join((CONF / name).read_text(encoding="utf-8") for name in ("config.yaml", "serve.yaml"))
    default = re.search(rf"^  - {group}: (\w+)$", text, re.MULTILINE)
    first = default.group(1) if default else ""
    files = sorted((CONF / group).glob("*.yaml"), key=lambda file: (file.stem != first, file.stem))
    names = [f"`{group}={file.stem}`" + (", the default" if file.stem == first else "") for file in files]
    return table(("choice", "what it is"), zip(names, map(escaped, map(heading, files)), strict=True), left=2)


def versions() -> str:
    """The versions that exports hold for, and those that the project asks for."""
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned, least = (
        dict(re.findall(rf"^(transformers|torch){relation}([\d.]+)", text, re.MULTILINE))
        for relation, text in (("==", constraints), (">=", "\n".join(project["dependencies"])))
    )
    return fill(
        f"Exports are written and checked with transformers {pinned['transformers']} and torch {pinned['torch']}. They "
        f"give the same numbers, text and tokens in {CHECKED}, in which the tests use language models of every family "
        f"but mixtures of experts. The project itself asks for transformers {least['transformers']} or newer, torch "
        f"{least['torch']} or newer and Python {project['requires-python'].removeprefix('>=')} or newer.",
        width=120,
    )


def where_it_runs() -> str:
    """Families, devices, engines, formats and places to serve, as the code has them."""
    (device,) = (setting for setting in settings_of(CONF / "model/default.yaml", "") if setting.name == "device")
    engines = get_args(get_type_hints(Workload)["engine"])
    families = wrap(_names(dict.fromkeys(map(model_type_of, ARCHITECTURES))), _CELL)
    rows = [
        *zip_longest(["families of models (`model_type`)"], families, fillvalue=""),
        ("devices (`model.device`)", _names(device.comment.split(" | "))),
        ("engines that latency is measured in (`latency.engine`)", _names(engines)),
        ("formats of an export (`format`)", _names(FORMATS)),
        ("what designs can be kept to (`space.deploy`)", _names(DEPLOYMENTS)),
        ("experiment trackers (`tracker`)", _names(TRACKERS)),
    ]
    return table(("what", "which"), rows, left=2)


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


PARTS: dict[str, Callable[..., str]] = {
    "settings": settings_table,
    "options": options_table,
    "versions": versions,
    "where it runs": where_it_runs,
}


def generated(what: str) -> str:
    """One part, by what its mark says."""
    if what in PARTS:
        return PARTS[what]()
    kind, name = what.split(" ", 1)
    return PARTS[kind](name)


def renewed(page: str) -> str:
    """A page with all its parts as they are now."""
    return MARKED.sub(
        lambda match: f"{match.group(1)}\n{generated(match.group('what')).strip()}\n\n{match.group(3)}", page
    )


def missing(pages: Sequence[str]) -> list[str]:
    """What no page shows: files of groups that are in no table of choices, and settings that are in no table."""
    shown = {match.group("what") for page in pages for match in MARKED.finditer(page)}
    told, absent, names = set(), [], {}
    for file in sorted(CONF.rglob("*.yaml")):
        name = str(file.relative_to(CONF).with_suffix(""))
        group, _, option = name.rpartition("/")
        several = len(list(file.parent.glob("*.yaml"))) > 1
        if group and several and f"options {group}" not in shown:
            absent.append(f"options {group}, of which {option} is one")
        if "# @package _global_" not in file.read_text(encoding="utf-8"):
            keys = {setting.name for setting in settings_of(file, f"{group}." if group else f"{option}: ")}
            names[name] = keys
            if f"settings {name}" in shown:
                told |= keys
    return absent + [f"settings {name}: {key}" for name, keys in names.items() for key in sorted(keys - told)]


def main() -> None:
    """Writes, or checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page is stale")
    check = parser.parse_args().check
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    stale = [page for page, text in texts.items() if renewed(text) != text]
    absent = missing(list(texts.values()))
    if not check:
        for page in stale:
            page.write_text(renewed(texts[page]), encoding="utf-8")
    told = [f"stale: {page.relative_to(ROOT)}: run python docs/generate.py" for page in stale if check]
    told += [f"in no page: {what}" for what in absent]
    if told:
        sys.exit("\n".join(told))


if __name__ == "__main__":
    main()
