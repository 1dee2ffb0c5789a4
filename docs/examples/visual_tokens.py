"""
Pruning the visual tokens of a model
====================================

The reference model of this repository answers questions about small scenes and sees 144 tokens of each. Three rules keep
18 of them, and the model answers from what is left. It needs the ``vlm`` and ``study`` extras and a checkout.
"""

import matplotlib.pyplot as plt
import torch

import vlm_bridge
from analysis import reference, scenes

model, processor = reference.load()
scene = scenes.make(3)
question = scene.questions[0]
inputs = processor(images=[scene.image], text=[f"<image> {question.text}"], return_tensors="pt")
print(question.text, "->", question.answer)

# %%
kept, answers = {}, {}
for method in ("spare", "divprune", "random"):
    with (
        vlm_bridge.prune(model, keep=18, method=method, processor=processor, rng=0) as report,
        torch.no_grad(),
    ):
        out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    kept[method] = report.kept[0]
    answers[method] = processor.batch_decode(
        out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )[0]
    print(f"{method:9s} {answers[method]!r}, relative error {float(report.errors[0]):.3f}")

# %%
# Bright cells are the tokens that the model still sees.

fig, axes = plt.subplots(1, 3, figsize=(7, 2.6), layout="constrained")
for ax, (method, indices) in zip(axes, kept.items(), strict=True):
    seen = torch.full((144,), 0.25)
    seen[indices] = 1.0
    light = seen.reshape(12, 12).numpy()
    ax.imshow(scene.image)
    ax.imshow(
        1 - light,
        cmap="gray_r",
        alpha=0.75 * (1 - light),
        extent=(0, *scene.image.size, 0),
        interpolation="nearest",
    )
    ax.set_title(f"{method}: {answers[method]}", fontsize=9)
    ax.set_axis_off()
plt.show()
