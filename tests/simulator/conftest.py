"""Async tests in this folder run in virtual time, unless they are marked `real_time` because they use sockets."""

import asyncio
import inspect

import pytest

from exporter.simulator import run_virtual


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real_time: run this coroutine on an ordinary event loop")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(test).parameters}
    run = asyncio.run if pyfuncitem.get_closest_marker("real_time") else run_virtual
    run(test(**arguments))
    return True
