"""The model card, written from what was measured."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Template

from analysis.scenes import FAMILIES, SKILLS

_CARD = Template(
    """\
# Reference vision-language model

A real `LlavaForConditionalGeneration` ({{ "%.1f"|format(m.parameters / 1e6) }} M parameters, {{ m.tokens }} visual tokens) that answers questions about
generated scenes of two families, and a CLIP text tower of the same vision tower (`clip/`). It exists to study visual-token
pruning where no large checkpoint can be had; it knows nothing else.
{% for family, names in families.items() %}
| {{ family }} | accuracy | blind | questions |
|---|---|---|---|
{% for name in names -%}
| {{ name }} | {{ "%.3f"|format(m.skills[name].accuracy) }} | {{ "%.3f"|format(m.skills[name].blind) }} | {{ m.skills[name].questions }} |
{% endfor -%}
| **mean** | **{{ "%.3f"|format(m.families[family].accuracy) }}** | **{{ "%.3f"|format(m.families[family].blind) }}** | |
{% endfor %}
Mean over all {{ m.skills|length }} skills: **{{ "%.3f"|format(m.accuracy) }}**, blind {{ "%.3f"|format(m.blind) }}.

Held out: {{ m.scenes }} scenes a family of the `{{ m.split }}` split: other seeds, other handwriting, other parts of the
photographs. *Blind* answers with the most frequent training answer to the same question text.

## Visual features

Projected tokens, means over these scenes.

| measure |{% for family in m.features %} {{ family }} |{% endfor %}
|---|{% for family in m.features %}---|{% endfor %}
{% for text, value in rows.items() -%}
| {{ text }} |{% for f in m.features.values() %} {{ value(f) }} |{% endfor %}
{% endfor %}
{%- if m.patches %}
## Patches

Questions that every patch matters to, those of the background most of all: towards which side a named patch of background grows
brighter, and transcriptions: a word for every patch of a row (the value of a digit, the colour of a thing, else the brighter
side), each given after the right words before it. *Blind* says what most often follows the word before; a model that gives no more
words right than that has not learnt to transcribe.

| family | brighter side | words | blind | rows without a fault | scenes |
|---|---|---|---|---|---|
{% for family, p in m.patches.items() -%}
| {{ family }} | {{ "%.3f"|format(p.side) }} | {{ "%.3f"|format(p.words) }} | {{ "%.3f"|format(p.blind) }} | {{ "%.3f"|format(p.rows) }} | {{ p.scenes }} |
{% endfor %}
{%- endif %}
{%- if m.joint %}
The joint space: of {{ m.joint.group }} captions, an image's own is the nearest in {{ "%.0f"|format(100 * m.joint.retrieval) }} % (chance {{ "%.0f"|format(100 / m.joint.group) }} %). Cosine
with "the *colour* *shape*": patches of that object {{ "%+.3f"|format(m.joint.patch_gap) }} against the others{{ ", so that relevant patches score lower, as in large models" if m.joint.patch_gap < -0.02 else "" }}.
{% endif %}
## Data

