"""Take a batch of prompts through the decoder: cut tokens before some layers, and restore the full length at the end.

This module works on the arguments that decoder layers are called with. `vlm_bridge.live.inside.layers` connects it to a
model by hooks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.live.inside.attention import Entering, key_states, rotary_gravity
from vlm_bridge.live.inside.image import Image, with_merged
from vlm_bridge.live.inside.segments import Segment, take
from vlm_bridge.model.layout import following
from vlm_bridge.model.prompt import Prompt
from vlm_bridge.pruners.plan import Pruner
from vlm_bridge.reporting.report import Cut


class Passage:
    """A batch of prompts on its way through the decoder, whose images are cut there.

    Parameters
    ----------
    decoder : nn.Module
        The text decoder.
    pruner : Pruner
    options : mapping
        Options of its plan.
    positions : {"keep", "compact"}
    form : {"2d", "4d"}
        Form of masks, as in `Segment.mask`.
    images : list of Image
        The images of all items of the batch.
    copies : int
        Number of neighbouring items that are copies of one prompt, as in beam search. They share the first one's choice.
    """

    def __init__(
        self,
        decoder: Any,
        pruner: Pruner,
        options: Mapping[str, Any],
        positions: str,
        form: str,
        images: Sequence[Image],
        copies: int,
    ) -> None:
        assert pruner.inside is not None
        self.decoder, self.pruner, self.inside = decoder, pruner, pruner.inside
        self.options, self.positions, self.form = dict(options), positions, form
        self.images, self.copies = list(images), copies
        self.layers = tuple(stage.layer for stage in images[0].stages)
        self.segments: dict[int, Segment] = {}
        self.reported = self.decoding = False
        self.places: tuple[Tensor, bool]
        self._seen: Entering | None = None
        self._full: Tensor | None = None
        self._made: tuple[Any, ...] = ()

    def begin(self, prompt: Prompt) -> None:
        """Start on a prompt, for the first time or again; without a cache each step brings the longer prompt anew."""
        self.prompt, self.first = prompt, Segment.full(prompt.mask)
        self.current, self.segments = self.first, {}
        self.decoding = False

    def places_at(self, past: int, count: int) -> Tensor:
        """Return positions (B, count) or (axes, B, count) of the prompt, or of what follows `past` tokens."""
        places, text_axis = self.places
        if past == 0:
            return places
        return following(places, self.prompt.mask, text_axis, past - places.shape[-1], count)

    def finish(self) -> None:
        """Drop the tensors of a call that has ended."""
        self._seen, self._full, self._made = None, None, ()

    def before(
        self, index: int, layer: Any, hidden: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return hidden states and arguments that layer `index` gets instead of its own."""
        if self.decoding:
            return hidden, self._continued(index, hidden, kwargs)
        if index == 0 and self.inside.raters is not None:
            self._rate(hidden)
        if index in self.layers:
            hidden = self._cut(index, Entering(layer, hidden, *self._read(kwargs, hidden)))
        new = self._shortened(kwargs, hidden)
        if index + 1 in self.layers:
            rotary, mask, segment = self._read(kwargs, hidden)
            self._seen = Entering(layer, hidden.detach(), rotary, mask, segment)
        return hidden, new

    def after_last(self, hidden: Tensor) -> Tensor:
        """Restore the full length of the last layer's output (B, L, d).

        The place of a dropped token holds the state that it had when it was dropped; padding holds that of the first cut.
        """
        if self.decoding or self.current is self.first:
            return hidden
        return self._put_back(hidden)

    def _put_back(self, hidden: Tensor) -> Tensor:
        """Write the hidden states of the current segment into those of the full prompt."""
        assert self._full is not None
        rows, places = self.current.valid.nonzero(as_tuple=True)
        columns = self.current.source[rows, places]
        return self._full.index_put((rows, columns), hidden[rows, places])

    def _read(
        self, kwargs: Mapping[str, Any], hidden: Tensor
    ) -> tuple[tuple[Tensor, Tensor], Tensor | None, Segment]:
        """Return rotary positions, mask and segment of the current run of layers, gathered once for each run."""
        given, mask, segment = kwargs.get("position_embeddings"), kwargs.get("attention_mask"), self.current
        if not (isinstance(given, tuple) and len(given) == 2 and getattr(given[0], "ndim", 0) == 3):
            raise BridgeError(
                f"{type(self.decoder).__name__} gives its layers no pair (cosine, sine) of position embeddings, which pruning "
                "inside the LLM reads. Use a pruner that acts before the LLM, such as 'spare'."
            )
        if segment is self.first:
            return given, mask, segment
        if self._made[:3] and all(
            a is b for a, b in zip(self._made[:3], (given, mask, segment), strict=True)
        ):
            return self._made[3], self._made[4], segment
        if self.positions == "compact":
            rotary = self.decoder.rotary_emb(hidden, segment.packed)
        else:
            batch = len(segment.source)
            cos, sin = (take(part.expand(batch, -1, -1), segment.source, 1) for part in given)
            rotary = (cos, sin)
        width = segment.source.shape[1]
        made = segment.mask(mask, width, width, self.form)
        self._made = (given, mask, segment, rotary, made)
        return rotary, made, segment

    def _shortened(self, kwargs: dict[str, Any], hidden: Tensor) -> dict[str, Any]:
        """Cut a layer's arguments to the current segment.

        Only attention kernels read `position_ids`, and they take gaps for borders of packed sequences; so these are
        passed without gaps.
        """
        if self.current is self.first:
            return kwargs
        rotary, mask, segment = self._read(kwargs, hidden)
        whole = (len(segment.source), segment.length)
        by_token = {  # such as the types of tokens, which choose experts
            name: take(value, segment.source, 1)
            for name, value in kwargs.items()
            if isinstance(value, Tensor) and value.ndim >= 2 and tuple(value.shape[:2]) == whole
        }
        new = {**kwargs, **by_token, "position_embeddings": rotary, "attention_mask": mask}
        if isinstance(kwargs.get("position_ids"), Tensor):
            new["position_ids"] = segment.packed
        if isinstance(kwargs.get("cache_position"), Tensor):
            new["cache_position"] = kwargs["cache_position"][: segment.source.shape[1]]
        return new

    def _continued(self, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Adapt a layer's arguments in a decoding step on the cache."""
        segment = self._segment_of(index)
        if segment is self.first:
            return kwargs
        if hidden.shape[0] != len(segment.source):
            raise BridgeError(
                f"{hidden.shape[0]} sequences continue a cache of {len(segment.source)} prompts: expected one for each prompt."
            )
        past = kwargs["past_key_values"].get_seq_length(index)
        new = hidden.shape[1]
        mask = segment.mask(kwargs.get("attention_mask"), new, past + new, self.form)
        adapted = {**kwargs, "attention_mask": mask}
        if self.positions == "compact":
            steps = torch.arange(past, past + new, device=hidden.device)
            padding = (~segment.valid).sum(1, keepdim=True).to(hidden.device)
            adapted["position_embeddings"] = self.decoder.rotary_emb(hidden, steps - padding)
        return adapted

    def _segment_of(self, index: int) -> Segment:
        """Return the segment that layer `index` works on."""
        reached = [layer for layer in self.layers if layer <= index]
        return self.segments[reached[-1]] if reached else self.first

    def _cut(self, index: int, entering: Entering) -> Tensor:
        """Choose, merge and drop tokens before layer `index`, and return the hidden states that remain."""
        stage, segment, hidden = self.layers.index(index), self.current, entering.hidden
        place = self._places(segment)
        stay, merged = segment.valid.clone(), hidden
        leaders: dict[int, list[Image]] = {}
        for image in self.images:
            mine = leaders.setdefault(image.item, [])
            mine.append(image)
            before = place[image.item, image.columns[image.remaining(stage).to(image.columns.device)]]
            if len(image.cuts) == stage:
                leader = image.item - image.item % self.copies
                if leader == image.item:
                    self._choose(stage, image, before, entering, place)
                else:
                    image.cuts.append(leaders[leader][len(mine) - 1].cuts[stage])
            cut = image.cuts[stage]
            kept = place[image.item, image.columns[cut.kept.to(image.columns.device)]]
            stay[image.item, before] = False
            stay[image.item, kept] = True
            if cut.merge is not None:
                merged = with_merged(merged, hidden, image.item, before, kept, cut.merge)
        self._full = hidden if self._full is None else self._put_back(hidden)
        if bool((stay != segment.valid).any()):
            self.current, index_of = segment.narrowed(stay)
            merged = take(merged, index_of, 1)
        self.segments[index] = self.current
        return merged

    def _places(self, segment: Segment) -> Tensor:
        """Return the place (B, L) in the segment of each column of the prompt; −1 where it was dropped."""
        place = torch.full_like(self.first.source, -1)
        rows, places = segment.valid.nonzero(as_tuple=True)
        place[rows, segment.source[rows, places]] = places
        return place

    def _rate(self, hidden: Tensor) -> None:
        """Find the raters of every image among the text tokens behind it, by the rows that enter the LLM."""
        assert self.inside.raters is not None
        for image in self.images:
            behind = self._text(image.item, int(image.columns[-1]) + 1)
            if len(behind) == 0:
                continue
            rows = hidden.detach()[image.item]
            chosen = self.inside.raters(rows[image.columns], rows[behind])
            image.raters = behind[chosen.to(behind.device)]

    def _text(self, item: int, start: int, stop: int | None = None) -> Tensor:
        """Return the columns of text from `start` to `stop` in an item: neither padding nor an image."""
        free = self.prompt.mask[item] & ~self.prompt.placeholders[item]
        free[:start] = False
        if stop is not None:
            free[stop:] = False
        return free.nonzero()[:, 0]

    @torch.no_grad()
    def _choose(self, stage: int, image: Image, before: Tensor, entering: Entering, place: Tensor) -> None:
        """Let the pruner choose tokens of one image, and append the cut to it."""
        wanted, left = image.stages[stage], image.remaining(stage)
        if wanted.keep >= len(left) and not wanted.options:
            image.cuts.append(Cut(wanted.layer, left))
            return
        signals = self._signals(image, before, entering, place)
        start = perf_counter()
        features = entering.hidden[image.item, before]
        plan = self.pruner.plan(
            features, min(wanted.keep, len(left)), None, **signals, **{**self.options, **wanted.options}
        )
        assert plan.indices is not None
        order = sorted(range(len(plan.indices)), key=plan.indices.__getitem__)
        kept = left[torch.tensor([plan.indices[j] for j in order])]
        merge = None if plan.merge is None else plan.merge[order]
        image.cuts.append(Cut(wanted.layer, kept, merge))
        image.seconds += perf_counter() - start

    def _signals(self, image: Image, before: Tensor, entering: Entering, place: Tensor) -> dict[str, Any]:
        """Compute the signals that the plan reads of one image."""
        ranking = entering if self.inside.ranks == "at" else self._seen
        assert ranking is not None
        signals: dict[str, Any] = {}
        if "attention" in self.pruner.reads:
            columns = image.raters
            if columns is None:
                columns = self.prompt.mask[image.item].nonzero()[-1]
            queries = place[image.item, columns]
            signals["attention"] = ranking.attention(image.item, queries, before)
            if self.inside.gravity:
                _, rotary = ranking.of_item(image.item)
                signals["gravity"] = rotary_gravity(ranking.layer, rotary, queries, before)
        if "keys" in self.pruner.reads:
            first = int(image.columns[0])
            front = place[image.item, self._text(image.item, 0, first)]
            behind = place[image.item, self._text(image.item, first)]
            order = torch.cat([front, before, behind])
            hidden, rotary = ranking.of_item(image.item)
            signals["keys"] = key_states(ranking.layer, hidden, rotary)[:, order]
            signals["hidden"] = self.decoder.norm(entering.hidden[image.item, order])
            signals["image_start"] = len(front)
        return signals
