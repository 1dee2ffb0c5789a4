"""What a trained model can do and what its visual features look like: the numbers of the model card."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import torch
from tqdm import tqdm

from .. import scenes, study
from ..scenes import Scene


def prompts(scene: Scene) -> list[str]:
    return [f"<image> {q.text}" for q in scene.questions]


def ask(model, processor, scene: Scene) -> tuple[list[str], torch.Tensor]:
    """The model's one-word answers to all questions of a scene, and the projected visual tokens (144, 256)."""
    texts = prompts(scene)
    inputs = processor(images=[scene.image] * len(texts), text=texts, padding=True, return_tensors="pt")
    pixels = inputs.pop("pixel_values")[:1]
    with torch.no_grad():
        features = model.model.get_image_features(pixels, return_dict=True)
        rows = features.pooler_output[0]
        repeated = type(features)(pooler_output=[rows] * len(texts))
        out = model.generate(**inputs, mm_encoder_outputs={"image": repeated}, max_new_tokens=1)
    words = processor.tokenizer.convert_ids_to_tokens(out[:, -1])
    return words, rows


def blind_answers(first: int = 0, count: int = 3000) -> dict[str, str]:
    """The most frequent answer to every question text, over training scenes: the best guess without eyes."""
    seen: dict[str, Counter] = defaultdict(Counter)
    for seed in tqdm(range(first, first + count), desc="blind baseline", unit="scene"):
        for q in scenes.make(seed, "train").questions:
            seen[q.text][q.answer] += 1
            seen[q.skill][q.answer] += 1
    return {text: answers.most_common(1)[0][0] for text, answers in seen.items()}


def directions(rows: torch.Tensor, share: float) -> int:
    """How many singular directions hold ``share`` of the (uncentred) energy of a scene's tokens (n, d)."""
    energy = torch.linalg.svdvals(rows.double()).square()
    return int((energy.cumsum(0) < share * energy.sum()).sum()) + 1


def measure(model, processor, count: int = 500, split: str = "test", blind_scenes: int = 3000) -> dict:
    """Accuracy per skill with the blind baseline beside it, and the spectrum and scale of the features."""
    blind = blind_answers(count=blind_scenes)
    right, guessed, asked = Counter(), Counter(), Counter()
    norms, ranks, cosines, outliers = [], {90: [], 95: [], 99: []}, [], []
    for seed in tqdm(range(count), desc=f"{split} scenes", unit="scene"):
        scene = scenes.make(seed, split)
        words, rows = ask(model, processor, scene)
        for q, word in zip(scene.questions, words, strict=True):
            asked[q.skill] += 1
            right[q.skill] += word == q.answer
            guessed[q.skill] += blind.get(q.text, blind[q.skill]) == q.answer
        length = rows.norm(dim=1)
        norms.append(length.median().item())
        outliers.append((length.max() / length.median()).item())
        unit = rows / length[:, None]
        cosines.append(((unit @ unit.T).sum() - len(unit)).item() / (len(unit) * (len(unit) - 1)))
        for share, found in ranks.items():
            found.append(directions(rows, share / 100))
    used = [processor.tokenizer.convert_tokens_to_ids(w) for w in scenes.WORDS]
    word_norm = model.get_input_embeddings().weight[used].norm(dim=1).median().item()
    skills = {
        s: {"questions": asked[s], "accuracy": right[s] / asked[s], "blind": guessed[s] / asked[s]}
        for s in scenes.SKILLS
    }
    return {
        "split": split,
        "scenes": count,
        "questions": sum(asked.values()),
        "skills": skills,
        "accuracy": float(np.mean([skills[s]["accuracy"] for s in study.QUESTIONS])),
        "blind": float(np.mean([skills[s]["blind"] for s in study.QUESTIONS])),
        "accuracy_all": float(np.mean([s["accuracy"] for s in skills.values()])),
        "blind_all": float(np.mean([s["blind"] for s in skills.values()])),
        "studied": list(study.QUESTIONS),
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": scenes.GRID**2,
        "features": {
            "token_norm": float(np.median(norms)),
            "word_norm": word_norm,
            "norm_ratio": float(np.median(norms)) / word_norm,
            "largest_over_median_norm": float(np.mean(outliers)),
            "mean_cosine": float(np.mean(cosines)),
            "directions": {str(k): float(np.mean(v)) for k, v in ranks.items()},
            "directions_least": {str(k): int(np.min(v)) for k, v in ranks.items()},
        },
    }
