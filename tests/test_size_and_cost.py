"""Parameter counts, MACs and KV-cache bytes against counting on transformers' own models."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from conftest import each_kind, fitting, random_tokens, tiny_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from evaluators.cost import cost_measure
from space.candidate import KINDS, Candidate, LayerShape
from space.errors import UserError
from space.models.architectures import ARCHITECTURES
from space.models.modeling import modeling_of
from space.models.pruned import PrunedConfigs
from space.models.stack import layers_of
from space.size import block_params, decoder_params, layer_params, total_params
from space.spec import ModelSpec

SHAPES = (LayerShape(2, 1, 20), LayerShape(3, 3, 47), LayerShape(4, 2, 1))


def shrunk_model(family: str, spec: ModelSpec, shape: LayerShape, **changes: object) -> nn.Module:
    """Transformers' own model with this shape in all layers; where it has none, that of an export."""
    if ARCHITECTURES[family].heads_fill:
        config = PrunedConfigs(tiny_model(family, **changes)[0].config, spec).of(Candidate((shape,) * spec.layers))
        pruned: nn.Module = modeling_of(family).PrunedForCausalLM(config)
        return pruned
    model, _ = tiny_model(
        family,
        num_attention_heads=shape.query_heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=spec.head_dim,
        intermediate_size=shape.mlp_channels,
        **changes,
    )
    return model


def count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_counts_equal_those_of_the_stock_model(unlike_family: str, shape: LayerShape, tied: bool) -> None:
    _, spec = tiny_model(unlike_family, tie_word_embeddings=tied)
    shape = fitting(unlike_family, [shape.row]).layers[0]
    shape = replace(shape, mlp_channels=max(shape.mlp_channels, spec.least_mlp_channels))
    model = shrunk_model(unlike_family, spec, shape, tie_word_embeddings=tied)
    candidate = Candidate((shape,) * spec.layers)
    assert layer_params(spec, shape) == count(layers_of(model)[0].parameters())
    assert decoder_params(spec, candidate) == count(layers_of(model).parameters())
    assert total_params(spec, candidate) == count(model.parameters())


def test_biases_count_as_in_the_stock_model() -> None:
    # Qwen3 biases o_proj with q, k and v, Qwen2 does not; the tiny Llama of the other tests has every bias
    _, spec = tiny_model("qwen3", attention_bias=True)
    assert spec.o_bias
    shape = LayerShape(2, 1, 20)
    model = shrunk_model("qwen3", spec, shape, attention_bias=True)
    assert layer_params(spec, shape) == count(model.model.layers[0].parameters())


def test_a_layer_is_the_sum_of_its_blocks() -> None:
    _, spec = tiny_model("gemma3_text")
    assert block_params(spec, "attention", (0, 0)) == block_params(spec, "mlp", (0,)) == 0
    shape = LayerShape(4, 2, 20)
    assert sum(block_params(spec, kind, shape.option(kind)) for kind in KINDS) == layer_params(spec, shape)
    assert block_params(spec, "mlp", (20,)) == layer_params(spec, LayerShape(0, 0, 20))


@pytest.mark.parametrize(("family", "tokens"), each_kind("16"))
def test_macs_and_kv_bytes_equal_a_counted_decode_step(family: str, tokens: str) -> None:
    context = int(tokens)
    _, spec = tiny_model(family)
    design = fitting(family, [(4, 2, 20)] * spec.layers)
    model = shrunk_model(family, spec, design.layers[-1])
    # scores, sums of values and experts are matrix products then that are counted
    model.config._attn_implementation = model.config._experts_implementation = "eager"
    text = random_tokens(1, context)
    cache = DynamicCache()
    with torch.inference_mode():
        if context > 1:
            model(text[:, :-1], past_key_values=cache)
        with FlopCounterMode(display=False) as counter:
            model(text[:, -1:], past_key_values=cache)
    by_module = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    # the rotary angles are an outer product of one number with the frequencies: no product with weights or keys
    rotary = sum(flops for name, flops in by_module.items() if name.endswith(".rotary_emb"))
    values = cost_measure(spec, context=context, bytes_per_element=4).values(design)
    assert 2 * values["macs_per_token"] == by_module["Global"] - rotary
    assert values["kv_bytes"] == sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def test_holes_cost_nothing() -> None:
    _, spec = tiny_model("qwen3")
    dense = Candidate.dense(spec).layers[0]
    only = Candidate((dense, *(LayerShape(0, 0, 0),) * (spec.layers - 1)))
    single = replace(spec, layers=1)
    holes = cost_measure(spec, context=9).values(only)
    alone = cost_measure(single, context=9).values(Candidate.dense(single))
    assert holes["decoder_params_removed"] == pytest.approx(1 - 1 / spec.layers, abs=1e-12)
    for name in ("params", "decoder_params", "macs_per_token", "kv_bytes"):
        assert holes[name] == alone[name]


def test_measure_gives_its_metrics_and_dense_removes_nothing() -> None:
    _, spec = tiny_model("llama")
    measure = cost_measure(spec, context=32)
    values = measure.values(Candidate.dense(spec))
    assert list(values) == [metric.name for metric in measure.metrics]
    assert values["decoder_params_removed"] == 0
    assert measure.tokens == 0
    assert all(metric.free and metric.role == "cost" for metric in measure.metrics)
    assert {metric.name for metric in measure.metrics if metric.goal == "max"} == {"decoder_params_removed"}


def test_kv_bytes_scale_with_context_and_element_size() -> None:
    _, spec = tiny_model("llama")
    dense = Candidate.dense(spec)
    once = cost_measure(spec, context=8).values(dense)["kv_bytes"]
    assert cost_measure(spec, context=24).values(dense)["kv_bytes"] == 3 * once
    assert cost_measure(spec, context=8, bytes_per_element=4).values(dense)["kv_bytes"] == 2 * once


@pytest.mark.parametrize("value", [0, -5, 2.5, True, "512"])
@pytest.mark.parametrize("name", ["context", "bytes_per_element"])
def test_impossible_settings_are_refused(name: str, value: object) -> None:
    _, spec = tiny_model("llama")
    settings: dict[str, object] = {"context": 8, name: value}
    with pytest.raises(UserError, match=f"expected {name} to be a whole number of at least 1, got {value!r}"):
        cost_measure(spec, **settings)  # type: ignore[arg-type]


def test_candidate_of_another_depth_is_refused() -> None:
    _, spec = tiny_model("llama")
    with pytest.raises(ValueError, match="expected a candidate of 4 layers, got 3"):
        cost_measure(spec, context=8).values(Candidate(Candidate.dense(spec).layers[:3]))
