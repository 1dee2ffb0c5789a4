"""DECIMER 2, a pretrained model that reads drawings of molecules: its visual tokens pruned, without training.

Reference: Rajan, Brinkhaus, Agea, Zielesny and Steinbeck, DECIMER.ai (Nature Communications 14, 2023).

Examples
--------
>>> from analysis.real import decimer, drawings
>>> model = decimer.load()                                        # doctest: +SKIP
>>> image = decimer.prepare(drawings.draw(drawings.molecules()[0]))  # doctest: +SKIP
>>> tokens = model.encode(image[None])                            # doctest: +SKIP
>>> model.read(tokens, keep=torch.arange(128)[None])              # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance
from torch import Tensor

from analysis.real import checkpoint_bundle, weights
from analysis.real.decoder import Decoder
from analysis.real.encoder import Encoder
from analysis.real.symbols import Symbols

SIDE, LIMIT = 512, 120
#: Of ImageNet's pixels in [0, 1].
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Losses:
    """What a model with fewer tokens makes of given answers.

    Attributes
    ----------
    loss : Tensor (B, T)
        Negative log likelihood in nats of each symbol given those before; zero behind the end of the answer.
    right : Tensor (B, T) of bool
        Whether each symbol is the likeliest one; false behind the end.
    length : Tensor (B,)
        Symbols of each answer, with the end sign.
    """

    loss: Tensor
    right: Tensor
    length: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean loss of a symbol, (B,)."""
        return self.loss.sum(1) / self.length

    @property
    def accuracy(self) -> Tensor:
        """Share of symbols predicted, (B,)."""
        return self.right.sum(1) / self.length


class Decimer:
    """The model.

    Parameters
    ----------
    encoder : Encoder
    decoder : Decoder
    symbols : Symbols
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, symbols: Symbols):
        self.encoder, self.decoder, self.symbols = encoder, decoder, symbols

    def encode(self, images: Tensor) -> Tensor:
        """Return the visual tokens (B, 256, 512) of images (B, 3, 512, 512) from `prepare`."""
        return self.encoder(images)

    @torch.inference_mode()
    def answers(self, tokens: Tensor, keep: Tensor | None = None, limit: int = LIMIT) -> list[list[int]]:
        """Return the numbers of the symbols written greedily, up to and without the end sign.

        Parameters
        ----------
        tokens : Tensor (B, 256, 512)
        keep : Tensor (B, k) of indices, optional
            The tokens that the decoder sees; all of them where it is left out.
        limit : int
            Symbols at most.
        """
        memory = self.decoder.look(tokens, keep)
        last = torch.full((len(tokens), 1), self.symbols.start)
        done = torch.zeros(len(tokens), dtype=torch.bool)
        written: list[Tensor] = []
        while len(written) < limit and not done.all():
            last = self.decoder.write(last, memory)[:, -1:].argmax(-1)
            done |= last[:, 0] == self.symbols.end
            written.append(last[:, 0])
        return [_up_to(row, self.symbols.end) for row in torch.stack(written, 1).tolist()]

    def read(self, tokens: Tensor, keep: Tensor | None = None) -> list[str]:
        """Return the SMILES strings that are written greedily from the kept tokens; arguments as of `answers`."""
        return [self.symbols.text(one) for one in self.answers(tokens, keep)]

    @torch.inference_mode()
    def losses(self, tokens: Tensor, keep: Tensor | None, answers: Sequence[Sequence[int]]) -> Losses:
        """Return losses of answers (numbers of symbols), each symbol given the true ones before it (teacher forcing)."""
        return self._losses(tokens, keep, answers)

    @torch.inference_mode()
    def attention_received(self, tokens: Tensor, answers: Sequence[Sequence[int]]) -> Tensor:
        """Return the attention of all symbols of the answers to each token, (B, 256): summed over symbols, mean over layers and heads."""
        inputs, _, length = self._padded(answers)
        received = torch.zeros(tokens.shape[:2])
        for i in range(len(tokens)):  # one by one, so that no padding attends
            memory = self.decoder.look(tokens[i : i + 1])
            memory.received = torch.zeros(1, tokens.shape[1])
            self.decoder.write(inputs[i : i + 1, : int(length[i])], memory)
            received[i] = memory.received[0]
        return received

    def gradients(self, tokens: Tensor, answers: Sequence[Sequence[int]]) -> Tensor:
        """Return the derivative of each answer's summed loss by all tokens, (B, 256, 512)."""
        tokens = tokens.clone().requires_grad_()
        (found,) = torch.autograd.grad(self._losses(tokens, None, answers).loss.sum(), tokens)
        return found

    def _losses(self, tokens: Tensor, keep: Tensor | None, answers: Sequence[Sequence[int]]) -> Losses:
        inputs, targets, length = self._padded(answers)
        logits = self.decoder.write(inputs, self.decoder.look(tokens, keep))
        there = torch.arange(inputs.shape[1]) < length[:, None]
        loss = F.cross_entropy(logits.mT, targets, reduction="none")
        return Losses(loss * there, (logits.argmax(-1) == targets) & there, length)

    def _padded(self, answers: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Return inputs and targets (B, T), one symbol apart, and the number of targets (B,)."""
        start, end = self.symbols.start, self.symbols.end
        length = torch.tensor([len(answer) + 1 for answer in answers])
        longest = int(length.max())
        rows = torch.tensor([[start, *answer, *[end] * (longest - len(answer))] for answer in answers])
        return rows[:, :-1], rows[:, 1:], length


def load(folder: Path | None = None) -> Decimer:
    """Return the pretrained model.

    Raises
    ------
    FileNotFoundError
        The weights were not downloaded.
    """
    folder = weights.decimer_folder() if folder is None else folder
    arrays = checkpoint_bundle.load(folder / "variables" / "variables")

    def of(part: str) -> list[np.ndarray]:
        """Variables of one part, in their order."""
        start = f"DECIMER/{part}/variables/"
        numbered = {int(name.split("/")[3]): a for name, a in arrays.items() if name.startswith(start)}
        return [numbered[i] for i in range(len(numbered))]

    symbols = Symbols(folder / "assets" / "tokenizer_SMILES.pkl")
    return Decimer(Encoder(of("encoder")), Decoder(of("transformer")), symbols)


def prepare(image: Image.Image) -> Tensor:
    """Return a drawing as the model wants it, (3, 512, 512): grey, more contrast, cropped to what is drawn, with a margin of 10 %.

    These are the steps of the DECIMER package. A blank image is refused with a ValueError.
    """
    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("L")
    image = ImageEnhance.Contrast(image).enhance(1.2)
    if max(image.size) < SIDE:
        scale = SIDE / max(image.size)
        image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.LANCZOS)
    ink = np.asarray(image) <= 200
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    if not len(rows):
        raise ValueError("expected a drawing, got an image without a dark pixel.")
    image = image.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    side = max(int(1.2 * max(image.size)), SIDE)
    page = Image.new("L", (side, side), "white")
    page.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    page = page.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB")
    pixels = (np.asarray(page, np.float32) / 255 - MEAN) / np.array(DEVIATION)
    return torch.tensor(pixels.transpose(2, 0, 1).copy(), dtype=torch.float32)


def _up_to(row: list[int], end: int) -> list[int]:
    return row[: row.index(end)] if end in row else row
