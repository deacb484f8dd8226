"""Questions to a fresh process: what goes there and comes back, what it cannot import, and how its failure is told."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import pytest
import torch

from space.errors import UserError
from space.formats.child import PROJECT_PACKAGES, answer_of

ROOT = Path(__file__).parents[1]


def script(tmp_path: Path, *lines: str) -> Path:
    """A file that defines `answer` with a body of these lines."""
    path = tmp_path / "script.py"
    path.write_text("import sys\n\ndef answer(request, tensors):\n" + "".join(f"    {line}\n" for line in lines))
    return path


def test_a_request_and_tensors_go_there_and_an_answer_comes_back(tmp_path: Path) -> None:
    asked = script(
        tmp_path,
        "import torch",
        "total = float((tensors['a'] * tensors['b']).sum())",
        "return request | {'total': total, 'threads': torch.get_num_threads(), 'nan': float('nan')}",
    )
    tensors = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.ones(3, 2, requires_grad=True)}
    answer = answer_of(asked, {"text": "Привет", "list": [1, None]}, tensors, failure="It failed")
    assert math.isnan(answer.pop("nan"))
    assert answer == {"text": "Привет", "list": [1, None], "total": 15.0, "threads": torch.get_num_threads()}


def test_the_project_is_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where it is on the path, and a script without tensors waits for no torch."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    asked = script(
        tmp_path,
        "import importlib",
        "refused = []",
        "for name in request['names']:",
        "    try:",
        "        importlib.import_module(name)",
        "    except ImportError:",
        "        refused.append(name)",
        "return {'refused': refused, 'torch': 'torch' in sys.modules}",
    )
    names = [*PROJECT_PACKAGES, "space.spec", "json"]
    assert answer_of(asked, {"names": names}, failure="") == {"refused": names[:-1], "torch": False}


def test_all_packages_of_the_project_are_blocked() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert sorted(PROJECT_PACKAGES) == sorted(pattern.rstrip("*") for pattern in patterns)


@pytest.mark.parametrize("end", ["raise ValueError('a shape of (2, 3)')", "sys.exit('a shape of (2, 3)')"])
def test_a_failure_is_told_with_its_last_lines(tmp_path: Path, end: str) -> None:
    asked = script(tmp_path, "print('line\\n' * 100, file=sys.stderr)", end)
    with pytest.raises(UserError, match=r"^It failed \(exit code 1\):\n") as caught:
        answer_of(asked, {}, failure="It failed")
    assert str(caught.value).endswith("a shape of (2, 3)")
    assert len(str(caught.value).splitlines()) == 13
