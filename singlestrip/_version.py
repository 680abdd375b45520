"""The version of singlestrip. The package's metadata and everything else that states the version reads it here."""

__version__ = "0.1.0"
