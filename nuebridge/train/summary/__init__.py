"""The summary of a run: one page, drawn from the run's record, that needs nothing else to be looked at."""

from nuebridge.train.summary.page import SUMMARY_FILE, short_count, write_summary

__all__ = ["SUMMARY_FILE", "short_count", "write_summary"]
