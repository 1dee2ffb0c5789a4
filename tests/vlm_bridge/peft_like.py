"""What peft wraps around a model, with its attributes and its ways to call; peft itself is not needed.

As in peft 0.18: layers are replaced inside the model, `LoraModel` calls the model's ``forward`` past its hooks,
attributes are looked up inside, and a model of a task sends positional arguments on by name.
"""

import torch
from torch import nn


class LoraLinear(nn.Module):
    """W x + B A x, with B = 0 at first; W is frozen."""

    def __init__(self, base, rank=2, scale=2.0, seed=0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.base_layer, self.scale = base, scale
        a = torch.randn(rank, base.in_features, generator=g, dtype=torch.float64) / base.in_features**0.5
        self.lora_A = nn.Parameter(a.to(base.weight))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, rank))

    def forward(self, x):
        return self.base_layer(x) + self.scale * (x @ self.lora_A.T @ self.lora_B.T)


class LoraModel(nn.Module):
    def __init__(self, model, targets=("q_proj", "v_proj")):
        super().__init__()
        self.model = model
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        found = [
            (module, name)
            for module in model.modules()
            for name, child in module.named_children()
            if name in targets and isinstance(child, nn.Linear)
        ]
        for seed, (module, name) in enumerate(found):
            setattr(module, name, LoraLinear(getattr(module, name), seed=seed))

    def forward(self, *args, **kwargs):
        return self.model.forward(*args, **kwargs)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":
                raise
            return getattr(self.model, name)


class PeftModel(nn.Module):
    """Without a task: the model inside is called itself."""

    _is_prompt_learning = False

    def __init__(self, model):
        super().__init__()
        self.base_model = LoraModel(model)

    def get_base_model(self):
        return self.base_model.model

    def forward(self, *args, **kwargs):
        return self.get_base_model()(*args, **kwargs)

    def generate(self, *args, **kwargs):
        return self.get_base_model().generate(*args, **kwargs)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_model":
                raise
            return getattr(self.base_model, name)


class PeftModelForCausalLM(PeftModel):
    def forward(self, input_ids=None, attention_mask=None, inputs_embeds=None, labels=None, **kwargs):
        return self.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            labels=labels,
            **kwargs,
        )

    def generate(self, *args, **kwargs):
        self.base_model.prepare_inputs_for_generation = self.base_model.model.prepare_inputs_for_generation
        return self.base_model.generate(*args, **kwargs)


def loras(model):
    """Parameters that are trained."""
    return [p for name, p in model.named_parameters() if "lora_" in name]
