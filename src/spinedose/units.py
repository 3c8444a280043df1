"""Units inside spinedose: cm, g, MeV, Gy, degrees, monitor units (MU). Everything else is converted at the border."""

from __future__ import annotations

CM_PER_MM = 0.1
MM_PER_CM = 10.0

GY_PER_MEV_PER_G = 1.602176634e-10
"""1 MeV/g in Gy; exact, from the elementary charge (SI Brochure, 9th edition, 2019)."""
