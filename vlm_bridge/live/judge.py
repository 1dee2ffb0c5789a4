"""Compute what a pruned model should answer, with the unpruned model alone.

What the decoder is called with (visual rows, positions) is recorded from outside, by a hook; nothing that the bridge knows
of the family is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from vlm_bridge.model.decoder import decoder_of, recurrent_layers
from vlm_bridge.model.families import find_family
from vlm_bridge.model.layout import Layout


class Judge:
    """The unpruned model on the inputs of one call, from which tokens can be left out.

    Parameters
    ----------
    model : PreTrainedModel
    inputs : dict
        Arguments of the call, with ``input_ids`` (B, L).
    steps : int
        Number of tokens to answer.
    """

    def __init__(self, model: Any, inputs: dict[str, Any], steps: int) -> None:
        self.model, self.inputs, self.steps = model, inputs, steps
        self.decoder = decoder_of(model, find_family(model))
        self.recurrent = recurrent_layers(model)

    @property
    def mask(self) -> Tensor:
        """Real tokens (B, L) of the prompts, as the caller's ``attention_mask`` or all."""
        given = self.inputs.get("attention_mask")
        return torch.ones_like(self.inputs["input_ids"]) if given is None else given

    @property
    def words(self) -> str:
        """What the pruned model is compared with, in words."""
        return (
            "the model given the shorter sequence"
            if self.recurrent
            else "the model with dropped tokens masked out"
        )

    def answer(self) -> Any:
        """Generate, and record what the decoder is called with on the way."""
        calls: list[dict[str, Any]] = []
        handle = self.decoder.register_forward_pre_hook(
            lambda module, args, kwargs: calls.append(dict(kwargs)), with_kwargs=True
        )
        try:
            answer = self.generate()
        finally:
            handle.remove()
        self.calls = [
            {k: v.clone() if isinstance(v, Tensor) else v for k, v in call.items()} for call in calls
        ]
        return answer

    def generate(self) -> Any:
        """Answer `steps` tokens greedily; inside a block of `prune` on the pruned prompt."""
        return self.model.generate(
            **self.inputs,
            max_new_tokens=self.steps,
            min_new_tokens=self.steps,
            do_sample=False,
            num_beams=1,
            return_dict_in_generate=True,
            output_logits=True,
        )

    def expected(self, layout: Layout, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the logits that the pruned model should give.

        Parameters
        ----------
        layout : Layout
            Which columns of the prompt remain.
        tokens : Tensor (B, steps)
            The answer that is fed token by token.

        Returns
        -------
        prompt : Tensor (M, vocabulary)
            Behind each of the M tokens that remain, item by item.
        later : Tensor (B, steps, vocabulary)
            Behind the prompt and behind each token of the answer but the last.
        """
        there = layout.source >= 0
        if not self.recurrent:
            stay = torch.zeros_like(self.mask, dtype=torch.bool)
            items = torch.arange(len(stay), device=stay.device)[:, None].expand_as(there)
            stay[items[there], layout.source[there]] = True
            inputs = {**self.inputs, "attention_mask": stay.long()}
            prompt, later = self._decoded(inputs, tokens, stay, lambda positions: positions)
            return prompt[items[there], layout.source[there]], later
        prompts, laters = [], []
        for item, columns in enumerate(layout.source):
            columns = columns[columns >= 0]
            ids = self.inputs["input_ids"][item : item + 1, columns]
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            cut = partial(_of_item, item=item, columns=columns)
            with self._fed(item, columns):
                prompt, later = self._decoded(inputs, tokens[item : item + 1], inputs["attention_mask"], cut)
            prompts.append(prompt[0])
            laters.append(later)
        return torch.cat(prompts), torch.cat(laters)

    @contextmanager
    def _fed(self, item: int, columns: Tensor) -> Iterator[None]:
        """Feed the decoder, in its next prompt, the rows that it was given at some columns of the full one."""
        rows = {name: self.calls[0].get(name) for name in ("inputs_embeds", "per_layer_inputs")}
        rows = {name: whole[item : item + 1, columns] for name, whole in rows.items() if whole is not None}

        def swap(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            handle.remove()
            return args, {**kwargs, **rows}

        handle = self.decoder.register_forward_pre_hook(swap, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _decoded(
        self, inputs: dict[str, Any], tokens: Tensor, stay: Tensor, cut: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of the prompt, and those behind each of `tokens`, which are fed one after the other."""
        cache = DynamicCache(config=self.model.config.get_text_config())
        whole = {**inputs, **self._positions(0, cut)}
        answer = self.model(**whole, past_key_values=cache, use_cache=True)
        prompt, later, mask = answer.logits, [answer.logits[:, -1]], stay.long()
        for step in range(1, self.steps):
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            answer = self.model(
                input_ids=tokens[:, step - 1 : step],
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                **self._positions(step, cut),
            )
            later.append(answer.logits[:, -1])
        return prompt, torch.stack(later, dim=1)

    def _positions(self, step: int, cut: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Return the positions that the unpruned decoder was given at this step; none where it counts them itself."""
        given = self.calls[step].get("position_ids")
        if given is None and not self.recurrent:
            return {}
        if given is None:
            length = self.calls[0]["inputs_embeds"].shape[1]
            start = 0 if step == 0 else length + step - 1
            given = torch.arange(start, start + (length if step == 0 else 1)).expand(len(self.mask), -1)
        return {"position_ids": cut(given.to(self.mask.device))}


def _of_item(positions: Tensor, item: int, columns: Tensor) -> Tensor:
    """Return the positions of one item, at some columns where there are as many as in the prompt."""
    own = positions[..., item : item + 1, :] if positions.shape[-2] > 1 else positions
    return own[..., columns] if own.shape[-1] > 1 else own
