"""Widgets on Colab, whose pages draw them only after the kernel has asked for a widget manager."""

from __future__ import annotations

import sys
from functools import cache


@cache
def enable_widgets() -> bool:
    """Asks Colab's page for its widget manager, once a kernel; False where this is not Colab (or one without it)."""
    if "google.colab" not in sys.modules:  # Colab's kernel has imported it before the first cell
        return False
    try:
        from google.colab import output

        output.enable_custom_widget_manager()
    except (ImportError, AttributeError):
        return False  # the page draws the standard controls in its own way, or shows the still picture
    return True
