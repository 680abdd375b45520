"""Text files: lines, tables, JSON, and values of known types."""
