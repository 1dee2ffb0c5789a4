"""One prompt on its way through the decoder: what is cut before which layer, and what comes out again.

Everything here works on the arguments that decoder layers are called with; `vlm_bridge.live.inside.layers` hangs it into
a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from vlm_bridge.errors import BridgeError
from vlm_bridge.live.inside.attention import attention_rows, key_states, rotary_gravity
from vlm_bridge.live.inside.segments import Segment, take, visible
from vlm_bridge.model.layout import following
from vlm_bridge.model.prompt import Prompt
from vlm_bridge.pruners.inside import Stage
from vlm_bridge.pruners.plan import Pruner
from vlm_bridge.reporting.report import Cut


@dataclass
class Image:
    """An image in a prompt.

    Attributes
    ----------
    row : int
        Of the batch.
    columns : Tensor (n,)
        Of the prompt.
    features : Tensor (n, d), optional
        The rows that enter the LLM.
    stages : tuple of Stage
        Empty for copies of a prompt, which follow the first.
    cuts : list of Cut
        What has been chosen, one for each stage that has been reached.
    seconds : float
        Time to choose.
    raters : Tensor, optional
        Columns of the text tokens whose attention is read.
    """

    row: int
    columns: Tensor
    features: Tensor | None = None
    stages: tuple[Stage, ...] = ()
    cuts: list[Cut] = field(default_factory=list)
    seconds: float = 0.0
    raters: Tensor | None = None

    def alive(self, stage: int) -> Tensor:
        """Rows of the image that are there before a stage, ascending."""
        return self.cuts[stage - 1].kept if stage else torch.arange(len(self.columns))

    def merge(self) -> Tensor | None:
        """Product of the cuts' merge matrices, (k, n); None where nothing was merged."""
        if all(cut.merge is None for cut in self.cuts):
            return None
        found = torch.eye(len(self.columns))
        for stage, cut in enumerate(self.cuts):
            step = cut.merge
            if step is None:
                step = (self.alive(stage) == cut.kept[:, None]).float()
            found = step.to(found) @ found
        return found


