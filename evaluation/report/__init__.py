"""The report: one self-contained HTML page about a run, with its charts drawn inline."""

from evaluation.report.page import Report, render

__all__ = ["Report", "render"]
