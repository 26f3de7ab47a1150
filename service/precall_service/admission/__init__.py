"""Decides which turns may run: turns, not their steps, are admitted to the engine.

A turn is admitted once the engine has a free slot and enough free KV cache for the size that the
turn is expected to reach. Afterwards its steps never queue behind other turns, and its prefix is
not evicted while its tools run.
"""

from __future__ import annotations

from precall_service.admission.admission import Admission, AdmissionLimits, Capacity, Share
from precall_service.admission.growth import GrowthRecord

__all__ = ["Admission", "AdmissionLimits", "Capacity", "GrowthRecord", "Share"]
