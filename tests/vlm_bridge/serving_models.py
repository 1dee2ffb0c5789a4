"""Tiny random Qwen-VL models in folders, with tokenizer and processor, as an engine reads them."""

from __future__ import annotations

from tiny_qwen import _uneven
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

SPECIAL = [
    "<|endoftext|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
VOCAB = 120
KINDS = {
    "PrunedQwen2VL": (Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor),
    "PrunedQwen2_5_VL": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor),
}


def qwen(folder, architecture):
    """Write a model with its processor into `folder`, and return both."""
    import torch

    config_class, model_class, processor_class = KINDS[architecture]
    ids = {token: i for i, token in enumerate([*SPECIAL, *(f"w{i}" for i in range(len(SPECIAL), VOCAB))])}
    tokens = Tokenizer(WordLevel(ids, unk_token="<|endoftext|>"))
    tokens.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        eos_token=SPECIAL[1],
        pad_token=SPECIAL[0],
        additional_special_tokens=SPECIAL[2:],
    )
    text = {
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCAB,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "rope_parameters": {"rope_type": "default", "mrope_section": [8, 4, 4], "rope_theta": 1e4},
    }
    vision = {"depth": 2, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
    if architecture == "PrunedQwen2VL":
        vision |= {"embed_dim": 64, "hidden_size": 128, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 64, "intermediate_size": 128, "out_hidden_size": 128, "window_size": 112}
        vision |= {"fullatt_block_indexes": [1]}
    torch.manual_seed(0)
    config = config_class(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    model = _uneven(model_class(config))
    limits = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 64}
    processor = processor_class(
        Qwen2VLImageProcessor(size=limits), tokenizer, Qwen2VLVideoProcessor(size=limits), chat_template=None
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor
