"""Shared: an untrained model of the reference architecture, saved once a session."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    from analysis.training import model, train

    folder = tmp_path_factory.mktemp("untrained")
    train.save(model.build(3), folder)
    return folder
