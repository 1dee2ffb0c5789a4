"""The symbols that DECIMER writes, from a pickled Keras tokenizer, without Keras and without running what a pickle may name."""

from __future__ import annotations

import collections
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

START, END = "<start>", "<end>"
#: The ten digits are written as these signs.
DIGITS = str.maketrans("!$^<>?£¢€§", "1234567890")


class _Tokenizer:
    """Stands for Keras's class: attributes only."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


ALLOWED = {
    ("keras.preprocessing.text", "Tokenizer"): _Tokenizer,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    ("builtins", "int"): int,
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(
                f"refused {module}.{name}: a pickled tokenizer may hold only dictionaries, numbers and text."
            )
        return ALLOWED[module, name]


class Symbols:
    """The symbols by number.

    Parameters
    ----------
    path : Path
        The pickled tokenizer.

    Raises
    ------
    pickle.UnpicklingError
        The file names a class or function other than a tokenizer, dictionaries and numbers.
    """

    def __init__(self, path: Path):
        with path.open("rb") as file:
            self.word: dict[int, str] = _Restricted(file).load().index_word
        number = {word: index for index, word in self.word.items()}
        self.start, self.end = number[START], number[END]

    def text(self, ids: Iterable[int]) -> str:
        """Return the SMILES string of symbols up to the end sign."""
        words = []
        for i in ids:
            if i == self.end:
                break
            words.append(self.word.get(int(i), ""))
        return "".join(words).replace(START, "").translate(DIGITS)
