"""Tiny random models in folders, with tokenizer and processor, as an engine reads them; one for each family served."""

from __future__ import annotations

from tiny_qwen import _uneven
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import (
    CLIPImageProcessor,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SiglipImageProcessor,
)

SPECIAL = {
    "end": "<end>",
    "image_token": "<image>",
    "video_token": "<video>",
    "vision_start_token": "<vision_start>",
    "vision_end_token": "<vision_end>",
}
NEWLINES = ["\n", "\n\n", "\n\n\n", "\n\n\n\n"]
VOCAB, SIDE = 120, 56
TEXT = {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": VOCAB,
    "max_position_embeddings": 1024,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
TOWER = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
}
CLIP = {"model_type": "clip_vision_model", **TOWER}
SIGLIP = {"model_type": "siglip_vision_model", **TOWER}
PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
QWEN_TOWER = {"depth": 2, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}


def tokenizer(**named):
    """Words ``w10``, ``w11``, ... between blanks, newlines, and special tokens, of which `named` are attributes."""
    special = {**SPECIAL, **named}
    words = list(dict.fromkeys(["<pad>", *special.values(), *NEWLINES]))
    words += [f"w{i}" for i in range(len(words), VOCAB)]
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    words.pre_tokenizer = Split(" ", "removed")
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token=special.pop("end"),
        pad_token="<pad>",
        extra_special_tokens=special,
    )


def llava_clip():
    """LLaVA-1.5 with CLIP."""
    return llava(
        CLIP, "default", -2, CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=[SIDE, SIDE]), 1
    )


def llava_siglip():
    """LLaVA-1.5 with SigLIP."""
    return llava(SIGLIP, "full", -1, SiglipImageProcessor(size={"height": SIDE, "width": SIDE}), 0)


def llava(tower, strategy, layer, images, additional):
    """LLaVA-1.5."""
    words = tokenizer()
    config = LlavaConfig(
        vision_config=tower,
        text_config={"model_type": "llama", **TEXT},
        image_token_index=words.image_token_id,
        vision_feature_select_strategy=strategy,
        vision_feature_layer=layer,
    )
    processor = LlavaProcessor(
        images,
        words,
        patch_size=8,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=additional,
    )
    return LlavaForConditionalGeneration(config), processor, "<image>"


def llava_next():
    """LLaVA-NeXT with CLIP: tiles, unpadded, and a separator behind each line."""
    words = tokenizer()
    config = LlavaNextConfig(
        vision_config=CLIP,
        text_config={"model_type": "llama", **TEXT},
        image_token_index=words.image_token_id,
        vision_feature_layer=-2,
        image_grid_pinpoints=PINPOINTS,
    )
    images = LlavaNextImageProcessor(
        size={"shortest_edge": SIDE}, crop_size=[SIDE, SIDE], image_grid_pinpoints=PINPOINTS
    )
    processor = LlavaNextProcessor(
        images, words, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return LlavaNextForConditionalGeneration(config), processor, "<image>"


def llava_onevision():
    """LLaVA-OneVision with SigLIP."""
    words = tokenizer()
    config = LlavaOnevisionConfig(
        vision_config=SIGLIP,
        text_config={"model_type": "qwen2", **TEXT},
        image_token_index=words.image_token_id,
        video_token_index=words.video_token_id,
        image_grid_pinpoints=PINPOINTS,
    )
    size = {"height": SIDE, "width": SIDE}
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=PINPOINTS),
        words,
        LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=(SIDE // 8) ** 2,
        vision_feature_select_strategy="full",
    )
    return LlavaOnevisionForConditionalGeneration(config), processor, "<image>"


