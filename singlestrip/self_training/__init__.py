"""Self-training: rounds of strip, score, select, fit and fine-tune on scans that nobody labelled."""
