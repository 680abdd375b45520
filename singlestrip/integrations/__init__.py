"""The command line in other systems: nipype, Boutiques and containers."""
