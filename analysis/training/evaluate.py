"""What a trained model can do and what its visual features look like: the numbers of the model card."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from analysis import scenes
from analysis.scenes import PATCH_SKILLS, TRANSCRIPTIONS, Scene, patch_words
from analysis.scenes.questions import ROWS
from analysis.training.captions import caption

PICTURES = 200  # that are transcribed of each family, at the most


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


def transcribe(model, processor, scene: Scene) -> np.ndarray:
    """Return which words of a scene's transcription (12, 12) the model gives, each after the right words before it in its row."""
    words = patch_words(scene)
    texts = [f"<image> transcribe {row} {' '.join(line)}" for row, line in zip(ROWS, words, strict=True)]
    inputs = processor(images=[scene.image] * len(texts), text=texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        said = model(**inputs).logits[:, -len(ROWS) - 1 : -1].argmax(-1)
    return (said == inputs["input_ids"][:, -len(ROWS) :]).numpy()


def patch_questions(model, processor, count: int, split: str, blind_scenes: int = 300) -> dict:
    """Return, for each family, how well the model answers what every patch matters to: brighter sides, and transcriptions.

    ``side`` and ``words`` are accuracies of one answer and of one word after the right words before it, ``rows`` the share of
    rows without a fault; ``blind`` says what follows the word before most often in training scenes.
    """
    found = {}
    for family, names in scenes.FAMILIES.items():
        follows: dict[str, Counter] = defaultdict(Counter)
        for seed in range(blind_scenes):
            for line in patch_words(scenes.make(seed, "train", {}, family)):
                for before, word in zip(["", *line], line, strict=False):
                    follows[before][word] += 1
        single = {name: 2 for name in names if name in PATCH_SKILLS and name not in TRANSCRIPTIONS}
        sides, right, guessed = [], [], []
        for seed in tqdm(range(count), desc=f"patches of {family}", unit="scene"):
            scene = scenes.make(seed, split, single, family)
            answers = ask(model, processor, scene)[0] if scene.questions else []  # a scene may allow none
            sides += [word == q.answer for word, q in zip(answers, scene.questions, strict=True)]
            right.append(transcribe(model, processor, scene))
            for line in patch_words(scene):
                guessed += [
                    follows[before].most_common(1)[0][0] == word if follows[before] else False
                    for before, word in zip(["", *line], line, strict=False)
                ]
        found[family] = {
            "side": float(np.mean(sides)) if sides else float("nan"),
            "sides": len(sides),
            "words": float(np.mean(right)),
            "rows": float(np.mean([each.all(1) for each in right])),
            "blind": float(np.mean(guessed)),
            "scenes": count,
        }
    return found


def shown(scene: Scene) -> np.ndarray:
    """Return which patches (144,) show part of a thing or a digit."""
    found = scene.owner >= 0
    for mark in scene.marks:
        found[mark.patch] = True
    return found.reshape(-1)


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
            seen.add(rows, shown(scene))
            pairs.append((scene, caption(scene, np.random.default_rng(seed))))
    known = processor.tokenizer.get_vocab()
    used = [known[w] for w in scenes.WORDS if w in known]
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
        "patches": patch_questions(model, processor, min(count, PICTURES), split)
        if "transcribe" in known
        else None,
    }


class Features:
    """Norms, angles and spectra of the projected tokens of scenes."""

    def __init__(self) -> None:
        self.norms, self.outliers, self.cosines = [], [], []
        self.lengths, self.shown = [], []
        self.ranks: dict[int, list[int]] = {90: [], 95: [], 99: []}

    def add(self, rows: torch.Tensor, shown: np.ndarray) -> None:
        """Add the tokens (n, d) of one scene, and which of them (n,) show a thing or a digit."""
        length = rows.norm(dim=1)
        self.lengths += length.tolist()
        self.shown += shown.tolist()
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
            "norm_auc": float(roc_auc_score(self.shown, self.lengths)),
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
