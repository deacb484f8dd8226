"""Models of which language is a part: that is pruned, the rest is carried, and exports read images as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import random_tokens
from helpers_forked import reloading_here
from helpers_formats import answer_here
from helpers_run import CHARACTERS, TINY_RUN, ended, save_tiny, start
from helpers_wholes import WHOLES, around, language_of, save_whole, seen
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

from evaluators.vocabulary.ranked import Vocabulary
from search.run.front import is_dense, read_front_csv
from space.candidate import Candidate
from space.errors import UserError
from space.formats.checkpoint import Subnet
from space.formats.hf.export import export_checkpoint
from space.formats.registry import checks
from space.models.embedded import quiet_transformers
from space.models.inspect import main as inspect_main
from space.models.loading import LoadedModel, load_model
from space.models.stack import stack_of
from space.size import total_params
from space.supernet.supernet import Supernet

pytestmark = pytest.mark.usefixtures("modules_cache")
GONE = (0, 0, 0)


class Case(NamedTuple):
    """A saved model, what is loaded of it, and its language part's supernet."""

    name: str
    directory: Path
    loaded: LoadedModel
    supernet: Supernet

    def subnet(self, candidate: Candidate) -> Subnet:
        loaded = self.loaded
        files = {"companions": loaded.companions, "surroundings": loaded.surroundings}
        return Subnet(loaded.model.config, loaded.tokenizer, loaded.spec, candidate, None, **files)

    def whole(self, candidate: Candidate) -> Any:
        """The model as it is on disk, with a view in the place of its language part."""
        whole: Any = AutoModelForImageTextToText.from_pretrained(self.directory)
        view = self.supernet.view(candidate)
        stack = language_of(whole, self.loaded.model)
        (place,) = (name for name, module in whole.named_modules() if module is stack)
        parent, _, name = place.rpartition(".")
        setattr(whole.get_submodule(parent), name, stack_of(view))
        whole.lm_head = view.lm_head
        return whole.eval()


SCALED = "llava with scaled logits"


@pytest.fixture(scope="module", params=[name for name in WHOLES if name != SCALED])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name, place = request.param, tmp_path_factory.mktemp("whole")
    save_whole(name, place / "saved")
    loaded = load_model(str(place / "saved"), dtype="float32", device="cpu")
    tokens = random_tokens(12, 24)
    supernet = Supernet.prepare(loaded.model, loaded.spec, tokens, place / "prepared", dtype=torch.float32)
    return Case(name, place / "saved", loaded, supernet)


@torch.inference_mode()
def logits(model: Any, **asked: Any) -> torch.Tensor:
    output: torch.Tensor = model(**asked, use_cache=False).logits
    return output


def designs(spec: Any) -> dict[str, Candidate]:
    """Of layers with holes of all kinds, and of equal ones, but for plain MLPs among mixtures."""
    units = spec.least_mlp_channels + 2
    equal = [(6, 3, spec.plain_channels if layer in spec.plain_mlps else units) for layer in range(spec.layers)]
    return {
        "holes": Candidate.from_rows([(0, 0, units), (4, 2, 0), GONE, (2, 1, units)]),
        "equal": Candidate.from_rows(equal),
    }


def test_the_language_part_is_a_model_and_the_rest_is_counted(case: Case) -> None:
    whole, tokens = AutoModelForImageTextToText.from_pretrained(case.directory).eval(), random_tokens(2, 24, seed=1)
    loaded, spec = case.loaded, case.loaded.spec
    assert spec.family == WHOLES[case.name][1]
    again = load_model(str(case.directory), dtype="float32", device="cpu").model
    torch.testing.assert_close(logits(again, input_ids=tokens), logits(whole, input_ids=tokens))
    count = total_params(spec, Candidate.dense(spec))
    assert loaded.surroundings is not None
    assert loaded.surroundings.params == sum(p.numel() for p in whole.parameters()) - count > 0


