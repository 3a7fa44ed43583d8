"""Handlers that are found by where they are, not by a name."""

import subprocess  # noqa: F401 - not ours: by_path.subprocess.Popen must not be found
