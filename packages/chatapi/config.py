"""Where the source of chatapi is: the root of the repository that holds this folder.

Run by jetson-containers (jetson_containers/packages.py, config_package), which puts `package` into this module. Its
builds have the package's own folder as context, so the source comes as a second one (buildx's `--build-context`).
"""

import shlex
from pathlib import Path

root = Path(package["path"]).resolve().parents[1]
package["build_flags"] = f"--build-context source={shlex.quote(str(root))}"
