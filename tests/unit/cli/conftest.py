"""Restores the logging of the process, which commands configure, after each test."""

from __future__ import annotations

import logging
from collections.abc import Generator

import pytest

LOGGERS = ("", "precall", "precall_service", "precall_tracing", "vllm")


@pytest.fixture(autouse=True)
def logging_as_before() -> Generator[None]:
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers = handlers
