"""The model card, written from what was measured."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Template

_CARD = Template(
    """\
# Reference vision-language model

A real `LlavaForConditionalGeneration` ({{ "%.1f"|format(m.parameters / 1e6) }} M parameters, {{ m.tokens }} visual tokens) that answers questions about
generated scenes. It exists to study visual-token pruning where no large checkpoint can be had; it knows nothing else.

| skill | accuracy | blind | questions |
|---|---|---|---|
{% for name, s in m.skills.items() -%}
| {{ name }}{{ "" if name in m.studied else " (not learnt, left out of the study)" }} | {{ "%.3f"|format(s.accuracy) }} | {{ "%.3f"|format(s.blind) }} | {{ s.questions }} |
{% endfor -%}
| **mean over the {{ m.studied|length }} skills of the study** | **{{ "%.3f"|format(m.accuracy) }}** | **{{ "%.3f"|format(m.blind) }}** | |
| mean over all {{ m.skills|length }} | {{ "%.3f"|format(m.accuracy_all) }} | {{ "%.3f"|format(m.blind_all) }} | {{ m.questions }} |

Held out: {{ m.scenes }} scenes of the `{{ m.split }}` split (other seeds, other handwriting; the photographs behind are the same eight,
cropped anew). *Blind* answers with the most frequent training answer to the same question text.

## Visual features (projected tokens, mean over these scenes)

| measure | value |
|---|---|
| median norm of projected tokens / of words | {{ "%.2f"|format(f.token_norm) }} / {{ "%.2f"|format(f.word_norm) }} = {{ "%.2f"|format(f.norm_ratio) }} |
| largest norm of a scene over its median | {{ "%.2f"|format(f.largest_over_median_norm) }} |
| mean cosine of two tokens of a scene | {{ "%.2f"|format(f.mean_cosine) }} |
| directions for 90 / 95 / 99 % of a scene's energy | {{ "%.1f"|format(f.directions["90"]) }} / {{ "%.1f"|format(f.directions["95"]) }} / {{ "%.1f"|format(f.directions["99"]) }} |
| least over scenes | {{ f.directions_least["90"] }} / {{ f.directions_least["95"] }} / {{ f.directions_least["99"] }} |

## Data

`analysis.scenes`: 96 x 96 pixels, three to eight objects (5 shapes, 6 colours, 2 sizes), one handwritten digit (scikit-learn's
`load_digits`) in one patch, a crop of one of eight photographs behind (licences: `analysis/scenes/backgrounds.py`; CC0, public domain and
CC BY 2.0 by danielbuechele and vultilion). {{ m.training_scenes }} training scenes, about 22 questions each; answers are drawn before questions so that
the prior is flat.

## Recipe

`python -m analysis train --seed {{ m.seed }}`; stages and steps: {% for name, n in m.steps.items() %}{{ name }} {{ n }}{{ ", " if not loop.last }}{% endfor %}.
(1) the language model learns from perfect visual tokens, (2) the vision tower and projector learn to produce these from pixels (shape, colour,
size, digit, background, place and texture of every patch, matched in scale), (3) the language model learns to answer from these real tokens. bfloat16 weights with float32 masters; stored as float16. {{ "%.1f"|format(m.hours) }} hours on {{ m.hardware }}.{% if m.notes %} {{ m.notes }}{% endif %}

## Limits

One training seed. Objects do not overlap. The first two stages teach the code of a patch explicitly, so features are more orderly than those of
models trained on captions alone. No text tower: relevance lives in the language model's embedding space.
"""
)


def write_card(measured: dict, path: Path) -> None:
    path.write_text(_CARD.render(m=measured, f=measured["features"]))
