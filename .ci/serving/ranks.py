"""Tensor parallelism: two processes hold a model together, and each chooses the tokens of every image by itself.

    PYTHONPATH=. python .ci/serving/ranks.py
    PYTHONPATH=. python .ci/serving/ranks.py --family qwen2_5

Fails where the ranks' choices differ, or an answer differs from that of `vlm_bridge.prune` in transformers.
"""

import argparse
import hashlib
import os
import sys
import tempfile
from pathlib import Path

import torch
import vllm
from PIL import Image

from vlm_bridge import prune

ROOT = Path(__file__).parents[2]
SIZES, TOKENS = ((84, 168), (168, 84), (140, 140)), 6
SETTINGS = [
    {"keep": keep, "method": method} for keep in (4, 0.5) for method in ("auto", "spare", "greedy", "random")
]


def record(worker):
    """Let a rank remember its choices."""
    import vlm_bridge.vllm.model as served

    own, served.choices = served.choose, []

    def choose(rows, asked, embed):
        found = own(rows, asked, embed)
        bits = hashlib.sha256(rows.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        served.choices.append((asked, bits, found.tolist()))
        return found

    served.choose = choose


def choices(worker):
    """Return what `record` has remembered."""
    import vlm_bridge.vllm.model as served

    return served.choices


def main():
    """Compare two ranks with each other and with transformers; return 1 where something differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", default="llava_clip")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests/vlm_bridge"))
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # for the two functions above
    import serving_models

    g = torch.Generator().manual_seed(0)
    pictures = [
        Image.fromarray(torch.randint(0, 256, (h, w, 3), generator=g, dtype=torch.uint8).numpy())
        for w, h in SIZES
    ]
    with tempfile.TemporaryDirectory() as folder:
        model, processor, mark = serving_models.build(folder, args.family)
        prompts, want = [], []
        for i, picture in enumerate(pictures):
            text = f"w20 w4{i} {mark} w60 w8{i}"
            inputs = processor(images=[picture], text=[text], return_tensors="pt")
            for own in SETTINGS:
                with prune(model, **own, processor=processor), torch.no_grad():
                    out = model.generate(**inputs, do_sample=False, max_new_tokens=TOKENS)
                want.append(out[0, inputs["input_ids"].shape[1] :].tolist())
                prompts.append(
                    {
                        "prompt_token_ids": processor.tokenizer(text)["input_ids"],
                        "multi_modal_data": {"image": [picture]},
                        "mm_processor_kwargs": {"vlm_bridge": own},
                    }
                )
        llm = vllm.LLM(
            folder,
            hf_overrides={"vlm_bridge": {"positions": "keep"}},
            distributed_executor_backend="mp",
            tensor_parallel_size=2,
            dtype="float32",
            enforce_eager=True,
            max_model_len=512,
            block_size=32,
        )
        llm.collective_rpc(record)
        out = llm.generate(prompts, vllm.SamplingParams(temperature=0, max_tokens=TOKENS), use_tqdm=False)
        one, other = llm.collective_rpc(choices)
    answers = [list(each.outputs[0].token_ids) for each in out]
    drawn = [own["method"] == "random" for own in SETTINGS] * len(
        pictures
    )  # transformers draws from other seeds
    differ = [i for i, random in enumerate(drawn) if not random and answers[i] != want[i]]
    alike = sum(a == b for a, b in zip(one, other, strict=True))
    print(
        f"{args.family}, two ranks: {alike} of {len(one)} choices are the same on both, of features that are the same to the "
        f"last bit; {len(drawn) - sum(drawn) - len(differ)} of {len(drawn) - sum(drawn)} answers are those of transformers"
    )
    return int(alike < len(prompts) or alike < len(one) or bool(differ))


if __name__ == "__main__":
    raise SystemExit(main())
