"""The reference model: an ordinary ``LlavaForConditionalGeneration`` of about five million parameters."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from analysis.scenes import GRID, IMAGE, PATCH, WORDS
from analysis.scenes.questions import COLUMNS, ROWS

SPECIAL = (
    "<pad>",
    "<s>",
    "<unk>",
    "</s>",
    "<image>",
)  # CLIP's text model takes an end of id 2 for a legacy mark
VOCABULARY = (*SPECIAL, *WORDS)
PAD, BOS, UNK, EOS, IMAGE_TOKEN = range(len(SPECIAL))
WIDTH = 256
CAPTION = 32  # words of a caption, at the most
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25


def config() -> LlavaConfig:
    """Return the configuration of the reference model."""
    vision = CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=3,
        image_size=IMAGE,
        patch_size=PATCH,
        projection_dim=128,
    )
    text = LlamaConfig(
        vocab_size=-(-len(VOCABULARY) // 8) * 8,
        hidden_size=WIDTH,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE_TOKEN,
        image_seq_length=GRID * GRID,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        pad_token_id=PAD,
        tie_word_embeddings=True,
    )


def joint_config() -> CLIPConfig:
    """Return the joint space of the vision tower and a small text tower."""
    text = CLIPTextConfig(
        vocab_size=config().text_config.vocab_size,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CAPTION,
        projection_dim=128,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    return CLIPConfig(
        text_config=text.to_dict(), vision_config=config().vision_config.to_dict(), projection_dim=128
    )


def build_joint(seed: int, model: LlavaForConditionalGeneration) -> CLIPModel:
    """Return a freshly initialised CLIP around the vision tower of ``model``, whose weights it shares."""
    with torch.random.fork_rng():
        torch.random.manual_seed(seed + 1)
        joint = CLIPModel(joint_config())
    joint.vision_model = getattr(model.model.vision_tower, "vision_model", model.model.vision_tower)
    return joint


def build(seed: int) -> LlavaForConditionalGeneration:
    """Return a freshly initialised model; word embeddings start as unit-norm codes (see ``codes.py``)."""
    with torch.random.fork_rng():
        torch.random.manual_seed(seed)
        model = LlavaForConditionalGeneration(config())
        embedding = model.get_input_embeddings().weight
        torch.nn.init.normal_(embedding, std=WIDTH**-0.5)
        for layer in model.model.language_model.layers:
            _mimetic(layer)
    model.generation_config.update(
        eos_token_id=EOS, pad_token_id=PAD, bos_token_id=BOS, max_new_tokens=8, do_sample=False
    )
    return model


def name_places(model: LlavaForConditionalGeneration, tokens: torch.Tensor) -> None:
    """Start the words for rows and columns of patches, in place, along what the visual tokens (N, 144, 256) there have in common.

    Like attends to like (see `_mimetic`), so that these words find their patches from the first step on.
    """
    grid = tokens.float().mean(0).reshape(GRID, GRID, -1)
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        for names, means in ((ROWS, grid.mean(1)), (COLUMNS, grid.mean(0))):
            apart = torch.nn.functional.normalize(means - means.mean(0), dim=-1)
            embedding[[VOCABULARY.index(name) for name in names]] = apart.to(embedding.dtype)


def _mimetic(layer) -> None:
    """Start attention where trained attention ends up: like attends to like, and what is attended to is copied.

    Query and key maps are equal, so that the logit of two tokens begins as their similarity; the output map undoes the
    value map (Trockman & Kolter, Mimetic initialization of self-attention layers, ICML 2023). A word of the question
    then looks at the visual tokens that carry its code from the first step on; from the usual small random maps the
    model sat at guessing for hundreds of thousands of questions.
    """
    attention, mlp = layer.self_attn, layer.mlp
    torch.nn.init.normal_(attention.q_proj.weight, std=WIDTH**-0.5)
    with torch.no_grad():
        attention.k_proj.weight.copy_(attention.q_proj.weight)
        torch.nn.init.orthogonal_(attention.v_proj.weight)
        attention.o_proj.weight.copy_(0.5 * attention.v_proj.weight.T)
    for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj):
        torch.nn.init.normal_(part.weight, std=0.7 * part.in_features**-0.5)


def tokenizer(captions: bool = False) -> PreTrainedTokenizerFast:
    """Return a tokenizer of one token a word, padded on the left; the text tower's has ``</s>`` at its end and is padded on the right."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if captions else "<s> $A", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="right" if captions else "left",
        model_max_length=CAPTION if captions else None,
    )


def processor() -> LlavaProcessor:
    """Return the word tokenizer and image processor: ``processor(images=[...], text=["<image> what is behind ?"])``."""
    pixels = CLIPImageProcessorPil(
        do_resize=True,
        size={"height": IMAGE, "width": IMAGE},
        do_center_crop=False,
        do_convert_rgb=True,
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )
    return LlavaProcessor(
        image_processor=pixels,
        tokenizer=tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
