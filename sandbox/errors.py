"""The one error that is the machine's fault."""


class SandboxUnavailable(Exception):  # noqa: N818 - it says what is wrong
    """Containment cannot hold on this machine; nothing was run.

    ``str()`` is one line: what does not hold, and what to do about it.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"sandbox: {reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy
