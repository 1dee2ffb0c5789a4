"""The slow reference for pruning inside the LLM: full length, no cache, eager attention, a mask per layer.

Dropped tokens stay in the sequence and are masked out from their layer on; merged tokens are appended at the
end, at the positions and with the causal rank of their places. The reference makes its own choices, from full
attention maps, in plain Python.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from tiny_vlm import IMAGE, positions_of
from transformers import DynamicCache


@dataclass
class State:
    """What a rule may look at before a stage: everything is (batch, ..., columns)."""

    layer: int
    hidden: torch.Tensor
    own: torch.Tensor
    before: torch.Tensor
    keys: torch.Tensor
    entered: torch.Tensor
    normed: torch.Tensor
    rotary: tuple
    text: list
    alive: list


@dataclass
class Found:
    tokens: torch.Tensor
    logits: torch.Tensor
    lengths: list = field(default_factory=list)
    kept: list = field(default_factory=list)


def image_columns(inputs, sizes):
    """(row, columns) of every image."""
    places = (inputs["input_ids"] == IMAGE).nonzero()
    return [(int(span[0, 0]), span[:, 1].tolist()) for span in places.split(sizes)]


def entering(model, inputs):
    """Embeddings, positions (axes, B, L) and rows to add behind layers, with which the decoder is called."""
    seen = {}

    def look(module, args, kwargs):
        seen.update(kwargs)

    handle = model.model.language_model.register_forward_pre_hook(look, with_kwargs=True)
    model(**inputs, use_cache=False)
    handle.remove()
    positions = seen["position_ids"]
    if positions is None or positions.ndim == 2:
        positions = positions_of(inputs["attention_mask"])[None]
    added = []
    for rows in seen.get("deepstack_visual_embeds") or ():
        added.append(torch.zeros_like(seen["inputs_embeds"]))
        added[-1][seen["visual_pos_masks"]] = rows
    return seen["inputs_embeds"], positions[-3:], added


@torch.no_grad()
def reference(model, inputs, sizes, stages, rule, steps=12, compact=False):
    """Greedy tokens, logits, tokens per layer and the kept rows of every image after every stage.

    ``rule(stage, image, state) -> (kept, merged)``: rows of the image that stay as they are, and pairs (row at
    whose place, rows whose mean) for those that are merged.
    """
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    images = image_columns(inputs, sizes)
    embeds, positions, added = entering(model, inputs)
    mask = inputs["attention_mask"].bool()
    choices: dict = {}
    tokens, logits, lengths = [], [], None
    start = positions.amax((0, 2)) + 1
    for step in range(steps):
        out, alive = _forward(
            model, embeds, positions, mask, added, images, stages, rule, choices, step, compact
        )
        lengths = alive if lengths is None else lengths
        logits.append(out)
        tokens.append(out.argmax(-1))
        embeds = torch.cat([embeds, model.get_input_embeddings()(tokens[-1])[:, None]], 1)
        new = (start + step)[None, :, None].expand(len(positions), -1, 1)
        positions = torch.cat([positions, new], 2)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    kept = [[sorted(k + [c for c, _ in m]) for k, m in choices[s]] for s in range(len(stages))]
    return Found(torch.stack(tokens, 1), torch.stack(logits, 1), lengths, kept)


def _bias(alive, rank, dtype):
    seen = alive[:, None] & (rank[:, :, None] >= rank[:, None])
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def _attend(layer, hidden, bias, rotary, cache):
    return layer.self_attn(
        hidden_states=layer.input_layernorm(hidden),
        attention_mask=bias,
        position_embeddings=rotary,
        past_key_values=cache,
    )


def _forward(model, hidden, positions, mask, added, images, stages, rule, choices, step, compact):
    decoder = model.model.language_model
    alive, width = mask.clone(), hidden.shape[1]
    rank = torch.arange(width).expand(mask.shape)
    entered, maps, keys, lengths = hidden, None, None, []
    rows = [list(range(len(columns))) for _, columns in images]
    column = [dict(enumerate(columns)) for _, columns in images]
    text = [
        [
            c
            for c in range(width - step)
            if mask[row, c] and not any(row == r and c in cs for r, cs in images) and c > columns[-1]
        ]
        for row, columns in images
    ]
    for index, layer in enumerate(decoder.layers):
        rotary = decoder.rotary_emb(hidden, _axes(positions))
        if index in stages:
            stage = stages.index(index)
            if step == 0:
                _, own = _attend(layer, hidden, _bias(alive, rank, hidden.dtype), rotary, None)
                normed = decoder.norm(hidden)
                state = State(index, hidden, own, maps, keys, entered, normed, rotary, text, alive)
                choices[stage] = [rule(stage, i, state, rows[i], column[i]) for i in range(len(images))]
            hidden, positions, alive, rank = _cut(
                choices[stage], images, rows, column, hidden, positions, alive, rank
            )
            if compact:
                positions = (alive[:, None] & (rank[:, :, None] > rank[:, None])).sum(-1)[None]
            rotary = decoder.rotary_emb(hidden, _axes(positions))
        cache = DynamicCache()
        for before in range(index):
            cache.update(hidden[:, None, :0], hidden[:, None, :0], before)
        out, maps = _attend(layer, hidden, _bias(alive, rank, hidden.dtype), rotary, cache)
        keys = cache.layers[index].keys
        hidden = hidden + out
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        if index < len(added):
            hidden[:, : added[index].shape[1]] += added[index]
        lengths.append(alive.sum(1).tolist())
    return model.lm_head(decoder.norm(hidden[:, width - 1])), lengths


def _axes(positions):
    return positions if len(positions) == 3 else positions[0]


def _cut(chosen, images, rows, column, hidden, positions, alive, rank):
    """Mask dropped tokens out; append merged ones, and dead columns where a row has fewer."""
    alive = alive.clone()
    added = [[] for _ in range(len(hidden))]
    for i, ((row, _), (kept, merged)) in enumerate(zip(images, chosen, strict=True)):
        new = {}
        for centre, members in merged:
            mean = hidden[row, [column[i][j] for j in members]].mean(0)
            new[centre] = hidden.shape[1] + len(added[row])
            added[row].append((mean, column[i][centre]))
        for j in rows[i]:
            alive[row, column[i][j]] = j in kept
        rows[i][:] = sorted([*kept, *new])
        column[i] |= new
    most = max(map(len, added))
    if most == 0:
        return hidden, positions, alive, rank
    tail, at, live = (
        hidden.new_zeros(len(hidden), most, hidden.shape[2]),
        torch.zeros(len(hidden), most).long(),
        None,
    )
    live = torch.zeros(len(hidden), most, dtype=torch.bool)
    for row, rows_added in enumerate(added):
        for j, (mean, place) in enumerate(rows_added):
            tail[row, j], at[row, j], live[row, j] = mean, place, True
    positions = torch.cat([positions, positions.gather(2, at.expand(len(positions), -1, -1))], 2)
    return (
        torch.cat([hidden, tail], 1),
        positions,
        torch.cat([alive, live], 1),
        torch.cat([rank, rank.gather(1, at)], 1),
    )


def largest(scores, k):
    """Indices of the k largest; the lowest first where equal."""
    scores = [float(s) for s in scores]
    return sorted(range(len(scores)), key=lambda j: (-scores[j], j))[:k]


def last_token(images, counts, own):
    """FastV and PyramidDrop: attention of the last token, by the layer before or the layer's own."""

    def rule(stage, image, state, rows, column):
        row, _ = images[image]
        table = state.own if own else state.before
        last = int(state.alive[row].nonzero()[-1])
        score = [sum(float(head[last, column[j]]) for head in table[row]) for j in rows]
        return [rows[j] for j in largest(score, counts[image][stage])], []

    return rule


