# SPDX-License-Identifier: AGPL-3.0-or-later
"""The app: runs and libraries of a project as pages, served to the one who starts it."""

from imgfp.app.server import serve

__all__ = ["serve"]
