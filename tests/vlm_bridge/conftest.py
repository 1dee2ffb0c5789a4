"""Models are built once per test run: tests borrow them, `untouched` checks that they came back unchanged."""

import pytest
import tiny_vlm
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Reproducible sums, and room for others on a small machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def models():
    found = {family: tiny_vlm.tiny_model(family) for family in tiny_vlm.FAMILIES}
    for model in found.values():
        tiny_vlm.tiny_inputs(model)  # transformers hooks the vision tower on first use, and leaves it so
    return found


@pytest.fixture
def llava(models):
    return models["llava"]


@pytest.fixture(scope="session")
def clip():
    return tiny_vlm.tiny_clip()


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_vlm.tiny_tokenizer()


def _state(model):
    hooks = {
        name: [
            len(getattr(m, slot))
            for slot in ("_forward_pre_hooks", "_forward_hooks", "_forward_hooks_always_called")
        ]
        for name, m in model.named_modules()
    }
    weights = [p.detach().clone() for p in model.parameters()]
    names = set(vars(model)) - {"_previous_max_cache_length"}  # transformers' own note after a static cache
    return hooks, names, {k: v for k, v in vars(type(model)).items() if callable(v)}, weights


@pytest.fixture(autouse=True)
def untouched(request):
    """Every test leaves the shared models as they were: attributes, hooks, class, weights."""
    found = {}
    if "models" in request.fixturenames or "llava" in request.fixturenames:
        found = dict(request.getfixturevalue("models"))
    before = {name: _state(model) for name, model in found.items()}
    yield
    for name, model in found.items():
        hooks, names, methods, weights = _state(model)
        assert hooks == before[name][0]
        assert names == before[name][1]
        assert methods == before[name][2]
        assert all(torch.equal(a, b) for a, b in zip(weights, before[name][3], strict=True))
