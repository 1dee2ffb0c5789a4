"""Requests a second, time to the first token and blocks of the KV cache by keep, unpruned beside, of one server in one run.

python .ci/serving/measure.py            # the shipped model, 144 visual tokens
python .ci/serving/measure.py --wide     # a random LLaVA with 576
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from server import BLOCK, ask, body, metrics, run, serve

from analysis import reference

TEXT = "Which colour is the circle?"
METHODS = ("spare", "auto")


def images(side, rng, count):
    """Make pictures that no cache has seen."""
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


def wide(folder):
    """Write a random LLaVA with 576 visual tokens and 24 million parameters; its words are those of the shipped model."""
    import torch
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    torch.manual_seed(0)
    _, own = reference.load()
    words = own.tokenizer
    tower = CLIPVisionConfig(
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=336,
        patch_size=14,
    )
    text = LlamaConfig(
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=6,
        num_attention_heads=8,
        vocab_size=len(words),
        max_position_embeddings=2048,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    token = words.convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        vision_config=tower, text_config=text, image_token_index=token, vision_feature_layer=-2
    )
    model = LlavaForConditionalGeneration(config)
    model.save_pretrained(folder)
    pixels = CLIPImageProcessor(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, image_mean=[0.5] * 3
    )
    LlavaProcessor(
        pixels,
        words,
        patch_size=14,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)


async def first_token(session, address, request):
    """Return the seconds until the first token of an answer."""
    start = time.monotonic()
    async with session.post(address + "/v1/chat/completions", json={**request, "stream": True}) as response:
        async for line in response.content:
            if line.startswith(b"data: {") and b'"content"' in line:
                return time.monotonic() - start
    raise SystemExit("no token came")


def main():
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wide", action="store_true", help="a random model with 576 visual tokens")
    parser.add_argument("--requests", type=int, default=16, help="requests at a time")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--log", type=Path, default=Path("out/serving_measure.log"))
    args = parser.parse_args()
    args.log.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    keeps = (1.0, 288, 64, 32) if args.wide else (1.0, 72, 32, 9)
    settings = [{"keep": k, "method": m} for k in keeps for m in (METHODS if k != 1.0 else METHODS[:1])]
    found = {i: [] for i in range(len(settings))}

    async def work(session):
        side = 336 if args.wide else reference_side()
        for _ in range(args.rounds + 1):  # the first warms up
            for i, own in enumerate(settings):
                requests = [
                    body(one, TEXT, own, 8, ignore_eos=True) for one in images(side, rng, args.requests)
                ]
                before, start = metrics(address), time.monotonic()
                answers = await asyncio.gather(*(ask(session, address, one) for one in requests))
                took, after = time.monotonic() - start, metrics(address)
                for status, answer in answers:
                    assert status == 200, answer
                alone = [
                    await first_token(session, address, body(one, TEXT, own, 8, ignore_eos=True))
                    for one in images(side, rng, 4)
                ]
                usage = answers[0][1]["usage"]
                spent = after["vlm_bridge:selection_seconds_sum"] - before["vlm_bridge:selection_seconds_sum"]
                blocks = args.requests * -(-usage["total_tokens"] // BLOCK)
                found[i].append(
                    (
                        args.requests / took,
                        1000 * statistics.median(alone),
                        usage["prompt_tokens"],
                        blocks,
                        spent / took,
                        1000 * spent / args.requests,
                    )
                )

    with tempfile.TemporaryDirectory() as folder:
        if args.wide:
            wide(folder)
        flags = ("--max-model-len", 1024 if args.wide else 512, "--no-enable-prefix-caching")
        with serve(folder if args.wide else reference.HERE, {"keep": 1.0}, *flags, log=args.log) as (
            address,
            _,
        ):
            run(work)
    print(
        "| keep | method | prompt tokens | requests/s | × | first token, ms | KV blocks | selection, ms a request | of the time |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    whole = None
    for i, own in enumerate(settings):
        rate, first, prompt, blocks, share, each = (
            statistics.median(column) for column in zip(*found[i][1:], strict=True)
        )
        whole = whole or rate
        print(
            f"| {'all' if own['keep'] == 1.0 else own['keep']} | {own['method'] if own['keep'] != 1.0 else '–'} | "
            f"{prompt:.0f} | {rate:.1f} | {rate / whole:.2f} | {first:.0f} | {blocks:.0f} | {each:.1f} | {share:.0%} |"
        )
    return 0


def reference_side():
    """Return the width of the shipped model's images in pixels."""
    from analysis import scenes

    return scenes.make(0).image.width


if __name__ == "__main__":
    raise SystemExit(main())
