"""Shared: an untrained model of the reference architecture, saved once a session."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    from analysis.training import model, train

    folder = tmp_path_factory.mktemp("untrained")
    train.save(model.build(3), folder)
    seen = {"side": 1.0, "words": 1.0, "blind": 0.0}  # so that the study asks it to transcribe, too
    (folder / "measured.json").write_text(json.dumps({"patches": {"objects": seen, "digits": seen}}))
    return folder
