"""What a trained model can do and what its visual features look like: the numbers of the model card."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import torch
from tqdm import tqdm

from analysis import scenes
from analysis.scenes import Scene
from analysis.training.captions import caption


def prompts(scene: Scene) -> list[str]:
    """Return the prompts of a scene, one a question."""
    return [f"<image> {q.text}" for q in scene.questions]


def ask(model, processor, scene: Scene) -> tuple[list[str], torch.Tensor]:
    """Return the model's one-word answers to all questions of a scene, and the projected visual tokens (144, 256)."""
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


def blind_answers(first: int = 0, count: int = 3000) -> dict[tuple[str, str], str]:
    """Return the most frequent answer to every (family, question text), over training scenes: the best guess without eyes."""
    seen: dict[tuple[str, str], Counter] = defaultdict(Counter)
    for seed in tqdm(range(first, first + count), desc="blind baseline", unit="scene"):
        for family in scenes.FAMILIES:
            for q in scenes.make(seed, "train", family=family).questions:
                seen[family, q.text][q.answer] += 1
                seen[family, q.skill][q.answer] += 1
    return {text: answers.most_common(1)[0][0] for text, answers in seen.items()}


def directions(rows: torch.Tensor, share: float) -> int:
    """Return how many singular directions hold ``share`` of the (uncentred) energy of a scene's tokens (n, d)."""
    energy = torch.linalg.svdvals(rows.double()).square()
    return int((energy.cumsum(0) < share * energy.sum()).sum()) + 1


def measure(
    model, processor, clip=None, count: int = 500, split: str = "test", blind_scenes: int = 3000
) -> dict:
    """Measure the accuracy per skill with the blind baseline beside it, the spectrum and scale of the features, the joint space.

    ``count`` scenes of each family; ``clip`` is the pair (CLIPModel, tokenizer) of `reference.clip`.
    """
    blind = blind_answers(count=blind_scenes)
    right, guessed, asked = Counter(), Counter(), Counter()
    features = {family: Features() for family in scenes.FAMILIES}
    pairs = []
    for seed in tqdm(range(count), desc=f"{split} scenes", unit="scene"):
        for family, seen in features.items():
            scene = scenes.make(seed, split, family=family)
            words, rows = ask(model, processor, scene)
            for q, word in zip(scene.questions, words, strict=True):
                asked[q.skill] += 1
                right[q.skill] += word == q.answer
                guessed[q.skill] += blind.get((family, q.text), blind[family, q.skill]) == q.answer
            seen.add(rows)
            pairs.append((scene, caption(scene, np.random.default_rng(seed))))
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
        "families": {
            family: {
                key: float(np.mean([skills[s][key] for s in names if s in skills]))
                for key in ("accuracy", "blind")
            }
            for family, names in scenes.FAMILIES.items()
        },
        "accuracy": float(np.mean([s["accuracy"] for s in skills.values()])),
        "blind": float(np.mean([s["blind"] for s in skills.values()])),
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": scenes.GRID**2,
        "features": {family: seen.summary(word_norm) for family, seen in features.items()},
        "joint": None if clip is None else joint_space(*clip, pairs),
    }


class Features:
    """Norms, angles and spectra of the projected tokens of scenes."""

    def __init__(self) -> None:
        self.norms, self.outliers, self.cosines = [], [], []
        self.ranks: dict[int, list[int]] = {90: [], 95: [], 99: []}

    def add(self, rows: torch.Tensor) -> None:
        """Add the tokens (n, d) of one scene."""
        length = rows.norm(dim=1)
        self.norms.append(length.median().item())
        self.outliers.append((length.max() / length.median()).item())
        unit = rows / length[:, None]
        self.cosines.append(((unit @ unit.T).sum() - len(unit)).item() / (len(unit) * (len(unit) - 1)))
        for share, found in self.ranks.items():
            found.append(directions(rows, share / 100))

    def summary(self, word_norm: float) -> dict:
        """Return the means over scenes, the medians of norms."""
        return {
            "token_norm": float(np.median(self.norms)),
            "word_norm": word_norm,
            "norm_ratio": float(np.median(self.norms)) / word_norm,
            "largest_over_median_norm": float(np.mean(self.outliers)),
            "mean_cosine": float(np.mean(self.cosines)),
            "directions": {str(k): float(np.mean(v)) for k, v in self.ranks.items()},
            "directions_least": {str(k): int(np.min(v)) for k, v in self.ranks.items()},
        }


def joint_space(clip, tokenizer, pairs: list[tuple[Scene, str]], group: int = 50) -> dict:
    """Return how well captions and images find each other among `group`, and what patches score with the word for them.

    ``patch_gap`` is the mean cosine, with the caption "the COLOUR SHAPE", of the patches of that object less that of all
    others, over one object a scene: negative where, as in large models, matching patches have the lower score.
    """
    from analysis.training.codes import normalise

    found, gaps = [], []
    with torch.no_grad():
        for first in range(0, len(pairs) - group + 1, group):
            some = pairs[first : first + group]
            pixels = normalise(torch.from_numpy(np.stack([scene.pixels for scene, _ in some])))
            seen = clip.vision_model(pixels)
            image = unit(clip.visual_projection(seen.pooler_output))
            text = unit(_text(clip, tokenizer, [words for _, words in some]))
            own = torch.arange(len(some))
            found.append(((image @ text.T).argmax(1) == own).float().mean().item())
            patches = clip.visual_projection(clip.vision_model.post_layernorm(seen.last_hidden_state[:, 1:]))
            for (scene, _), rows in zip(some, unit(patches), strict=True):
                if not scene.things:
                    continue
                thing = scene.things[0]
                score = rows @ unit(_text(clip, tokenizer, [f"the {thing.colour} {thing.shape}"]))[0]
                mine = torch.from_numpy(scene.owner.reshape(-1) == 0)
                if mine.any():
                    gaps.append((score[mine].mean() - score[~mine].mean()).item())
    return {"retrieval": float(np.mean(found)), "group": group, "patch_gap": float(np.mean(gaps))}


def _text(clip, tokenizer, texts: list[str]) -> torch.Tensor:
    return clip.get_text_features(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output


def unit(rows: torch.Tensor) -> torch.Tensor:
    """Return the rows divided by their norms."""
    return rows / rows.norm(dim=-1, keepdim=True)
