"""Turn conversations into a model's inputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from vlm_bridge.errors import BridgeError

Conversation = Sequence[Mapping[str, Any]]
"""Messages of the form ``{"role": ..., "content": [{"type": "image", "image": ...}, {"type": "text", "text": ...}, ...]}``."""


def question(images: Sequence[Any], text: str) -> Conversation:
    """Make a conversation of one message: images, then text.

    >>> question([], "What is shown?")
    [{'role': 'user', 'content': [{'type': 'text', 'text': 'What is shown?'}]}]
    """
    content = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def prepare(processor: Any, conversations: Sequence[Conversation]) -> Any:
    """Process a batch of conversations into inputs, padded on the left.

    The chat template is used where there is one. Otherwise image tokens are put in front of the text of a single message,
    unless the text has them.

    Raises
    ------
    BridgeError
        There is neither template nor image token, or without a template there is a second message or a video.
    """
    template = _template(processor)
    padding = {"padding": True, "padding_side": "left"}
    if template is None:
        read = [_plain(processor, conversation) for conversation in conversations]
        images = [image for images, _ in read for image in images]
        texts = [text for _, text in read]
        return processor(images=images or None, text=texts, return_tensors="pt", **padding)
    # Newer releases of transformers take the processor's options in one argument.
    apart = "processor_kwargs" in inspect.signature(processor.apply_chat_template).parameters
    return processor.apply_chat_template(
        list(conversations),
        chat_template=template,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        **({"processor_kwargs": padding} if apart else padding),
    )


def has_template(processor: Any) -> bool:
    """Return whether prompts get the checkpoint's own frame around them."""
    return _template(processor) is not None


def _template(processor: Any) -> Any:
    own = getattr(processor, "chat_template", None)
    return own or getattr(getattr(processor, "tokenizer", None), "chat_template", None) or None


def _plain(processor: Any, conversation: Conversation) -> tuple[list[Any], str]:
    """Take images and text of one message, for a processor without a chat template."""
    name, token = type(processor).__name__, getattr(processor, "image_token", None)
    if token is None:
        raise BridgeError(f"{name} has neither a chat template nor an image token: expected one of them.")
    content = [item for message in conversation for item in message["content"]]
    if len(conversation) > 1 or any(item["type"] not in ("image", "text") for item in content):
        raise BridgeError(f"{name} has no chat template: expected one message, of images and text.")
    images = [item["image"] for item in content if item["type"] == "image"]
    text = "\n".join(item["text"] for item in content if item["type"] == "text")
    return images, text if token in text else f"{token} " * len(images) + text
