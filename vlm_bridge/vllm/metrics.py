"""What the plugin adds to vLLM's metrics (``/metrics``) and log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, perf_counter

from prometheus_client import Counter, Histogram

EVERY = 10.0
"""Seconds between two lines of the log, as between vLLM's own."""

KEPT = Counter("vlm_bridge:visual_tokens_kept", "Visual tokens that stayed in prompts.")
DROPPED = Counter("vlm_bridge:visual_tokens_dropped", "Visual tokens that were taken out of prompts.")
REUSED = Counter("vlm_bridge:images_reused", "Images that were not encoded again for another question.")
SECONDS = Histogram(
    "vlm_bridge:selection_seconds",
    "Time that choosing the tokens of the images of one step took.",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3),
)

log = logging.getLogger("vllm.vlm_bridge")  # vLLM shows what is logged below its own name


class Selections:
    """The choices since the last line of the log."""

    def __init__(self) -> None:
        self.images = self.kept = self.all = 0
        self.seconds, self.begun = 0.0, monotonic()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Time the choices of one step."""
        start = perf_counter()
        yield
        took = perf_counter() - start
        SECONDS.observe(took)
        self.seconds += took
        if monotonic() - self.begun >= EVERY:
            log.info(
                "vlm_bridge: %d of %d visual tokens of %d images were kept; choosing them took %.1f ms.",
                self.kept,
                self.all,
                self.images,
                1000 * self.seconds,
            )
            self.__init__()  # type: ignore[misc]

    def add(self, kept: int, n: int) -> None:
        """Count an image of which `kept` of `n` tokens stay."""
        self.images, self.kept, self.all = self.images + 1, self.kept + kept, self.all + n
