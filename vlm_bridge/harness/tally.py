"""Sum up what pruning did over many blocks of `prune`."""

from __future__ import annotations

from dataclasses import dataclass, field

from vlm_bridge.reporting.cost import Cost
from vlm_bridge.reporting.report import Report


@dataclass
class Tally:
    """Sums over reports, so that a long evaluation keeps no tensors.

    Attributes
    ----------
    images, reused : int
        Number of images and videos, and of those for which an earlier choice was used again.
    error : float
        Sum of the relative reconstruction errors.
    cost : Cost
    """

    images: int = 0
    reused: int = 0
    error: float = 0.0
    cost: Cost = field(default_factory=Cost)

    def add(self, report: Report) -> None:
        """Add a report to the sums."""
        self.images += len(report.kept)
        self.reused += sum(report.reused)
        self.error += sum(report.errors)
        self.cost += report.cost

    def numbers(self) -> dict[str, float]:
        """Return the sums and means by name, for a log of numbers."""
        cost, images = self.cost, max(self.images, 1)
        return {
            "images": self.images,
            "choices_reused": self.reused,
            "visual_tokens": cost.tokens_before,
            "visual_tokens_kept": cost.tokens_after,
            "relative_error": self.error / images,
            "seconds_to_choose": cost.seconds,
            "kv_bytes_full": cost.kv_bytes_before,
            "kv_bytes": cost.kv_bytes_after,
            "prefill_flops_full": cost.flops_before,
            "prefill_flops": cost.flops_after,
        }

    def __str__(self) -> str:
        if not self.images:
            return "no image was pruned"
        cost = self.cost
        return (
            f"kept {cost.tokens_after} of {cost.tokens_before} visual tokens in {self.images} images "
            f"({self.reused} of them as before), relative error {self.error / self.images:.4f}; "
            f"{cost.seconds:.3f} s to choose; {cost}"
        )
