"""What is left of a prompt when relevance is measured."""

import pytest
import torch
from tiny_vlm import tiny_inputs

from vlm_bridge import BridgeError, clean_prompt, content_words, prune


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("What is this?", "What is this?"),
        (
            "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
            "helpful, detailed, and polite answers to the human's questions. USER: \nIs it red?\nAnswer the "
            "question using a single word or phrase. ASSISTANT:",
            "Is it red?",
        ),
        ("<|im_start|>user\nIs the user: here?<|im_end|>\n<|im_start|>assistant\n", "Is the user: here?"),
        ("user: Is it here?\nassistant:", "Is it here?"),
        ("Please answer yes or no. Is the dog black?", "Is the dog black?"),
        ("What system: none", "What system: none"),
    ],
)
def test_clean_prompt(text, cleaned):
    assert clean_prompt(text) == cleaned


def test_content_words():
    assert content_words("USER: What is the colour of the cup?\nPlease answer yes or no.") == "colour cup"
    assert content_words("What is it?") == "What is it?"


def test_clean_reaches_both_spaces(llava, clip, tokenizer):
    """The signal is that of the cleaned text alone."""
    inputs = tiny_inputs(llava, (1,), (4,))
    read = []

    def clean(text):
        read.append(text)
        return "w20 w21"

    for method, name in (("resprune", "llm_text"), ("cdpruner", "clip_text")):
        words = torch.tensor([20, 21])
        if name == "llm_text":
            given = {name: llava.get_input_embeddings()(words).detach()}
        else:
            ids = torch.tensor([[1, 20, 21, 2]])
            with torch.no_grad():
                found = clip[0].get_text_features(input_ids=torch.nn.functional.pad(ids, (0, 4)))
            given = {name: found if isinstance(found, torch.Tensor) else found.pooler_output}
        options = {"clip": clip, "processor": tokenizer}
        with prune(llava, 5, method, clean=clean, **options) as one, torch.no_grad():
            llava(**inputs)
        with prune(llava, 5, method, **options, **given) as other, torch.no_grad():
            llava(**inputs)
        assert torch.equal(one.kept[0], other.kept[0])
    assert read
    assert all(text.startswith("w") for text in read)


def test_clean_needs_a_reader_and_leaves_something(llava, tokenizer):
    inputs = tiny_inputs(llava, (1,), (4,))
    with prune(llava, 5, "resprune", clean=str), pytest.raises(BridgeError, match="pass processor="):
        llava(**inputs)
    empty = prune(llava, 5, "resprune", clean=lambda text: " ", processor=tokenizer)
    with empty, pytest.raises(BridgeError, match="left nothing"):
        llava(**inputs)
    with pytest.raises(BridgeError, match="expected a function"), prune(llava, 5, clean="all"):
        pass