@dataclass(frozen=True)
class Entering:
    """What a layer is given, in its segment."""

    layer: Any
    hidden: Tensor
    rotary: tuple[Tensor, Tensor]
    mask: Tensor | None
    segment: Segment

    def of_row(self, row: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Hidden states (L', d) and rotary (L', head width) of one row."""
        cos, sin = (part[row if part.shape[0] > 1 else 0] for part in self.rotary)
        return self.hidden[row], (cos, sin)

    def attention(self, row: int, queries: Tensor, keys: Tensor) -> Tensor:
        """Attention (heads, Q, K) of places to places."""
        hidden, rotary = self.of_row(row)
        bias = visible(self.mask, self.segment, row, queries)
        return attention_rows(self.layer, hidden, rotary, bias, queries)[..., keys]


class Passage:
    """A batch of prompts whose images are cut inside the LLM.

    Parameters
    ----------
    decoder : text decoder
    row, options
        The pruner and the options of its plan.
    positions : {"keep", "compact"}
    form : {"2d", "4d"}
        As of `Segment.mask`.
    images : list of Image
        Of all rows of the batch.
    copies : int
        Neighbouring rows that are copies of one prompt, as in beam search: they share what the first chooses.
    """

    def __init__(
        self,
        decoder: Any,
        row: Pruner,
        options: Mapping[str, Any],
        positions: str,
        form: str,
        images: Sequence[Image],
        copies: int,
    ) -> None:
        assert row.inside is not None
        self.decoder, self.pruner, self.inside = decoder, row, row.inside
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
        """Start on a prompt: the first time, or again with tokens added where there is no cache."""
        self.prompt, self.first = prompt, Segment.full(prompt.mask)
        self.current, self.segments = self.first, {}
        self.decoding = False

    def places_at(self, past: int, count: int) -> Tensor:
        """Positions (B, count) or (axes, B, count) of the prompt, or of what follows on `past` tokens."""
        places, text_axis = self.places
        if past == 0:
            return places
        return following(places, self.prompt.mask, text_axis, past - places.shape[-1], count)

    def finish(self) -> None:
        """Let go of what one call has left behind."""
        self._seen, self._full, self._made = None, None, ()

    def before(
        self, index: int, layer: Any, hidden: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        """What layer `index` is to be given instead."""
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
        """The last layer's output put back to full length.

        Places whose token was dropped hold the state it had when it left, padding that of the first cut.
        """
        if self.decoding or self.current is self.first:
            return hidden
        return self._put_back(hidden)

    def _put_back(self, hidden: Tensor) -> Tensor:
        assert self._full is not None
        rows, places = self.current.valid.nonzero(as_tuple=True)
        columns = self.current.source[rows, places]
        return self._full.index_put((rows, columns), hidden[rows, places])

    def _read(
        self, kwargs: Mapping[str, Any], hidden: Tensor
    ) -> tuple[tuple[Tensor, Tensor], Tensor | None, Segment]:
        """Rotary, mask and segment of the current run of layers; gathered once for each."""
        given, mask, segment = kwargs.get("position_embeddings"), kwargs.get("attention_mask"), self.current
        if not (isinstance(given, tuple) and len(given) == 2 and getattr(given[0], "ndim", 0) == 3):
            raise BridgeError(
                f"{type(self.decoder).__name__} gives its layers no pair (cosine, sine) of position embeddings."
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
        """Arguments for the current segment.

        `position_ids` go to the attention kernels only, which read gaps in them as borders of packed
        sequences: they are given without gaps.
        """
        if self.current is self.first:
            return kwargs
        rotary, mask, segment = self._read(kwargs, hidden)
        whole = (len(segment.source), segment.length)
        beside = {
            name: take(
                value, segment.source, 1
            )  # what a layer is told of every token, as the types of experts
            for name, value in kwargs.items()
            if isinstance(value, Tensor) and value.ndim >= 2 and tuple(value.shape[:2]) == whole
        }
        new = {**kwargs, **beside, "position_embeddings": rotary, "attention_mask": mask}
        if isinstance(kwargs.get("position_ids"), Tensor):
            new["position_ids"] = segment.packed
        if isinstance(kwargs.get("cache_position"), Tensor):
            new["cache_position"] = kwargs["cache_position"][: segment.source.shape[1]]
        return new

    def _continued(self, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a decoding step on the cache."""
        segment = self._segment_of(index)
        if segment is self.first:
            return kwargs
        if hidden.shape[0] != len(segment.source):
            raise BridgeError(f"{hidden.shape[0]} sequences continue a cache of {len(segment.source)}.")
        past = kwargs["past_key_values"].get_seq_length(index)
        new = hidden.shape[1]
        mask = segment.mask(kwargs.get("attention_mask"), new, past + new, self.form)
        found = {**kwargs, "attention_mask": mask}
        if self.positions == "compact":
            steps = torch.arange(past, past + new, device=hidden.device)
            padding = (~segment.valid).sum(1, keepdim=True).to(hidden.device)
            found["position_embeddings"] = self.decoder.rotary_emb(hidden, steps - padding)
        return found

    def _segment_of(self, index: int) -> Segment:
        reached = [layer for layer in self.layers if layer <= index]
        return self.segments[reached[-1]] if reached else self.first

    def _cut(self, index: int, entering: Entering) -> Tensor:
        """Choose, merge and drop before layer `index`; hidden states of what stays."""
        stage, segment, hidden = self.layers.index(index), self.current, entering.hidden
        place = self._places(segment)
        stay, merged = segment.valid.clone(), hidden
        leaders: dict[int, list[Image]] = {}
        for image in self.images:
            mine = leaders.setdefault(image.row, [])
            mine.append(image)
            before = place[image.row, image.columns[image.alive(stage).to(image.columns.device)]]
            if len(image.cuts) == stage:
                leader = image.row - image.row % self.copies
                if leader == image.row:
                    self._choose(stage, image, before, entering, place)
                else:
                    image.cuts.append(leaders[leader][len(mine) - 1].cuts[stage])
            cut = image.cuts[stage]
            kept = place[image.row, image.columns[cut.kept.to(image.columns.device)]]
            stay[image.row, before] = False
            stay[image.row, kept] = True
            if cut.merge is not None:
                merged = _with_merged(merged, hidden, image.row, before, kept, cut.merge)
        self._full = hidden if self._full is None else self._put_back(hidden)
        if bool((stay != segment.valid).any()):
            self.current, index_of = segment.narrowed(stay)
            merged = take(merged, index_of, 1)
        self.segments[index] = self.current
        return merged

    def _places(self, segment: Segment) -> Tensor:
        """Place (B, L) of each column of the prompt in the segment; −1 where it is gone."""
        found = torch.full_like(self.first.source, -1)
        rows, places = segment.valid.nonzero(as_tuple=True)
        found[rows, segment.source[rows, places]] = places
        return found

    def _rate(self, hidden: Tensor) -> None:
        """Find the raters of every image among the text behind it, from the rows that enter the LLM."""
        assert self.inside.raters is not None
        for image in self.images:
            behind = self._text(image.row, int(image.columns[-1]) + 1)
            if len(behind) == 0:
                continue
            rows = hidden.detach()[image.row]
            chosen = self.inside.raters(rows[image.columns], rows[behind])
            image.raters = behind[chosen.to(behind.device)]

    def _text(self, row: int, start: int, stop: int | None = None) -> Tensor:
        """Columns of a row from `start` to `stop` that are real and no image's."""
        free = self.prompt.mask[row] & ~self.prompt.placeholders[row]
        free[:start] = False
        if stop is not None:
            free[stop:] = False
        return free.nonzero()[:, 0]

    @torch.no_grad()
    def _choose(self, stage: int, image: Image, before: Tensor, entering: Entering, place: Tensor) -> None:
        """Let the pruner choose for one image; appends to its cuts."""
        wanted, alive = image.stages[stage], image.alive(stage)
        if wanted.keep >= len(alive) and not wanted.options:
            image.cuts.append(Cut(wanted.layer, alive))
            return
        signals = self._signals(image, before, entering, place)
        start = perf_counter()
        features = entering.hidden[image.row, before]
        plan = self.pruner.plan(
            features, min(wanted.keep, len(alive)), None, **signals, **{**self.options, **wanted.options}
        )
        assert plan.indices is not None
        order = sorted(range(len(plan.indices)), key=plan.indices.__getitem__)
        kept = alive[torch.tensor([plan.indices[j] for j in order])]
        merge = None if plan.merge is None else plan.merge[order]
        image.cuts.append(Cut(wanted.layer, kept, merge))
        image.seconds += perf_counter() - start

    def _signals(self, image: Image, before: Tensor, entering: Entering, place: Tensor) -> dict[str, Any]:
        """What the plan reads, for one image."""
        ranking = entering if self.inside.ranks == "at" else self._seen
        assert ranking is not None
        found: dict[str, Any] = {}
        if "attention" in self.pruner.reads:
            columns = image.raters
            if columns is None:
                columns = self.prompt.mask[image.row].nonzero()[-1]
            queries = place[image.row, columns]
            found["attention"] = ranking.attention(image.row, queries, before)
            if self.inside.gravity:
                _, rotary = ranking.of_row(image.row)
                found["gravity"] = rotary_gravity(ranking.layer, rotary, queries, before)
        if "keys" in self.pruner.reads:
            first = int(image.columns[0])
            front = place[image.row, self._text(image.row, 0, first)]
            behind = place[image.row, self._text(image.row, first)]
            order = torch.cat([front, before, behind])
            hidden, rotary = ranking.of_row(image.row)
            found["keys"] = key_states(ranking.layer, hidden, rotary)[:, order]
            found["hidden"] = self.decoder.norm(entering.hidden[image.row, order])
            found["image_start"] = len(front)
        return found


def _with_merged(
    into: Tensor, hidden: Tensor, row: int, before: Tensor, kept: Tensor, merge: Tensor
) -> Tensor:
    """`into` with the merged tokens of one image at their places."""
    merge = merge.to(hidden.device)
    alone = (before == kept[:, None]).to(merge)
    changed = (merge != alone).any(1)
    if not bool(changed.any()):
        return into
    wide = torch.promote_types(hidden.dtype, torch.float32)
    rows = (merge[changed].to(wide) @ hidden[row, before].to(wide)).to(hidden.dtype)
    where = kept[changed]
    return into.index_put((torch.full_like(where, row), where), rows)