`analysis.scenes`: 96 × 96 pixels on a crop of one of eight photographs (licences: `analysis/scenes/backgrounds.py`; CC0, public domain
and CC BY 2.0 by danielbuechele and vultilion). *objects*: five to ten things (5 shapes, 6 colours, 2 sizes) and one
handwritten digit (scikit-learn's `load_digits`) in one patch. *digits*: five to nine coloured digits, a patch each.
{{ m.training_scenes }} training scenes, about 22 questions each; answers are drawn before questions so that the prior is flat.

## Recipe

`python -m analysis train --seed {{ m.seed }}{{ " --codes neutral" if m.codes == "neutral" }}{{ " --start analysis/reference" if m.start }}`; stages and steps: {% for name, n in m.steps.items() %}{{ name }} {{ n }}{{ ", " if not loop.last }}{% endfor %}.
{% if m.start %}The shipped model goes on, its vision tower unchanged.
{%- if m.codes == "neutral" %} First its projector learns to give the tokens it gave, those of things and digits scaled so that their
norms are distributed as those of background (`project`).{% else %} Its projector, and so every visual token, is unchanged, too.{% endif %} Then its
language model learns, with words added, questions about patches and transcriptions, beside all others (`transcribe`).
How the shipped model was made:
{% elif m.codes == "neutral" %}Codes are neutral: tokens of things and digits are scaled so that their norms are distributed as those of background.
{% endif %}(1) The language model learns from perfect visual tokens; (2) the vision tower and projector learn to produce these from pixels (shape,
colour, size, digit, background, place and texture of every patch, matched in scale) while the tower's class token and a text
tower learn which caption belongs to which image; (3) the language model learns to answer from the real tokens. bfloat16 weights
with float32 masters (float32 alone on CPUs without AVX-512); stored as float16. {{ "%.1f"|format(m.hours) }} hours on {{ m.hardware }}.{% if m.notes %} {{ m.notes }}{% endif %}

## Limits

Objects do not overlap. The first two stages teach the code of a patch explicitly, outlier tokens included, so features are more
orderly than those of models trained on captions alone; captions of generated scenes are all the text tower has read.
"""
)


_TABLE = Template(
    """\
# The models

Training seeds: other weights at the start, other codes, another order of the scenes; where recipes differ the notes below say so. The first
is shipped (`analysis/reference`); `python -m analysis train --seed N` makes others. Held-out accuracy, {{ count }} scenes a family; *blind*
answers with the most frequent training answer to the same question text.

| |{% for name in found %} {{ name }} |{% endfor %} blind |
|---|{% for name in found %}---|{% endfor %}---|
{% for skill in skills -%}
| {{ skill }} |{% for m in found.values() %} {{ "%.3f"|format(m.skills[skill].accuracy) }} |{% endfor %} {{ "%.3f"|format(first.skills[skill].blind) }} |
{% endfor -%}
| **mean** |{% for m in found.values() %} **{{ "%.3f"|format(m.accuracy) }}** |{% endfor %} {{ "%.3f"|format(first.blind) }} |
{% for family in first.features %}
| tokens of {{ family }} |{% for name in found %} {{ name }} |{% endfor %}
|---|{% for name in found %}---|{% endfor %}
{% for text, value in rows.items() -%}
| {{ text }} |{% for m in found.values() %} {{ value(m.features[family]) }} |{% endfor %}
{% endfor -%}
{% endfor %}
| joint space, training |{% for name in found %} {{ name }} |{% endfor %}
|---|{% for name in found %}---|{% endfor %}
| captions that find their image among {{ first.joint.group }} |{% for m in found.values() %} {{ "%.0f"|format(100 * m.joint.retrieval) }} % |{% endfor %}
| cosine of a thing's patches with its name, against other patches |{% for m in found.values() %} {{ "%+.3f"|format(m.joint.patch_gap) }} |{% endfor %}
| steps: language, vision, whole |{% for m in found.values() %} {{ m.steps.values()|join(", ") }} |{% endfor %}
| hours |{% for m in found.values() %} {{ "%.1f"|format(m.hours) }} |{% endfor %}
{% for name, m in found.items() if m.notes %}
*{{ name }}:* {{ m.notes }}
{% endfor %}"""
)


def _row(key: str, form: str = "{:.2f}"):
    return lambda f: form.format(f[key]) if key in f else "–"


def _three(key: str, form: str):
    return lambda f: " / ".join(form.format(f[key][share]) for share in ("90", "95", "99"))


_ROWS = {
    "median norm of projected tokens": _row("token_norm"),
    "the same over that of words": _row("norm_ratio"),
    "largest norm of a scene over its median": _row("largest_over_median_norm"),
    "norm as a detector of things and digits (area under the curve; 0.5: it tells nothing)": _row("norm_auc"),
    "mean cosine of two tokens of a scene": _row("mean_cosine"),
    "directions for 90 / 95 / 99 % of a scene's energy": _three("directions", "{:.1f}"),
    "least over scenes": _three("directions_least", "{}"),
}


def write_card(measured: dict, path: Path) -> None:
    """Render the card from what `evaluate.measure` gave and how the model was trained."""
    families = {f: [s for s in names if s in SKILLS] for f, names in FAMILIES.items()}
    path.write_text(_CARD.render(m=measured, families=families, rows=_ROWS))


def write_table(found: dict[str, dict], path: Path) -> None:
    """Write the table of models side by side, the shipped one first; what `evaluate.measure` gave of each, by name."""
    first = next(iter(found.values()))
    skills = [s for names in FAMILIES.values() for s in names if s in SKILLS]
    path.write_text(_TABLE.render(found=found, first=first, count=first["scenes"], skills=skills, rows=_ROWS))
