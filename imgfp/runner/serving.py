# SPDX-License-Identifier: AGPL-3.0-or-later
"""JupyterLab for the one who starts it: on loopback, with a token and a limit of kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.web import HTTPError

from imgfp.store import project_path

#: Kernels that one server keeps at a time; each holds some 100 MB, more with the tables of a large run.
MAX_KERNELS = 8
#: Seconds after which a kernel is ended that no page is connected to.
IDLE_S = 3600


def lab() -> None:
    """Serve the project's notebooks in JupyterLab until it is stopped. Raises FileNotFoundError."""
    from jupyterlab.labapp import LabApp

    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.root_dir": project_path(""),
        # The Host of a request must be this machine, so that no other site's name can lead here.
        "ServerApp.allow_remote_access": False,
        "ServerApp.kernel_manager_class": f"{__name__}.BoundedKernels",
        "MappingKernelManager.cull_idle_timeout": IDLE_S,
        "MappingKernelManager.cull_interval": 60,
        # Voila, a part of JupyterLab where it is installed, serves pictures below the folder without a token.
        "VoilaConfiguration.file_denylist": ".*",
    }
    # Options of a command line count more than a user's configuration files.
    words = [f"--{name}={value}" for name, value in options.items()]
    LabApp.launch_instance([str(_notebook("01_images")), *words])


def _notebook(name: str) -> Path:
    path = project_path("notebooks") / f"{name}.ipynb"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; `imgfp init DIR` lays out a project")
    return path


class BoundedKernels(AsyncMappingKernelManager):
    """Kernels of a server, not more than `MAX_KERNELS`; one more is answered by status 503."""

    _starting = 0

    async def start_kernel(self, **options: Any) -> str:  # type: ignore[override]
        if len(self) + self._starting >= MAX_KERNELS:
            raise HTTPError(503, f"{MAX_KERNELS} kernels run", reason="Too many open notebooks")
        self._starting += 1
        try:
            return await super().start_kernel(**options)
        finally:
            self._starting -= 1
