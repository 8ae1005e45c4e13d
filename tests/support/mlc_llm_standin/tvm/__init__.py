"""As much of TVM as is asked for its version."""

import os

__version__ = os.environ.get("STAND_IN_TVM", "0.27.0")


class support:  # noqa: N801
    @staticmethod
    def libinfo() -> dict[str, str]:
        return {"GIT_COMMIT_HASH": "0123456789abcdef0123"}
