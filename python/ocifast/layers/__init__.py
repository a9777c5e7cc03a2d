"""Layers that are made here: of files of this machine, or of tars that a user brings."""