def internvl():
    """InternVL3: four patches a token, two to four tiles an image."""
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
    }
    words = tokenizer(**names)
    tower = {**TOWER, "image_size": [SIDE, SIDE], "patch_size": [14, 14]}
    config = InternVLConfig(
        vision_config={"model_type": "internvl_vision", **tower},
        text_config={"model_type": "qwen2", **TEXT},
        image_token_id=words.context_image_token_id,
        downsample_ratio=0.5,
    )
    size = {"height": SIDE, "width": SIDE}
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size=size, crop_to_patches=True, min_patches=1, max_patches=3),
        words,
        InternVLVideoProcessor(size=size),
        image_seq_length=4,
    )
    return InternVLForConditionalGeneration(config), processor, "<IMG_CONTEXT>"


def gemma():
    """Gemma 3: patches pooled to 9 tokens, a local and two global layers."""
    words = tokenizer(boi_token="<start_of_image>", eoi_token="<end_of_image>")
    layers = ["sliding_attention", "full_attention", "full_attention"]
    text = {"model_type": "gemma3_text", **TEXT, "query_pre_attn_scalar": 32, "layer_types": layers}
    config = Gemma3Config(
        vision_config={**SIGLIP, "image_size": 48, "vision_use_head": False},
        text_config=text,
        image_token_index=words.image_token_id,
        boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
        mm_tokens_per_image=9,
    )
    images = Gemma3ImageProcessor(size={"height": 48, "width": 48})
    return (
        Gemma3ForConditionalGeneration(config),
        Gemma3Processor(images, words, image_seq_length=9),
        "<start_of_image>",
    )


def qwen(config_class, model_class, processor_class, videos, tower, head=(8, 4, 4), patch=14):
    """A Qwen-VL of any generation."""
    names = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    names |= {"vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>"}
    words = tokenizer(**names)
    rope = {"rope_type": "default", "mrope_section": list(head), "rope_theta": 1e4}
    rope |= {"mrope_interleaved": True} if patch == 16 else {}  # Qwen3-VL; vLLM reads it of any
    config = config_class(
        text_config={**TEXT, "rope_parameters": rope},
        vision_config={**QWEN_TOWER, "patch_size": patch, **tower},
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
        vision_start_token_id=words.vision_start_token_id,
        vision_end_token_id=words.vision_end_token_id,
        tie_word_embeddings=False,
    )
    limits = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 64}
    images = Qwen2VLImageProcessor(size=limits, patch_size=patch)
    processor = processor_class(images, words, videos(size=limits, patch_size=patch), chat_template=None)
    return model_class(config), processor, "<|vision_start|><|image_pad|><|vision_end|>"


def qwen2():
    """Qwen2-VL."""
    tower = {"embed_dim": 64, "hidden_size": 128, "mlp_ratio": 2}
    return qwen(
        Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor, Qwen2VLVideoProcessor, tower
    )


def qwen2_5():
    """Qwen2.5-VL."""
    tower = {"hidden_size": 64, "intermediate_size": 128, "out_hidden_size": 128, "window_size": 112}
    tower |= {"fullatt_block_indexes": [1]}
    return qwen(
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLVideoProcessor,
        tower,
    )


def qwen3():
    """Qwen3-VL, whose tower also gives rows for two later layers."""
    tower = {"hidden_size": 64, "intermediate_size": 128, "out_hidden_size": 128}
    tower |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    return qwen(
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
        tower,
        (6, 5, 5),
        16,
    )


FAMILIES = {
    "llava_clip": llava_clip,
    "llava_siglip": llava_siglip,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "qwen2": qwen2,
    "qwen2_5": qwen2_5,
    "qwen3": qwen3,
    "internvl": internvl,
    "gemma": gemma,
}


def build(folder, family):
    """Write a model with its processor into `folder`; return both, and the text that stands for an image."""
    import torch

    torch.manual_seed(0)
    model, processor, mark = FAMILIES[family]()
    model = _uneven(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("image_newline"):
                weight.normal_(0, 0.5)
        model.lm_head.weight[: len(SPECIAL) + 8] = 0  # never say a special token
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor, mark