@pytest.mark.parametrize("design", ["holes", "equal"])
def test_an_export_is_the_whole_around_a_view(
    case: Case, design: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("space.formats.verify.answer_of", answer_here)
    candidate, tokens = designs(case.loaded.spec)[design], random_tokens(2, 24, seed=2)
    view = case.supernet.view(candidate)
    done = export_checkpoint(view, case.subnet(candidate), tmp_path / "out", card={})
    assert {*done.verification.caches} == {"dynamic", "static"}
    assert (done.trust_remote_code, done.loader) == (design == "holes", "AutoModelForImageTextToText")
    trusted = {"trust_remote_code": done.trust_remote_code}
    model, loading = AutoModelForImageTextToText.from_pretrained(done.directory, output_loading_info=True, **trusted)
    assert not any(loading.values()), loading
    assert torch.equal(logits(model.eval(), input_ids=tokens), logits(view, input_ids=tokens))
    expected, asked = case.whole(candidate), seen(case.name)
    assert torch.equal(logits(model, **asked), logits(expected, **asked))
    assert not torch.allclose(logits(model, **asked), logits(model, input_ids=asked["input_ids"]), atol=1e-2)
    carried, inside = model.state_dict(), {id(p) for p in language_of(expected, view).parameters()}
    others = {
        name: p
        for name, p in expected.named_parameters()
        if id(p) not in inside and not name.endswith("lm_head.weight")
    }
    assert others
    assert all(torch.equal(carried[name], tensor) for name, tensor in others.items())
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "again", **trusted).eval()
    assert torch.equal(logits(again, **asked), logits(model, **asked))


def test_what_reads_images_goes_along(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if case.name != "llava":
        pytest.skip("saved without a processor")
    monkeypatch.setattr("space.formats.verify.answer_of", answer_here)
    candidate = designs(case.loaded.spec)["holes"]
    out = export_checkpoint(case.supernet.view(candidate), case.subnet(candidate), tmp_path / "out", card={}).directory
    image = torch.randint(256, (3, 20, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    read, again = (
        AutoProcessor.from_pretrained(place)(images=image, text="w7 <image> w8", return_tensors="pt")
        for place in (case.directory, out)
    )
    assert read["input_ids"].shape[1] == 6
    assert {*read} == {*again}
    assert all(torch.equal(read[name], again[name]) for name in read)
    model = AutoModelForImageTextToText.from_pretrained(out, trust_remote_code=True).eval()
    assert model.generate(**again, max_new_tokens=3, do_sample=False).shape == (1, 9)
    card = (out / "README.md").read_text()
    assert "pipeline_tag: image-text-to-text" in card
    assert "parameters of vision_tower and multi_modal_projector, which stay as they are" in card


def test_formats_of_language_alone_and_other_vocabularies_are_refused(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    subnet = case.subnet(designs(case.loaded.spec)["equal"])
    for name, check in checks().items():
        if name.startswith("hf"):
            check(subnet)
        else:
            with pytest.raises(
                UserError, match=rf"expected hf or hf_uniform .* got {name}, which would lack [\d,]+ par"
            ):
                check(subnet)
    with pytest.raises(UserError, match=r"vocabulary\.keep: expected a model that is all language"):
        Vocabulary(case.loaded, "vocabulary.keep")
    assert inspect_main([str(case.directory)]) == 0
    said = capsys.readouterr().out
    assert "the language part is pruned, and around it " in said
    assert f"{case.loaded.spec.family}: " in said


def test_a_whole_that_makes_something_else_of_text_is_refused(tmp_path: Path) -> None:
    save_whole(SCALED, tmp_path / "whole")
    with pytest.raises(UserError, match=r"LlavaForConditionalGeneration that makes of text .* logits differ by"):
        load_model(str(tmp_path / "whole"), dtype="float32", device="cpu")


def test_a_run_of_the_language_part_ends_in_the_whole(tmp_path: Path) -> None:
    model = save_tiny("llama", tmp_path / "tiny")
    with quiet_transformers():
        part: Any = AutoModelForCausalLM.from_pretrained(model)
        around(part, "llava", image=len(CHARACTERS) - 1).save_pretrained(model)
    places = {"cwd": tmp_path, "cache": tmp_path / "cache"}
    settings = (f"model.path={model}", f"data.path={model / 'text.txt'}", "budget.evaluations=12")
    few = ("search.algorithm.generations=2", "search.distillation=off", "correction=none", "distillation=none")
    kept = [item for item in TINY_RUN if not item.startswith(("distillation", "search.dist", "correction"))]
    done = ended(start("run_search.py", *kept, *settings, *few, "run_dir=run", **places))
    assert done.returncode == 0, done.stderr
    points = read_front_csv(tmp_path / "run" / "points.csv")
    row = next(row for _, row in points[~is_dense(points)].iterrows())
    arguments = "run_dir=run", f"pick={row['key']}", "polish.minutes=0", "out=out"
    done = ended(start("export_subnet.py", *arguments, **places, first=reloading_here))
    assert done.returncode == 0, done.stderr
    whole = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert whole.lm_head.weight is whole.get_input_embeddings().weight
    assert sum(p.numel() for p in whole.model.language_model.parameters()) == row["params"]
