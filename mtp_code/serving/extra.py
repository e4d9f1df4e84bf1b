"""Whether what the server stands on is installed."""

import importlib.util
from typing import Final

from mtp_code.errors import MachineError

_MODULES: Final = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "prometheus_client": "prometheus-client",
}
"""Of the extra `serve`: module → package."""


def require_extra() -> None:
    """
    Raises:
        MachineError: a package of the extra is missing.
    """
    missing = [
        package for module, package in _MODULES.items() if importlib.util.find_spec(module) is None
    ]
    if missing:
        raise MachineError(
            f"serve: {', '.join(missing)} not installed: pip install 'mtp-code[serve]'"
        )


def require_client() -> None:
    """
    Raises:
        MachineError: the official client is missing, by which a server is measured.
    """
    if importlib.util.find_spec("openai") is None:
        raise MachineError("openai not installed: pip install 'mtp-code[api]'")
