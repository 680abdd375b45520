"""The program singlestrip-container: runs singlestrip in a container of docker, podman, apptainer or singularity.

The modules use the standard library of Python 3.6 and nothing else of singlestrip, so that the program also runs
on machines that have only Python and an engine. bin/pack-container packs them into one file.
"""
