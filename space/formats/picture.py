"""A picture of what is left of each layer, as an SVG file that a model card shows."""

from __future__ import annotations

from html import escape

from space.candidate import Candidate
from space.spec import ModelSpec

PICTURE_FILE = "layers.svg"
_COLUMN, _GAP, _HEIGHT = 20, 4, 110  # of a layer, between two, and of a block that keeps everything
_LEFT, _TOP, _BETWEEN = 110, 40, 28
_COLOURS = ("#2166ac", "#b2182b")  # of attention and MLP blocks
_DENSE, _TEXT = "#e3e3e3", "#333333"


def layers_svg(spec: ModelSpec, candidate: Candidate) -> str:
    """Two rows of bars, a column for each layer of the dense model: what is left, before what there was.

    Args:
        spec: The dense model.
        candidate: What is left of it.
    """
    width = _LEFT + max(len(candidate.layers) * (_COLUMN + _GAP), 260) + 20
    height = _TOP + 2 * (_HEIGHT + _BETWEEN) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="11" fill="{_TEXT}">',
        f"<title>{escape(candidate.key)}: what is left of each layer</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="20" font-size="13">What is left of each layer (grey: the dense model)</text>',
    ]
    for row, (name, colour) in enumerate(zip(("query heads", spec.mlp_units), _COLOURS, strict=True)):
        floor = _TOP + (row + 1) * _HEIGHT + row * _BETWEEN
        most = (spec.query_heads, spec.mlp_channels)[row]
        parts += [
            f'<text x="{_LEFT - 10}" y="{floor - _HEIGHT + 10}" text-anchor="end">{most:,}</text>',
            f'<text x="{_LEFT - 10}" y="{floor - _HEIGHT / 2 + 4:g}" text-anchor="end" fill="{colour}">{name}</text>',
            f'<text x="{_LEFT - 10}" y="{floor}" text-anchor="end">0</text>',
        ]
        for index, shape in enumerate(candidate.layers):
            kept = (shape.query_heads, shape.mlp_channels)[row]
            dense = (spec.query_heads, spec.whole_mlp(index))[row]
            part = shape.expert_channels / spec.expert_channels if row and shape.expert_channels else 1.0
            each = f", each of {shape.expert_channels:,} of {spec.expert_channels:,} channels" * (part < 1)
            x, bar = _LEFT + index * (_COLUMN + _GAP), round(_HEIGHT * kept / dense * part, 1)
            parts += [
                f'<rect x="{x}" y="{floor - _HEIGHT}" width="{_COLUMN}" height="{_HEIGHT}" fill="{_DENSE}"/>',
                f'<rect x="{x}" y="{floor - bar:g}" width="{_COLUMN}" height="{bar:g}" fill="{colour}">'
                f"<title>layer {index}: {kept:,} of {dense:,} {name}{each}</title></rect>",
                f'<text x="{x + _COLUMN / 2:g}" y="{floor + 14}" text-anchor="middle">{index}</text>',
            ]
    return "\n".join([*parts, "</svg>"]) + "\n"
