"""Images that are read, and a run of an image classifier to an export."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from conftest import random_images, tiny_model
from helpers_classes import searched_and_exported
from helpers_images import save_folder, save_image_classifier
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTImageProcessorPil

from conf.compose import composed
from conf.settings import session_settings
from evaluators.applicable import require_applicable
from evaluators.data.images import ImageSplits, ImageStream
from evaluators.data.places import TextPlace
from evaluators.fidelities import beginning
from space.errors import UserError
from space.models.images import image_shape
from space.models.loading import load_model
from space.models.outline import outlined

CLASSES = {"LABEL_0": 0, "LABEL_1": 1}
RUN = (
    *("model=image_classifier", "experiment=smoke", "data.length=17", "latency.length=17", "space.mlp_step=16"),
    *("data.calibration_windows=24", "data.search_windows=12", "data.heldout_windows=24", "latency.front_rounds=1"),
    *("latency.fit=2", "latency.check=2", "budget.tokens=2500", "correction.windows=8", "distillation.tokens=640"),
    *("model.dtype=float32", "recommend.rise=1.9", "recommend.most=1.9"),
)


def splits(path: Path, channels: int = 3) -> ImageSplits:
    return splits_of(TextPlace(str(path)), channels)


def splits_of(place: TextPlace, channels: int = 3) -> ImageSplits:
    processor = ViTImageProcessorPil(
        size={"height": 8, "width": 8}, image_mean=[0.5] * channels, image_std=[0.5] * channels
    )
    return ImageSplits.read(place, processor, (channels, 8, 8), 17)


def test_parts_share_no_image_and_folders_are_classes(tmp_path: Path) -> None:
    images = splits(save_folder(tmp_path / "images"))
    assert (images.room("calibration", 17), images.room("search", 17), images.room("heldout", 17)) == (12, 4, 4)
    taken = [images.blocks(part, images.room(part, 17), 17) for part in ("calibration", "search", "heldout")]
    assert [part.shape for part in taken] == [(12, 3, 8, 8), (4, 3, 8, 8), (4, 3, 8, 8)]
    assert len({image.numpy().tobytes() for part in taken for image in part}) == 20
    assert images.sources == {"images": 20 * 17}
    ((pixels, classes),) = images.labelled(CLASSES, 4)
    assert torch.equal(pixels, taken[2])
    (held,) = images.part("heldout").values()
    assert classes.tolist() == [number // 10 for number in held.tolist()]  # files are sorted
    assert images.digest == splits(tmp_path / "images").digest
    (tmp_path / "images" / "LABEL_0" / "0.png").write_bytes((tmp_path / "images" / "LABEL_0" / "1.png").read_bytes())
    assert images.digest != splits(tmp_path / "images").digest
    with pytest.raises(UserError, match=r"30 calibration images, but of 20 images that part has 12"):
        images.blocks("calibration", 30, 17)
    with pytest.raises(UserError, match=r"the label of image \d+ to be a class .* of cat, got 'LABEL_"):
        images.labelled({"cat": 0}, 4)


def test_what_is_no_set_of_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "floats.npz", images=np.zeros((2, 8, 8, 1)))
    np.savez(tmp_path / "fewer.npz", images=np.zeros((2, 8, 8, 1), np.uint8), labels=np.zeros(3))
    (tmp_path / "text.npz").write_text("no arrays")
    told = {
        "empty": "found none",
        "floats.npz": "got float64",
        "fewer.npz": r"got shape \(3,\)",
        "text.npz": "Expected arrays",
    }
    for name, said in told.items():
        with pytest.raises(UserError, match=said):
            splits(tmp_path / name, 1)
    with pytest.raises(UserError, match=r"data\.path: expected a folder of images"):
        splits(tmp_path / "missing")
    (tmp_path / "empty" / "broken.png").write_text("no image")
    with pytest.raises(UserError, match=r"Expected an image in .*broken\.png"):
        splits(tmp_path / "empty").pixels([0])


def rows_like(folder: Path) -> datasets.Dataset:
    """The images of a folder as rows of a data set, with its sub-folders as classes."""
    files = sorted(folder.rglob("*.png"))
    names = sorted({file.parent.name for file in files})
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    encoded = [{"bytes": file.read_bytes(), "path": None} for file in files]
    rows = {"image": encoded, "label": [file.parent.name for file in files]}
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.mark.parametrize("kind", ["table", "tables", "saved", "splits", "hub"])
def test_rows_of_a_data_set_are_read_as_a_folder_of_them_is(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARETOPRUNE_CACHE", str(tmp_path / "cache"))
    folder = splits(save_folder(tmp_path / "images"))
    rows, place = rows_like(tmp_path / "images"), TextPlace(str(tmp_path / "rows"))
    if kind == "table":
        place = TextPlace(str(tmp_path / "rows.parquet"))
        rows.to_parquet(place.path)
    elif kind == "tables":
        (tmp_path / "rows").mkdir()
        for number in range(2):
            rows.select(range(10 * number, 10 * number + 10)).to_parquet(tmp_path / "rows" / f"{number}.parquet")
    elif kind == "saved":
        rows.save_to_disk(place.path)
    elif kind == "splits":
        datasets.DatasetDict({"train": rows.select(range(2)), "held": rows}).save_to_disk(place.path)
        with pytest.raises(UserError, match=r"data\.split to be one of train, held, .* got other"):
            splits_of(replace(place, split="other"))
        place = replace(place, split="held")
    else:
        place = TextPlace("somebody/some-images")
        monkeypatch.setattr("evaluators.data.sources.HfApi.dataset_info", lambda *_, **__: None)
        monkeypatch.setattr(datasets, "load_dataset", lambda path, name, split, streaming: rows)
    images = splits_of(place)
    assert images.sources == {str(place.path).rpartition("/")[2] if kind != "hub" else place.path: 20 * 17}
    for part in ("calibration", "search", "heldout"):
        count = folder.room(part, 17)
        assert torch.equal(images.blocks(part, count, 17), folder.blocks(part, count, 17))
    ((_, classes),), ((_, expected),) = images.labelled(CLASSES, 4), folder.labelled(CLASSES, 4)
    assert torch.equal(classes, expected)
    assert images.digest == splits_of(place).digest
    assert ImageSplits.read(place, None, (3, 8, 8), 17).digest == images.digest


def test_what_is_no_data_set_of_images_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETOPRUNE_CACHE", str(tmp_path / "cache"))
    datasets.Dataset.from_dict({"text": ["a"], "label": [0]}).to_parquet(tmp_path / "texts.parquet")
    (tmp_path / "broken.parquet").write_text("no table")
    encoded = {"photo": [{"bytes": b"no image", "path": None}], "label": [3]}
    datasets.Dataset.from_dict(encoded).to_parquet(tmp_path / "encoded.parquet")
    with pytest.raises(UserError, match=r"one column of images in texts\.parquet.* got 0 among text, label"):
        splits(tmp_path / "texts.parquet")
    with pytest.raises(UserError, match=r"Expected tables of images in .*broken\.parquet"):
        splits(tmp_path / "broken.parquet")
    images = splits(tmp_path / "encoded.parquet")
    assert images.images is not None
    assert images.images.labels == ["3"]
    with pytest.raises(UserError, match=r"Expected an image in row 0 of encoded\.parquet"):
        images.pixels([0])


def test_training_reads_each_image_of_calibration_before_any_comes_again(tmp_path: Path) -> None:
    images = splits(save_folder(tmp_path / "images"))
    stream = ImageStream(images, seed=1)
    windows = [window for window, _ in zip(stream, range(13), strict=False)]
    first = {window.numpy().tobytes() for window in windows[:12]}
    assert first == {image.numpy().tobytes() for image in images.blocks("calibration", 12, 17)}
    assert (stream.length, stream.new_windows) == (17, 12)
    state = stream.state()
    again = ImageStream(images, seed=1)
    again.restore(state)
    assert torch.equal(next(iter(again)), next(iter(stream)))


def test_a_cheap_fidelity_sees_fewer_images_or_beginnings_of_texts() -> None:
    images, tokens = random_images(8), torch.arange(12).view(2, 6)
    assert torch.equal(beginning(images, 4, 17), images[:1])
    assert torch.equal(beginning(images, 17, 17), images)
    assert beginning(tokens, 3, 6, ended=True).tolist() == [[0, 1, 5], [6, 7, 11]]


def test_an_image_classifier_is_read_with_its_processor(tmp_path: Path) -> None:
    place = str(save_image_classifier(tmp_path))
    loaded = load_model(place, task="image_classification", lengths={"data.length=17": 17})
    assert (loaded.tokenizer, {*loaded.companions}) == (None, {"preprocessor_config.json"})
    assert (loaded.spec.positions, loaded.spec.vocab) == (17, 0)
    with pytest.raises(UserError, match=r"windows of 17 tokens, .* got latency\.length=64\. Set latency\.length=17"):
        load_model(place, task="image_classification", lengths={"latency.length=64": 64})
    config = json.loads((tmp_path / "config.json").read_text())
    for change, said in (
        ("num_labels=1", {"id2label": {"0": "x"}, "label2id": {"x": 0}}),
        ("multi", {"problem_type": "multi_label_classification"}),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | said))
        with pytest.raises(UserError, match=rf"at least two classes.*{change}"):
            load_model(place, task="image_classification")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"Expected an image processor \(preprocessor_config\.json\)"):
        load_model(place, task="image_classification")


def test_images_have_the_size_that_the_processor_makes_where_a_model_takes_any(tmp_path: Path) -> None:
    place = str(save_image_classifier(tmp_path, "dinov2", image_size=12))
    told = {"path": place, "task": "image_classification"}
    spec = load_model(**told, lengths={"data.length=17": 17}).spec
    assert (spec.positions, spec.image_size, spec.image_length) == (37, 8, 17)
    planned = outlined(place, revision=None, trust_remote_code=False, lengths={}, task="image_classification").spec
    assert {**planned.identity, "digest": spec.digest} == spec.identity
    assert image_shape(tiny_model("dinov2", image_size=12)[0].config, spec) == (1, 8, 8)
    with pytest.raises(UserError, match=r"Expected windows of 17 tokens.*Set data\.length=17"):
        load_model(**told, lengths={"data.length=37": 37})
    file = tmp_path / "preprocessor_config.json"
    values = json.loads(file.read_text())
    for size, said in (({"height": 9, "width": 9}, "9 x 9"), ({"height": 8, "width": 12}, "8 x 12")):
        file.write_text(json.dumps(values | {"size": size}))
        with pytest.raises(UserError, match=rf"square images of one size, of whole patches of 2 x 2 .* makes {said}"):
            load_model(**told)


def test_widths_that_a_configuration_cannot_say_are_refused(tmp_path: Path) -> None:
    place = save_image_classifier(tmp_path, "dinov2")
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"use_swiglu_ffn": True}))
    with pytest.raises(UserError, match=r"says use_swiglu_ffn=False, got one with use_swiglu_ffn=True"):
        load_model(str(place), task="image_classification")


def test_a_second_head_is_refused(tmp_path: Path) -> None:
    place = save_image_classifier(tmp_path, "deit")
    config = json.loads((place / "config.json").read_text())
    config["architectures"] = ["DeiTForImageClassificationWithTeacher"]
    (place / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"Expected a DeiTForImageClassification .* another head"):
        load_model(str(place), task="image_classification")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("latency=serving", r"latency\.scenario: expected prefill for an image classifier, got serving"),
        ("evaluate.tasks=[piqa]", r"evaluate\.tasks: expected \[\] for an image classifier"),
        ("space.vocabulary=[0.5]", r"space\.vocabulary: expected \[\]"),
    ],
)
def test_what_an_image_classifier_cannot_do_is_refused_by_name(change: str, said: str) -> None:
    settings = session_settings(composed("model=image_classifier", "model.path=x", change))
    assert settings.latency.length == settings.evaluators.context == settings.text.length == 197
    with pytest.raises(UserError, match=said):
        require_applicable(settings)


@pytest.mark.parametrize(("family", "changes"), [("vit", {}), ("dinov2", {"image_size": 12})], ids=["vit", "dinov2"])
def test_a_run_of_an_image_classifier_ends_in_an_export(family: str, changes: dict[str, int], tmp_path: Path) -> None:
    model = save_image_classifier(tmp_path / "model", family, **changes)
    row = searched_and_exported(tmp_path, (*RUN, f"model.path={model}", f"data.path={model / 'images.npz'}"))
    out = tmp_path / "out"
    trusted = "auto_map" in json.loads((out / "config.json").read_text())
    exported = AutoModelForImageClassification.from_pretrained(out, trust_remote_code=trusted)
    assert sum(p.numel() for p in exported.parameters()) == row["params"]
    pixels = AutoImageProcessor.from_pretrained(out)([np.zeros((8, 8, 1), np.uint8)], return_tensors="pt")[
        "pixel_values"
    ]
    assert exported(pixels).logits.shape == (1, tiny_model("vit")[0].config.num_labels)  # type: ignore[union-attr]
