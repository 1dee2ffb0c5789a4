"""Load test of the server on loopback: many requests at once, mixed settings, malformed ones, and clients that go away.

    PYTHONPATH=. python .ci/serving/load.py --seconds 120

Fails where an answer differs from that of `vlm_bridge.prune` in transformers, a malformed request is not answered by a
status of 400 to 499, the server ends, a request is left behind, or memory grows.
"""

import argparse
import asyncio
import random
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import torch
from server import ask, body, memory, metrics, run, serve

from analysis import reference, scenes
from vlm_bridge import prune
from vlm_bridge.budget import count_of
from vlm_bridge.chat import prepare, question

SETTINGS = [{"keep": keep, "method": m} for keep in (1.0, 72, 9) for m in ("spare", "divprune", "auto")]
TOKENS = 3
TOKENS_OF_AN_IMAGE = 144


def malformed(good):
    """Return requests that must be refused."""

    def of(**settings):
        return {**good, "mm_processor_kwargs": {"vlm_bridge": settings}}

    return [
        of(keep=0),
        of(keep=500),
        of(keep=9, method="visionzip"),
        of(keep=9, method="no such pruner"),
        of(keep=9, positions="compact"),
        of(keep=9, method="greedy", beta=3),
        of(keep=9, tol=0.1),
        of(method="divprune", rng="x", keep=3),
        {**good, "mm_processor_kwargs": {"vlm_bridge": 64}},
        {
            **good,
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}],
                }
            ],
        },
        {**good, "max_tokens": "many"},
    ]


def known(model, processor, pairs):
    """Return the answers of `prune` in transformers, and the lengths of pruned prompts, by question and setting."""
    found = {}
    for i, (image, text) in enumerate(pairs):
        inputs = prepare(processor, [question([image], text)])
        for j, settings in enumerate(SETTINGS):
            with prune(model, **settings, processor=processor), torch.no_grad():
                out = model.generate(**inputs, do_sample=False, max_new_tokens=TOKENS)
            new = out[0, inputs["input_ids"].shape[1] :]
            found[i, j] = (
                processor.tokenizer.decode(new, skip_special_tokens=True).strip(),
                inputs["input_ids"].shape[1]
                - TOKENS_OF_AN_IMAGE
                + count_of(settings["keep"], TOKENS_OF_AN_IMAGE),
            )
    return found


def said(status, answer):
    """Return the text of an answer and the number of tokens of the prompt, or what came instead."""
    if status != 200:
        return answer
    return answer["choices"][0]["message"]["content"].strip(), answer["usage"]["prompt_tokens"]


async def worker(session, address, number, until, pairs, want, count, wrong):
    """Send requests, one after the other, as one client of the load."""
    rng = random.Random(number)
    while time.monotonic() < until:
        i, j = rng.randrange(len(pairs)), rng.randrange(len(SETTINGS))
        good = body(*pairs[i], SETTINGS[j], TOKENS)
        kind = rng.choices(("right", "malformed", "killed"), (80, 10, 10))[0]
        start = time.monotonic()
        try:
            if kind == "killed":
                with suppress(TimeoutError):
                    await asyncio.wait_for(ask(session, address, good), rng.uniform(0.005, 0.2))
            elif kind == "malformed":
                request = rng.choice(malformed(good))
                status, answer = await ask(session, address, request)
                if not 400 <= status < 500:
                    wrong.append((status, request["mm_processor_kwargs"], answer))
            else:
                status, answer = await ask(session, address, good)
                told = said(status, answer)
                if told != want[i, j]:
                    wrong.append((status, SETTINGS[j], told, want[i, j]))
                count["seconds"] += time.monotonic() - start
            count[kind] += 1
        except Exception as error:
            wrong.append((kind, repr(error)))


def main():
    """Run the load, and return 1 where something went wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--log", type=Path, default=Path("out/serving_load.log"))
    args = parser.parse_args()
    args.log.parent.mkdir(parents=True, exist_ok=True)
    model, processor = reference.load()
    pairs = [(scene.image, scene.questions[0].text) for scene in map(scenes.make, range(8))]
    want = known(model, processor, pairs)
    del model
    wrong, count, sizes = [], Counter(), []
    with serve(reference.HERE, {"keep": 72}, "--max-model-len", 512, log=args.log) as (address, pid):

        async def load(session):
            for i, pair in enumerate(pairs):  # every choice once, before memory is looked at
                for j, settings in enumerate(SETTINGS):
                    status, answer = await ask(session, address, body(*pair, settings, TOKENS))
                    told = said(status, answer)
                    if told != want[i, j]:
                        wrong.append((status, settings, told, want[i, j]))
            begun = time.monotonic()
            until = begun + args.seconds
            clients = [
                worker(session, address, n, until, pairs, want, count, wrong) for n in range(args.clients)
            ]

            async def watch():
                while time.monotonic() < until:
                    sizes.append(memory(pid))
                    await asyncio.sleep(args.seconds / 20)

            await asyncio.gather(*clients, watch())
            count["wall"] = time.monotonic() - begun
            for _ in range(50):  # requests of clients that went away are ended by the server
                left = metrics(address)
                if not left["vllm:num_requests_running"] + left["vllm:num_requests_waiting"]:
                    break
                await asyncio.sleep(0.2)
            sizes.append(memory(pid))
            return left

        left = run(load)
    total = count["right"] + count["malformed"] + count["killed"]
    early, late = sizes[len(sizes) // 4], sizes[-1]
    print(
        f"{total} requests of {args.clients} clients in {count['wall']:.0f} s ({total / count['wall']:.1f}/s): "
        f"{count['right']} right, {count['malformed']} refused, {count['killed']} given up; "
        f"{len(wrong)} wrong; mean time of a right one {count['seconds'] / max(1, count['right']):.2f} s"
    )
    print(
        f"memory of the server: {early:.0f} MiB after a quarter of the time, {late:.0f} MiB at the end; "
        f"requests left {left['vllm:num_requests_running'] + left['vllm:num_requests_waiting']:.0f}; "
        f"tokens kept {left['vlm_bridge:visual_tokens_kept_total']:.0f}, dropped {left['vlm_bridge:visual_tokens_dropped_total']:.0f}; "
        f"selection {left['vlm_bridge:selection_seconds_sum']:.2f} s in {left['vlm_bridge:selection_seconds_count']:.0f} steps"
    )
    for one in wrong[:5]:
        print("wrong:", *one)
    busy = left["vllm:num_requests_running"] + left["vllm:num_requests_waiting"]
    return int(bool(wrong) or busy > 0 or late > 1.1 * early + 50 or count["right"] == 0)


if __name__ == "__main__":
    raise SystemExit(main())
