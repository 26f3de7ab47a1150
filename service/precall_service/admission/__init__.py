"""Decides which turns may run: turns, not their steps, are admitted to the engine.

A turn is admitted once the engine has a free slot and enough free KV cache for the size that the
turn is expected to reach. Afterwards its steps never queue behind other turns, and its prefix is
not evicted while its tools run. Before that its prompt is made, which is a stage of its own.
"""

from __future__ import annotations

from precall_service.admission.admission import Admission, Capacity
from precall_service.admission.fair_stage import FairStage
from precall_service.admission.growth import GrowthRecord
from precall_service.admission.limits import AdmissionLimits
from precall_service.admission.share import Share

__all__ = ["Admission", "AdmissionLimits", "Capacity", "FairStage", "GrowthRecord", "Share"]
