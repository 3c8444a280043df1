"""The stages of a dose calculation on a device; base.py is the seam."""
