"""The part of `timm` that `TimmWrapperModel` calls, with one tiny tower: ``architecture="tiny"``."""

from __future__ import annotations

from types import SimpleNamespace

from torch import Tensor, nn
from transformers.models.timm_wrapper import modeling_timm_wrapper as wrapper


class Tower(nn.Module):
    """Patches through two convolutions, or two layers of a vision transformer.

    Parameters
    ----------
    embed_dim, patch : int
    tokens : bool
        Whether features are a sequence (B, h w, embed_dim), as of a vision transformer, and not a map (B, embed_dim, h, w).
    """

    def __init__(
        self, num_classes: int = 0, embed_dim: int = 32, patch: int = 4, tokens: bool = False
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.embed = nn.Conv2d(3, embed_dim, patch, patch)
        block = nn.TransformerEncoderLayer(embed_dim, 4, 48, 0.0, batch_first=True)
        self.blocks = (
            nn.TransformerEncoder(block, 2) if tokens else nn.Conv2d(embed_dim, embed_dim, 3, padding=1)
        )

    def forward_features(self, pixels: Tensor) -> Tensor:
        """The last hidden state."""
        found = self.embed(pixels)
        return self.blocks(found.flatten(2).transpose(1, 2) if self.tokens else found.relu())

    def forward_intermediates(self, pixels: Tensor, indices=None) -> tuple[Tensor, list[Tensor]]:
        """The last hidden state, and what came before it."""
        found = self.forward_features(pixels)
        return found, [found]

    def forward_head(self, features: Tensor) -> Tensor:
        """Features averaged over an image."""
        return features.mean(1) if self.tokens else features.mean((2, 3))


def create_model(architecture: str, pretrained: bool = False, **options) -> nn.Module:
    """As ``timm.create_model``."""
    if architecture != "tiny" or pretrained:
        raise RuntimeError(f"Unknown model {architecture}")
    return Tower(**options)


wrapper.timm = SimpleNamespace(create_model=create_model, __version__="0")
wrapper.requires_backends = lambda owner, backends: None
