"""Compare answers of an engine with those of `vlm_bridge.prune` in transformers, token for token, on the shipped model.

    PYTHONPATH=. python .ci/serving/equal.py --questions 150

Each engine answers all questions with all settings in one batch, mixed; then again, from its prefix cache; one with all
of a prompt in a step, one with 40 tokens a step; for both position policies.
"""

import argparse
import random
import time

import torch
import vllm

from analysis import reference, scenes
from vlm_bridge import prune
from vlm_bridge.chat import prepare, question

KEEPS, METHODS, TOKENS = (1.0, 72, 32, 9), ("spare", "divprune", "auto", "greedy"), 2


def expected(model, processor, inputs, own, positions, end):
    """Answers of transformers to a batch, up to the end token."""
    with prune(model, **own, positions=positions, processor=processor), torch.no_grad():
        out = model.generate(**inputs, do_sample=False, max_new_tokens=TOKENS)
    found = []
    for row in out[:, inputs["input_ids"].shape[1] :].tolist():
        found.append(row[: row.index(end) + 1] if end in row else row)
    return found


def main():
    """Run all comparisons; return 1 where one differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=150)
    parser.add_argument("--positions", nargs="+", default=["keep", "compact"], choices=["keep", "compact"])
    args = parser.parse_args()
    model, processor = reference.load()
    end = model.generation_config.eos_token_id
    pairs, seed = [], 1000
    while len(pairs) < args.questions:
        scene = scenes.make(seed)
        pairs += [(scene.image, one.text) for one in scene.questions]
        seed += 1
    pairs = pairs[: args.questions]
    token = model.config.image_token_index
    single = [prepare(processor, [question([image], text)]) for image, text in pairs]
    ids = []
    for one in single:
        row = one["input_ids"][0].tolist()
        ids.append([t for at, t in enumerate(row) if t != token or row[at - 1] != token])
    settings = [{"keep": k, "method": m} for k in KEEPS for m in METHODS]
    equal = tried = 0
    for positions in args.positions:
        start, want = time.monotonic(), {}
        for s, own in enumerate(settings):
            for first in range(0, len(pairs), 25):
                part = pairs[first : first + 25]
                inputs = prepare(processor, [question([image], text) for image, text in part])
                for i, one in enumerate(expected(model, processor, inputs, own, positions, end), first):
                    want[i, s] = one
        print(f"{positions}: transformers {time.monotonic() - start:.0f} s", flush=True)
        for step in (None, 40):
            llm = vllm.LLM(
                str(reference.HERE),
                hf_overrides={"vlm_bridge": {"positions": positions}},
                distributed_executor_backend="uni",
                dtype="float32",
                enforce_eager=True,
                max_model_len=512,
                block_size=32,
                max_num_seqs=32,
                **({} if step is None else {"max_num_batched_tokens": step}),
            )
            order = list(want)
            random.Random(0).shuffle(order)
            prompts = [
                {
                    "prompt_token_ids": ids[i],
                    "multi_modal_data": {"image": [pairs[i][0]]},
                    "mm_processor_kwargs": {"vlm_bridge": settings[s]},
                }
                for i, s in order
            ]
            for again in ("mixed batch", "from the prefix cache"):
                start = time.monotonic()
                out = llm.generate(
                    prompts, vllm.SamplingParams(temperature=0, max_tokens=TOKENS), use_tqdm=False
                )
                answers = [list(one.outputs[0].token_ids) for one in out]
                hits = sum(bool(one.num_cached_tokens) for one in out)
                differ = [key for key, one in zip(order, answers, strict=True) if one != want[key]]
                # A batch in transformers pads, which rounds otherwise: whoever differs is asked again alone.
                alone = [
                    (i, s)
                    for i, s in differ
                    if expected(model, processor, single[i], settings[s], positions, end)[0]
                    != answers[order.index((i, s))]
                ]
                tried, equal = tried + len(order), equal + len(order) - len(alone)
                print(
                    f"{positions}, {step or 'all'} tokens a step, {again}: {len(order) - len(alone)}/{len(order)} equal "
                    f"({len(differ) - len(alone)} only to the answer to the question alone), {hits} with prefix hits, "
                    f"{time.monotonic() - start:.0f} s",
                    flush=True,
                )
                for i, s in alone[:10]:
                    print(
                        "  differs:",
                        i,
                        settings[s],
                        processor.decode(answers[order.index((i, s))]),
                        "|",
                        processor.decode(want[i, s]),
                    )
            del llm
    print(f"{equal}/{tried} equal")
    return int(equal < tried)


if __name__ == "__main__":
    raise SystemExit(main())
