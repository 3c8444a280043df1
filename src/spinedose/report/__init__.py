"""Reports and pictures of a computed dose."""

from __future__ import annotations

from spinedose.report.html import write_html
from spinedose.report.pdf import write_pdf

__all__ = ["write_html", "write_pdf"]
