"""The command line in other systems: nipype and Boutiques."""