def pivots(images, keep, image_pivots=4, text_pivots=4):
    """DART."""

    def rule(stage, image, state, rows, column):
        row, columns = images[image]
        others = {c for r, cs in images for c in cs if r == row} - set(columns)
        free = [int(c) for c in state.alive[row].nonzero()[:, 0] if int(c) not in others]
        start, n = free.index(columns[0]), len(columns)
        norm = [float(state.keys[row, :, c].abs().sum()) for c in free]
        chosen = [start + j for j in largest(norm[start : start + n], min(image_pivots, keep))]
        texts = [start + n + j for j in largest(norm[start + n :], text_pivots)]
        turns = list(set(chosen + texts))
        left = [p for p in range(start, start + n) if p not in chosen]
        for turn, pivot in enumerate(turns):
            unlike = [
                -float(torch.cosine_similarity(*(state.normed[row, free[p]] for p in (pivot, q)), dim=0))
                for q in left
            ]
            share = (keep - min(image_pivots, keep)) // len(turns)
            share += turn < (keep - min(image_pivots, keep)) % len(turns)
            taken = [left[j] for j in largest(unlike, share)]
            chosen += taken
            left = [p for p in left if p not in taken]
        return sorted(p - start for p in chosen), []

    return rule


def raters(images, counts, clusters, version=1, heads=14):
    """SparseVLM: `counts[image][stage]` stay as they are, `clusters[image][stage]` are recycled."""

    def rule(stage, image, state, rows, column):
        row, columns = images[image]
        text = state.text[image]
        share = [0.0] * len(text)
        for c in columns:
            logits = torch.stack([state.entered[row, c] @ state.entered[row, t] for t in text])
            share = [a + float(b) for a, b in zip(share, torch.softmax(logits, 0), strict=True)]
        rate = [t for t, s in zip(text, share, strict=True) if s > sum(share) / len(share)]
        table = state.before[row]
        if version == 2:
            cos, sin = (part[row if len(part) > 1 else 0] for part in state.rotary)
            half = cos.shape[1] // 2
            ones = torch.cat([cos[:, :half] - sin[:, :half], cos[:, half:] + sin[:, half:]], 1)
            table = table / (ones @ ones.mT / cos.shape[1] ** 0.5)
            paid = [sum(float(h[t, column[j]]) for t in rate for j in rows) for h in table]
            table = table[largest(paid, heads)]
        score = [sum(float(h[t, column[j]]) for h in table for t in rate) for j in rows]
        order = [rows[j] for j in largest(score, len(rows))]
        k, r = counts[image][stage], clusters[image][stage]
        if r == 0:
            return sorted(order[:k]), []
        pool = order[k:][: int(0.3 * (len(rows) - k)) + 1]
        x = [state.hidden[row, column[j]] for j in pool]
        d = [[float((a - b).norm()) / len(a) ** 0.5 for b in x] for a in x]
        dense = [-sum(v * v for v in sorted(line)[:r]) / r for line in d]
        far = max(map(max, d))
        height = []
        for a in range(len(x)):
            denser = [
                d[a][b]
                for b in range(len(x))
                if dense[b] > dense[a] + 1e-12 or (abs(dense[b] - dense[a]) <= 1e-12 and b < a)
            ]
            height.append(min([far, *denser]))
        centres = largest([h * torch.tensor(q).exp() for h, q in zip(height, dense, strict=True)], r)
        members: dict = {c: [] for c in centres}
        for b in range(len(x)):
            members[b if b in centres else min(centres, key=lambda c: (d[c][b], centres.index(c)))].append(b)
        return sorted(order[:k]), [(pool[c], [pool[b] for b in m]) for c, m in members.items()]

    return rule
