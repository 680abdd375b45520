"""The public path of the nipype interfaces: `from singlestrip.nipype_interfaces import Quality, Strip`."""

from .integrations.nipype import Quality, Strip

__all__ = ["Quality", "Strip"]
