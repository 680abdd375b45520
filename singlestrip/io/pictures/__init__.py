"""What people look at: figures, and the QC page."""
