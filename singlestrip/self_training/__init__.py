"""Rounds of strip, score, select, fit, fine-tune on scans that nobody labelled."""
