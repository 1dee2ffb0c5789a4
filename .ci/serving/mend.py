"""Mend torchvision in the environment of ``make serve-test``: on a CPU a build for CUDA is imported without its operators.

vLLM imports torchvision and calls none of the operators for boxes, which torchvision declares nevertheless: they are
declared, empty, before it is imported. Does nothing where torchvision is imported as it is.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

MODULE = """
import sys


class Declare:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            self.library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                self.library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            sys.torchvision_operators = self
        return None


sys.meta_path.insert(0, Declare())
"""

if __name__ == "__main__":
    if subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode:
        place = Path(sysconfig.get_path("purelib"))
        (place / "torchvision_operators.py").write_text(MODULE)
        (place / "torchvision_operators.pth").write_text("import torchvision_operators\n")
    subprocess.run([sys.executable, "-c", "import torchvision, vllm"], check=True)
