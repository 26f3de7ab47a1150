"""Which turn may run: turns, not their steps, are admitted to the engine.

A turn is let in while a slot of the engine's batch and the KV cache that the turn is expected to
grow to are there. Once in, none of its steps queues behind a stranger, and nothing evicts its
prefix while its tools run.
"""

from __future__ import annotations

from precall_service.admission.admission import Admission, AdmissionLimits, Capacity, Share
from precall_service.admission.growth import GrowthRecord

__all__ = ["Admission", "AdmissionLimits", "Capacity", "GrowthRecord", "Share"]
